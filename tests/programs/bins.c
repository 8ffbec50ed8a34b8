// 40 lost frames whose neighbours were freed: glibc's bins hold the address of the chunk header behind each frame, which
// lies in the frame's last word.
#include "truth.h"

enum { FRAMES = 40 };
static int clean;

static void build(void *unused)
{
    AVFrame *frames[FRAMES];
    void *neighbours[FRAMES], *walls[FRAMES];
    (void)unused;
    for (int i = 0; i < FRAMES; i++) {
        frames[i] = frame_shell();
        neighbours[i] = malloc(1500 + 16 * (size_t)(i % 3));
        walls[i] = malloc(24);
        if (!neighbours[i] || !walls[i])
            truth_die("malloc");
    }
    for (int i = 0; i < FRAMES; i++)
        free(neighbours[i]);
    free(malloc(200000)); // sorts what was freed into the bins
    if (clean)
        for (int i = 0; i < FRAMES; i++)
            av_frame_free(&frames[i]);
    else
        truth.frames = FRAMES;
    for (int i = 0; i < FRAMES; i++)
        free(walls[i]);
    free(malloc(200000));
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    hide(build, NULL);
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}
