// Children by other means: fork_exec | vfork | spawn start this program again as `leaf`, which loses one frame; the parent
// loses two. `exec` replaces itself by `leaf` after use.
#include <spawn.h>
#include <sys/wait.h>

#include "truth.h"

extern char **environ;

static void lose(void *count)
{
    for (long i = 0; i < (long)count; i++)
        frame_will_be_lost(frame_with_pixels(i));
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "fork_exec";
    char *leaf[] = { argv[0], "leaf", NULL };
    pid_t child = -1;
    int status;
    if (!strcmp(mode, "leaf")) {
        hide(lose, (void *)1);
        truth.definitely.frames = truth.frames;
        truth_print();
        return 0;
    }
    hide(lose, (void *)2);
    if (!strcmp(mode, "exec")) {
        // This image's memory is gone before anyone can look at it: its losses cannot be told, and it is not clean.
        truth.exec = 1;
        truth.frames = truth.pinned_bytes = 0;
        truth.verdict = "not clean";
        truth_print();
        execv("/proc/self/exe", leaf);
        truth_die("execv");
    } else if (!strcmp(mode, "vfork")) {
        if ((child = vfork()) == 0) {
            execv("/proc/self/exe", leaf);
            _exit(98);
        }
    } else if (!strcmp(mode, "vfork_exit")) {
        if ((child = vfork()) == 0)
            _exit(0);
    } else if (!strcmp(mode, "spawn")) {
        if (posix_spawn(&child, "/proc/self/exe", NULL, NULL, leaf, environ))
            truth_die("posix_spawn");
    } else if ((child = fork()) == 0) {
        execv("/proc/self/exe", leaf);
        _exit(98);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status)
        truth_die("the child");
    hide(lose, (void *)1);
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}
