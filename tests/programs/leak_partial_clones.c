// Clones for four outputs: when the third fails, the two that were made already are forgotten.
#include "truth.h"

enum { OUTPUTS = 4 };
static int clean;

NOINLINE static int fan_out(const AVFrame *source, int fail_at, AVFrame *outputs[OUTPUTS])
{
    for (int i = 0; i < OUTPUTS; i++) {
        // One call, one stack: gcc 10 would make two of it, the first for i = 0.
        __asm__ volatile("" : "+r"(i));
        if (i == fail_at) {
            if (clean)
                for (int j = 0; j < i; j++)
                    av_frame_free(&outputs[j]);
            return -1; // the bug: outputs[0..i]
        }
        outputs[i] = frame_cloned(source);
    }
    return 0;
}

static void stream(void *unused)
{
    (void)unused;
    for (int64_t pts = 0; pts < 10; pts++) {
        AVFrame *outputs[OUTPUTS] = { NULL };
        AVFrame *source = frame_with_pixels(pts);
        if (fan_out(source, pts == 6 ? 2 : -1, outputs) == 0) {
            for (int i = 0; i < OUTPUTS; i++)
                av_frame_free(&outputs[i]);
        } else if (!clean) {
            truth.frames += 2; // both refer to the one set of buffers
            truth.pinned_bytes += frame_bytes(source);
        }
        av_frame_free(&source);
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
