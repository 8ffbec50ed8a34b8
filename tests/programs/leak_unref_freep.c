// av_frame_unref is forgotten: the frame's struct is freed with av_freep, and its refs are lost.
#include <libavutil/mem.h>

#include "truth.h"

static int clean;

static void show(void *unused)
{
    AVFrame *frame = frame_with_pixels(9);
    (void)unused;
    if (clean) {
        av_frame_unref(frame);
    } else {
        for (int i = 0; i < AV_NUM_DATA_POINTERS && frame->buf[i]; i++)
            truth.buffer_refs++;
        truth.pinned_bytes += frame_bytes(frame);
    }
    av_freep(&frame);
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    for (int i = 0; i < 3; i++)
        hide(show, NULL);
    truth.definitely.frames = 0;
    truth_print();
    return 0;
}
