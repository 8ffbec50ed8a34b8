// Of a batch of eight frames only the first five are freed.
#include "truth.h"

enum { BATCH = 8 };
static int clean;

static void one_batch(void *unused)
{
    AVFrame *batch[BATCH];
    (void)unused;
    for (int i = 0; i < BATCH; i++)
        batch[i] = frame_with_pixels(i);
    for (int i = 0; i < (clean ? BATCH : 5); i++)
        av_frame_free(&batch[i]);
    for (int i = 0; i < BATCH; i++)
        if (batch[i])
            frame_will_be_lost(batch[i]);
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    // One call site: unrolled, the three would be three stacks.
    for (volatile int i = 0; i < 3; i++)
        hide(one_batch, NULL);
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}
