// One lost ref of a pooled buffer keeps the whole pool alive after av_buffer_pool_uninit.
#include "truth.h"

static int clean;

static void stream(void *unused)
{
    enum { SIZE = 640 * 360 * 3 / 2 };
    AVFrame *frame = frame_with_pixels(0); // what is measured lies beside real frames
    AVBufferPool *pool = av_buffer_pool_init(SIZE, NULL);
    AVBufferRef *held[6];
    (void)unused;
    for (int i = 0; i < 6; i++)
        if (!(held[i] = av_buffer_pool_get(pool)))
            truth_die("av_buffer_pool_get");
    for (int i = 0; i < 6; i++)
        if (i != 2 || clean)
            av_buffer_unref(&held[i]);
    if (!clean) {
        truth.buffer_refs = 1;
        truth.pinned_bytes = SIZE;
    }
    av_buffer_pool_uninit(&pool);
    av_frame_free(&frame);
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    hide(stream, NULL);
    truth.definitely.frames = 0;
    truth_print();
    return 0;
}
