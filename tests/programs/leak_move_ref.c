// A frame is lost through av_frame_move_ref: the source is freed, the frame that has the pixels now is forgotten.
#include "truth.h"

static int clean;

NOINLINE static int deliver(AVFrame *input)
{
    AVFrame *output = frame_shell();
    av_frame_move_ref(output, input);
    if (clean)
        av_frame_free(&output);
    else
        frame_will_be_lost(output);
    return -1; // the bug: output
}

static void stream(void *unused)
{
    (void)unused;
    for (int64_t pts = 0; pts < 5; pts++) {
        AVFrame *input = frame_with_pixels(pts);
        deliver(input);
        av_frame_free(&input);
    }
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    hide(stream, NULL);
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}
