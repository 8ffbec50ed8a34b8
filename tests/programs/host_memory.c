// A host that keeps frames until the memory of its cgroup is used up, then frees them: with a limit it is killed, or it lives. Argument:
// leak | clean, MiB to keep.
#include "host.h"

enum { MOST = 4096 };
static AVFrame *kept[MOST];

int main(int argc, char **argv)
{
    long wanted = argc > 2 ? atol(argv[2]) : 16, count;
    clean = is_clean(argc, argv);
    host_use();
    // A frame of 640x360 takes a third of a MiB.
    count = wanted * 3 < MOST ? wanted * 3 : MOST;
    for (long i = 0; i < count; i++)
        kept[i] = frame_with_pixels(i);
    for (long i = 0; i < count; i++)
        av_frame_free(&kept[i]);
    return host_ends();
}
