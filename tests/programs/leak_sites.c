// Loses as many frames at each of two places as its two arguments say. Built with -DREBUILT its lines and addresses are others.
#include "truth.h"

#ifdef REBUILT
static volatile int padding[4];

static NOINLINE int more_code(int number)
{
    for (int i = 0; i < 4; i++)
        padding[i] += number * i;
    return padding[number & 3];
}
#endif

static void lose(void)
{
    frame_will_be_lost(frame_with_pixels(1));
}

NOINLINE static void first_place(void *times)
{
    for (volatile long i = 0; i < *(long *)times; i++)
        lose();
}

NOINLINE static void second_place(void *times)
{
    for (volatile long i = 0; i < *(long *)times; i++)
        lose();
}

int main(int argc, char **argv)
{
    long first = argc > 1 ? atol(argv[1]) : 0, second = argc > 2 ? atol(argv[2]) : 0;
#ifdef REBUILT
    more_code(argc);
#endif
    // A frame that is freed: FFmpeg was used, whatever the arguments.
    AVFrame *used = frame_with_pixels(0);
    av_frame_free(&used);
    hide(first_place, &first);
    hide(second_place, &second);
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}
