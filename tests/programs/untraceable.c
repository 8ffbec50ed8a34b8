// A process that may not be traced: PR_SET_DUMPABLE 0, as programs with secrets do.
#include <sys/prctl.h>

#include "truth.h"

static void lose(void *unused)
{
    (void)unused;
    frame_will_be_lost(frame_with_pixels(1));
    frame_will_be_lost(frame_with_pixels(2));
}

int main(void)
{
    if (prctl(PR_SET_DUMPABLE, 0))
        truth_die("prctl");
    hide(lose, NULL);
    truth.verdict = "not clean";
    truth_print();
    return 0;
}
