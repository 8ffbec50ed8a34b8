// The frame is freed, but a lost AVBufferRef pins its first plane.
#include "truth.h"

static int clean;

static void thumbnail(void *unused)
{
    AVFrame *frame = frame_with_pixels(1);
    AVBufferRef *luma = av_buffer_ref(frame->buf[0]);
    (void)unused;
    if (clean) {
        av_buffer_unref(&luma);
    } else {
        truth.buffer_refs++;
        truth.pinned_bytes += (long)luma->size;
    }
    av_frame_free(&frame);
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    for (int i = 0; i < 4; i++)
        hide(thumbnail, NULL);
    truth.definitely.frames = 0;
    truth_print();
    return 0;
}
