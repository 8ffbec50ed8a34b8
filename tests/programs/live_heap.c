// A big process that runs until SIGTERM: so much of frames, so much of small blocks that lead to each other, and so many threads that keep
// replacing both. With each SIGUSR1 three frames are lost, of which it says how many there are by then.
//
// A thread of its own reads the clock again and again: what it says of gaps is for how long the process stood still, and for how long the
// machine had no processor for it.
//
// Arguments: THREADS, MiB of frames, MiB of small blocks.
#include "truth.h"

#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

enum { LOST = 3, MOST_THREADS = 256, SMALL = 256, BATCH = 16, TICK_US = 50, GAP_MS = 1 };
// One for all threads together: then the machine has processors to spare, and what is measured is not the queue for them.
enum { ROUND_US = 4000 };

struct block {
    struct block *next, *other;
    unsigned char rest[];
};

static struct {
    AVFrame **frames;
    struct block **blocks;
    long frame_count, block_count, threads;
} held;
static atomic_int stop;

static struct block *make_block(unsigned number, struct block *next)
{
    struct block *block = malloc(sizeof *block + 16 + number * 40503u % (2 * SMALL - 32));
    if (!block)
        truth_die("malloc");
    block->next = next;
    block->other = NULL;
    return block;
}

// Each thread has a share of its own, so that none waits for another.
static void *work(void *argument)
{
    long me = (long)argument;
    long first_frame = held.frame_count * me / held.threads, frames = held.frame_count * (me + 1) / held.threads - first_frame;
    long first_block = held.block_count * me / held.threads, blocks = held.block_count * (me + 1) / held.threads - first_block;
    for (unsigned round = 0; !atomic_load(&stop); round++) {
        AVFrame **frame = &held.frames[first_frame + round % frames];
        av_frame_free(frame);
        *frame = frame_with_pixels(round);
        for (int i = 0; i < BATCH; i++) {
            struct block **place = &held.blocks[first_block + (round * BATCH + (unsigned)i) * 7919ul % (unsigned long)blocks];
            struct block *next = (*place)->next;
            free(*place);
            *place = make_block(round + (unsigned)i, next);
        }
        usleep((useconds_t)(ROUND_US * held.threads));
    }
    return NULL;
}

static double seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void *read_clock(void *unused)
{
    (void)unused;
    for (double last = seconds(CLOCK_MONOTONIC); !atomic_load(&stop);) {
        usleep(TICK_US);
        double now = seconds(CLOCK_MONOTONIC), gap = (now - last) * 1e3;
        if (gap > GAP_MS) {
            printf("{\"gap\":{\"at\":%.6f,\"ms\":%.3f}}\n", seconds(CLOCK_REALTIME) - gap / 1e3, gap);
            fflush(stdout);
            now = seconds(CLOCK_MONOTONIC);
        }
        last = now;
    }
    return NULL;
}

// In a thread of its own: what its stack still says goes with it.
static void *lose(void *unused)
{
    (void)unused;
    for (volatile int i = 0; i < LOST; i++)
        frame_will_be_lost(frame_with_pixels(i));
    return NULL;
}

static void fill(long frame_mib, long block_mib)
{
    long frame_bytes = FIXTURE_WIDTH * FIXTURE_HEIGHT * 3 / 2;
    held.frame_count = (frame_mib << 20) / frame_bytes + held.threads;
    held.block_count = (block_mib << 20) / SMALL + held.threads;
    held.frames = calloc((size_t)held.frame_count, sizeof *held.frames);
    held.blocks = calloc((size_t)held.block_count, sizeof *held.blocks);
    if (!held.frames || !held.blocks)
        truth_die("calloc");
    for (long i = 0; i < held.frame_count; i++)
        held.frames[i] = frame_with_pixels(i);
    // Half of them hang on another one only.
    for (long i = 0; i < held.block_count; i++)
        held.blocks[i] = make_block((unsigned)i, i % 2 ? NULL : make_block((unsigned)i + 1, NULL));
}

static void start(pthread_t *thread, void *(*routine)(void *), void *argument)
{
    if (pthread_create(thread, NULL, routine, argument))
        truth_die("pthread_create");
}

int main(int argc, char **argv)
{
    int signal;
    sigset_t set;
    pthread_t all[MOST_THREADS], clock;
    if (argc != 4 || (held.threads = atol(argv[1])) < 1 || held.threads > MOST_THREADS)
        truth_die("reading the arguments");
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    // Pictures come from the kernel and go back to it, as large ones do: the process stays as big as it was.
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
    fill(atol(argv[2]), atol(argv[3]));
    for (long i = 0; i < held.threads; i++)
        start(&all[i], work, (void *)i);
    start(&clock, read_clock, NULL);
    printf("ready %d\n", (int)getpid());
    fflush(stdout);
    while (!sigwait(&set, &signal) && signal == SIGUSR1) {
        pthread_t thread;
        start(&thread, lose, NULL);
        pthread_join(thread, NULL);
        printf("lost %ld\n", truth.frames);
        fflush(stdout);
    }
    atomic_store(&stop, 1);
    for (long i = 0; i < held.threads; i++)
        pthread_join(all[i], NULL);
    pthread_join(clock, NULL);
    truth_print();
    return 0;
}
