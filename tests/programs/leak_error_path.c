// A frame is not freed on an error path: every 7th of 21 pictures is refused and its frame forgotten.
#include "truth.h"

static int clean;

// Refuses every 7th picture.
static int overlay(const AVFrame *frame)
{
    return frame->pts % 7 == 3 ? -1 : 0;
}

NOINLINE static int show_picture(int64_t pts)
{
    AVFrame *frame = frame_with_pixels(pts);
    if (overlay(frame) < 0) {
        if (clean)
            av_frame_free(&frame);
        else
            frame_will_be_lost(frame);
        return -1; // the bug: frame
    }
    av_frame_free(&frame);
    return 0;
}

static void stream(void *unused)
{
    (void)unused;
    for (int64_t pts = 0; pts < 21; pts++)
        show_picture(pts);
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    hide(stream, NULL);
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}
