// A codec context is opened and never freed: context and private data point to each other (a cycle).
#include "truth.h"

static int clean;

static void open_decoder(void *unused)
{
    const AVCodec *codec = avcodec_find_decoder(AV_CODEC_ID_MPEG2VIDEO);
    AVCodecContext *context = avcodec_alloc_context3(codec);
    (void)unused;
    if (!codec || !context)
        truth_die("avcodec_alloc_context3");
    context->thread_count = 1;
    if (avcodec_open2(context, codec, NULL) < 0)
        truth_die("avcodec_open2");
    if (clean)
        avcodec_free_context(&context);
    else
        truth.contexts++;
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    truth.frames_unknown = 1;
    truth.pinned_bytes = -1; // what a context has in its pools is its own affair
    hide(open_decoder, NULL);
    hide(open_decoder, NULL);
    truth_print();
    return 0;
}
