// A signal handler that leaves by siglongjmp, out of the program's code or out of avleak's hooks; after each jump a frame
// is made, and must be counted.
#include <setjmp.h>

#include "truth.h"

#include "signal_handlers.h"

enum { JUMPS = 300 };
static int clean;
static sigjmp_buf again;
static volatile sig_atomic_t armed;

static void handler(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    if (!armed || !interrupted_outside_libc(context))
        return;
    armed = 0;
    siglongjmp(again, 1);
}

// Until the signal comes. A plain block that is in flight then is lost, which is the program's affair.
NOINLINE static void churn(void)
{
    for (unsigned i = 0;; i++)
        free(malloc(32 + i % 400));
}

static void jump(void *unused)
{
    static volatile int jumps;
    (void)unused;
    tick(handler, 300);
    for (jumps = 0; jumps < JUMPS; jumps++) {
        if (sigsetjmp(again, 1) == 0) {
            armed = 1;
            churn();
        }
        free(malloc(1)); // from above the frame that was left: now it is plain that the interrupted call is gone
        AVFrame *frame = frame_with_pixels(jumps);
        if (!clean && jumps % 100 == 0)
            frame_will_be_lost(frame);
        else
            av_frame_free(&frame);
    }
    tick(handler, 0);
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    hide(jump, NULL);
    truth.definitely.frames = truth.frames;
    truth.drops_allowed = 1;
    truth_print();
    return 0;
}
