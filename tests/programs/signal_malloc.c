// A signal handler that allocates and frees, coming at any moment outside libc: in avleak's own hooks too.
#include "truth.h"

#include "signal_handlers.h"

static int clean;
static volatile sig_atomic_t handled;

static void handler(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    if (!interrupted_outside_libc(context))
        return;
    void *a = malloc(77), *b = malloc(3000);
    free(a);
    free(b);
    handled++;
}

static void churn(void *unused)
{
    (void)unused;
    tick(handler, 150);
    for (int64_t i = 0; handled < 400; i++) {
        free(malloc(32 + (size_t)(i % 400)));
        if (i % 1000 == 0 && i < 20000) {
            AVFrame *frame = frame_with_pixels(i);
            if (!clean && i % 5000 == 0)
                frame_will_be_lost(frame);
            else
                av_frame_free(&frame);
        }
        if (i > 200000000)
            truth_die("waiting for signals");
    }
    tick(handler, 0);
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    hide(churn, NULL);
    truth.definitely.frames = truth.frames;
    truth.drops_allowed = 1;
    truth_print();
    return 0;
}
