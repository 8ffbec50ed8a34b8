// Valgrind's nine cases on frames that are chained through AVFrame.opaque.
#include "truth.h"

static void *volatile roots[9];

NOINLINE static AVFrame *frame_to(void *next)
{
    AVFrame *frame = frame_with_pixels(1);
    frame->opaque = next;
    return frame;
}

static void *inside(AVFrame *frame)
{
    return (char *)frame + 200;
}

static void build(void *unused)
{
    (void)unused;
    roots[0] = frame_to(NULL);                   // 1: p->A
    roots[1] = frame_to(frame_to(NULL));         // 2: p->A->B
    frame_to(NULL);                              // 3: A
    frame_to(frame_to(NULL));                    // 4: A->B
    roots[4] = inside(frame_to(NULL));           // 5: p-?->A
    roots[5] = frame_to(inside(frame_to(NULL))); // 6: p->A-?->B
    roots[6] = inside(frame_to(frame_to(NULL))); // 7: p-?->A->B
    roots[7] = inside(frame_to(inside(frame_to(NULL)))); // 8: p-?->A-?->B
    frame_to(inside(frame_to(NULL)));            // 9: A-?->B
    truth.definitely.frames = 3;
    truth.indirectly.frames = 2;
    truth.possibly.frames = 6;
    truth.reachable.frames = 4;
    truth.frames = 3; // the two indirectly lost ones hang on lost frames
}

static void build_clean(void *unused)
{
    (void)unused;
    roots[0] = frame_to(NULL);
    roots[1] = frame_to(frame_to(NULL));
    truth.definitely.frames = truth.indirectly.frames = truth.possibly.frames = 0;
    truth.reachable.frames = 3;
}

int main(int argc, char **argv)
{
    truth.pinned_bytes = -1;
    hide(is_clean(argc, argv) ? build_clean : build, NULL);
    truth_print();
    return 0;
}
