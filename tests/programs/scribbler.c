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

// The word at an offset of the segment, where it is mapped and may be written.
static volatile unsigned long *word_at(unsigned long offset)
{
    static struct part {
        unsigned long start, bytes, offset;
    } parts[64];
    static int count;
    if (!count) {
        FILE *maps = fopen("/proc/self/maps", "r");
        char line[4096];
        while (maps && count < 64 && fgets(line, sizeof line, maps)) {
            unsigned long start, stop, from;
            if (strstr(line, "/memfd:avleak") && sscanf(line, "%lx-%lx rw-s %lx", &start, &stop, &from) == 3)
                parts[count++] = (struct part){ start, stop - start, from };
        }
        if (!count)
            truth_die("the segment");
        fclose(maps);
    }
    for (int i = 0; i < count; i++)
        if (offset - parts[i].offset < parts[i].bytes)
            return (unsigned long *)(parts[i].start + offset - parts[i].offset);
    return NULL;
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
    unsigned scribbled = 0;
    for (int round = 0; round < 200; round++) {
        // docs/wire-format.md: flags and clocks of the header, records, nodes that nobody has met yet, texts, the events of the first ring.
        unsigned long places[] = {
            5 + next() % 4, 0x1000 / 8 + next() % 4096, 0x201000 / 8 + 0x10000 + next() % 65536,
            0x4201000 / 8 + 4096 + next() % 65536, 0x4602000 / 8 + next() % 8192,
        };
        for (unsigned i = 0; i < sizeof places / sizeof places[0]; i++) {
            volatile unsigned long *word = word_at(places[i] * 8);
            scribbled += word != NULL;
            if (word)
                *word = next() % 3 ? next() : ~0UL;
        }
        hide(keep_busy, NULL);
    }
    if (scribbled < 900)
        truth_die("writing over the segment");
    char done[] = "done\n";
    return write(STDOUT_FILENO, done, 5) != 5;
}
