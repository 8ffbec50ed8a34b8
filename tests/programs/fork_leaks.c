// fork without exec: parent and child report apart. both | child | parent | clean | quiet (the child does not use FFmpeg)
#include <sys/wait.h>

#include "truth.h"

static void lose(void *count)
{
    for (long i = 0; i < (long)count; i++)
        frame_will_be_lost(frame_with_pixels(i));
}

static void use(void *unused)
{
    AVFrame *frame = frame_with_pixels(0);
    (void)unused;
    av_frame_free(&frame);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "both";
    int status;
    hide(use, NULL);
    if (!strcmp(mode, "both") || !strcmp(mode, "parent"))
        hide(lose, (void *)2);
    pid_t child = fork();
    if (child < 0)
        truth_die("fork");
    if (child == 0) {
        if (!strcmp(mode, "quiet"))
            _exit(0);
        // The child's own story: what the parent lost before is not its doing.
        truth.frames = truth.pinned_bytes = 0;
        atomic_store(&frames_made, 0);
        hide(use, NULL);
        if (!strcmp(mode, "both") || !strcmp(mode, "child"))
            hide(lose, (void *)3);
        truth.definitely.frames = truth.frames;
        truth_print();
        _exit(0);
    }
    if (waitpid(child, &status, 0) != child || status)
        truth_die("waitpid");
    hide(use, NULL);
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}
