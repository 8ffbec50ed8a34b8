// Blocks handed over between two threads: each frees what the other made, and gets the address again at once. A free that
// seems older than its allocation would leave the block alive for good.
//
//   hand_over MILLIONS leak|clean
#include <pthread.h>
#include <time.h>

#include <libavutil/mem.h>

#include "truth.h"

enum { DEPTH = 512 }; // deep enough that a busy machine need not switch threads for every few blocks

// One direction: one thread puts, the other takes.
struct lane {
    _Alignas(64) atomic_ulong put;
    _Alignas(64) atomic_ulong taken;
    _Alignas(64) void *blocks[DEPTH];
};
static struct lane lanes[2];
static long each;
static atomic_int clean;

NOINLINE static void *handed_over(void)
{
    return malloc(48);
}

// Not sched_yield: on a busy machine a thread that yields over and over hardly runs at all.
static void rest(void)
{
    nanosleep(&(struct timespec){ 0, 20000 }, NULL);
}

static void pass(struct lane *lane, void *block)
{
    unsigned long put = atomic_load_explicit(&lane->put, memory_order_relaxed);
    while (put - atomic_load_explicit(&lane->taken, memory_order_acquire) == DEPTH)
        rest();
    lane->blocks[put % DEPTH] = block;
    atomic_store_explicit(&lane->put, put + 1, memory_order_release);
}

static int take(struct lane *lane, void **block)
{
    unsigned long taken = atomic_load_explicit(&lane->taken, memory_order_relaxed);
    if (taken == atomic_load_explicit(&lane->put, memory_order_acquire))
        return 0;
    *block = lane->blocks[taken % DEPTH];
    lane->blocks[taken % DEPTH] = NULL;
    atomic_store_explicit(&lane->taken, taken + 1, memory_order_release);
    return 1;
}

static void swap(void *number)
{
    struct lane *out = &lanes[(long)number], *in = &lanes[1 - (long)number];
    void *block;
    for (long made = 0, got = 0; got < each;) {
        // Half a lane ahead at most: then no lane is ever full, and nobody rests for each block.
        while (made < each && made - got < DEPTH / 2) {
            pass(out, handed_over());
            // One of one's own now and then, which may get the other's address and dies at once.
            if (++made % 3 == 0)
                free(handed_over());
        }
        if (!take(in, &block)) {
            rest();
            continue;
        }
        free(block);
        got++;
    }
}

static void *thread(void *number)
{
    hide(swap, number);
    return NULL;
}

static void run(void *unused)
{
    pthread_t threads[2];
    (void)unused;
    for (long i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, thread, (void *)i))
            truth_die("pthread_create");
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
}

static void frames(void *unused)
{
    (void)unused;
    for (int64_t i = 0; i < 4; i++) {
        AVFrame *frame = frame_with_pixels(i);
        if (i == 2 && !clean) {
            frame_will_be_lost(frame);
            frame = NULL;
        }
        av_frame_free(&frame);
    }
}

int main(int argc, char **argv)
{
    if (argc != 3)
        truth_die("hand_over MILLIONS leak|clean");
    each = (long)(atof(argv[1]) * 500000);
    clean = strcmp(argv[2], "clean") == 0;
    hide(frames, NULL); // FFmpeg's first allocation arms
    hide(run, NULL);
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}
