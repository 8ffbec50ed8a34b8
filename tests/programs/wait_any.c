// A host that waits for any child and counts SIGCHLD: it has one child of its own and must never see another.
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "truth.h"

static volatile sig_atomic_t sigchld;
static int clean;

static void on_sigchld(int signal)
{
    (void)signal;
    sigchld++;
}

static void use(void *unused)
{
    AVFrame *frame = frame_with_pixels(0);
    (void)unused;
    if (clean)
        av_frame_free(&frame);
    else
        frame_will_be_lost(frame);
}

int main(int argc, char **argv)
{
    int waited = 0;
    clean = is_clean(argc, argv);
    signal(SIGCHLD, on_sigchld);
    hide(use, NULL);
    if (fork() == 0)
        _exit(7);
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid > 0)
            waited++;
        else if (errno == ECHILD)
            break;
        else if (errno != EINTR)
            truth_die("waitpid");
    }
    if (waited != 1 || sigchld != 1) {
        fprintf(stderr, "fixture: %d children, %d SIGCHLD\n", waited, (int)sigchld);
        return 97;
    }
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}
