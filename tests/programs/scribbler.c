// Writes over its own event segment, as a program with a wild pointer does: events, stack nodes, module records, counters; all but what the
// library that records needs to go on itself. scribbler SEED
#include <fcntl.h>
#include <pthread.h>

#include "truth.h"

static unsigned long random_state;

static unsigned long next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

// The mapping's start, and its end.
static unsigned long *segment(unsigned long **end)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4096];
    unsigned long start = 0, stop = 0;
    while (maps && fgets(line, sizeof line, maps))
        if (strstr(line, "/memfd:avleak") && sscanf(line, "%lx-%lx", &start, &stop) == 2)
            break;
    if (!start)
        truth_die("the segment");
    fclose(maps);
    *end = (unsigned long *)stop;
    return (unsigned long *)start;
}

static void keep_busy(void *unused)
{
    (void)unused;
    for (int i = 0; i < 50; i++) {
        AVFrame *frame = frame_shell();
        av_frame_free(&frame);
    }
    frame_shell();
}

int main(int argc, char **argv)
{
    random_state = argc > 1 ? strtoul(argv[1], NULL, 0) | 1 : 1;
    hide(keep_busy, NULL);
    unsigned long *end, *words = segment(&end);
    for (int round = 0; round < 200; round++) {
        // docs/wire-format.md: flags and clocks of the header, records, nodes that nobody has met yet, the events of the first rings.
        unsigned long places[] = {
            5 + next() % 4, 0x1000 / 8 + next() % 4096, 0x201000 / 8 + 0x10000 + next() % 65536,
            0x4201000 / 8 + 512 + next() % 8192,
        };
        for (unsigned i = 0; i < sizeof places / sizeof places[0]; i++)
            if (words + places[i] < end)
                *(volatile unsigned long *)(words + places[i]) = next() % 3 ? next() : ~0UL;
        hide(keep_busy, NULL);
    }
    char done[] = "done\n";
    return write(STDOUT_FILENO, done, 5) != 5;
}
