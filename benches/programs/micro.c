// The micro-benchmark: pairs of malloc and free at the bottom of 20 functions without frame pointers, as libav is built.
// Prints one line of JSON a run, with the program's own nanoseconds a pair.
//
//     micro [--stacks same|changing|new] [--threads N] [--ms N | --pairs N] [--hold N] [--shapes N]
//           [--rbp steady|changing]
//
// same      the same 20 functions every time
// changing  one of --shapes (8192) random ways through them, drawn anew for each pair
// new       a way that was never taken before, for each pair: every stack is new
// --rbp     what lies in rbp all the way up: code without frame pointers uses it for anything, and an unwinder that takes it for a
//           part of the stack's identity takes one stack for many; default: steady for `same`, changing for the others
// --hold N  N blocks a thread stay alive, the oldest is freed; 0: a block is freed at once
//
// Each level has four functions of different frame size and call site, so that a way changes return addresses *and* stack
// pointers. Built with -DWITH_LIBAV the program makes and frees a frame first, which arms avleak; without, avleak is dormant.
// `wall_ns` and `cpu_ns` are means over all pairs (time, and CPU time of the threads); `median_ns` is the median of chunks of
// 1,024 pairs and hardly feels other processes.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef WITH_LIBAV
#include <libavutil/frame.h>
#endif

enum { DEPTH = 20, VARIANTS = 4, CHUNK = 1024, BLOCK_BYTES = 64, MAX_THREADS = 64, MAX_CHUNKS = 1 << 20, WARM_CHUNKS = 20,
       WARM_MS = 20 };

struct worker {
    void **held; // a circle of `hold` blocks
    size_t hold, next;
};

typedef uint64_t (*level_fn)(uint64_t way, struct worker *worker);
static const level_fn levels[DEPTH][VARIANTS];

static __attribute__((noinline, noclone)) uint64_t bottom(uint64_t way, struct worker *worker)
{
    char *block = malloc(BLOCK_BYTES);
    if (!block)
        abort();
    block[0] = (char)way;
    if (worker->hold) {
        free(worker->held[worker->next]);
        worker->held[worker->next] = block;
        worker->next = worker->next + 1 == worker->hold ? 0 : worker->next + 1;
    } else {
        __asm__ volatile("" : : "r"(block) : "memory");
        free(block);
    }
    return way;
}

// The pad gives each variant a frame of its own size; the addition behind the call forbids a tail call.
#define LEVEL(level, variant)                                                                                          \
    static __attribute__((noinline, noclone)) uint64_t level_##level##_##variant(uint64_t way, struct worker *worker)  \
    {                                                                                                                  \
        char pad[24 + 32 * variant + 16 * (level % 3)];                                                                \
        __asm__ volatile("" : : "r"(pad) : "memory");                                                                  \
        level_fn next = level + 1 < DEPTH ? levels[(level + 1) % DEPTH][way & 3] : bottom;                             \
        uint64_t result = next(way >> 2, worker);                                                                      \
        __asm__ volatile("" : : "r"(pad) : "memory");                                                                  \
        return result + variant + 1;                                                                                   \
    }
#define LEVELS(level) LEVEL(level, 0) LEVEL(level, 1) LEVEL(level, 2) LEVEL(level, 3)
LEVELS(0) LEVELS(1) LEVELS(2) LEVELS(3) LEVELS(4) LEVELS(5) LEVELS(6) LEVELS(7) LEVELS(8) LEVELS(9)
LEVELS(10) LEVELS(11) LEVELS(12) LEVELS(13) LEVELS(14) LEVELS(15) LEVELS(16) LEVELS(17) LEVELS(18) LEVELS(19)

#define ROW(level) { level_##level##_0, level_##level##_1, level_##level##_2, level_##level##_3 }
static const level_fn levels[DEPTH][VARIANTS] = {
    ROW(0),  ROW(1),  ROW(2),  ROW(3),  ROW(4),  ROW(5),  ROW(6),  ROW(7),  ROW(8),  ROW(9),
    ROW(10), ROW(11), ROW(12), ROW(13), ROW(14), ROW(15), ROW(16), ROW(17), ROW(18), ROW(19),
};

static struct {
    const char *stacks;
    int threads;
    double ms;
    uint64_t pairs; // a thread; 0: as many as fit into ms
    size_t hold;
    size_t shapes; // a power of two
    const char *rbp;
    uint64_t rbp_step;
} options = { "same", 1, 300, 0, 0, 8192, NULL, 0 };

static uint64_t *shapes;
static pthread_barrier_t start_line;

struct result {
    uint64_t pairs, warm;
    double wall_ns, cpu_ns;
    float *chunks;
    size_t chunk_count;
    uint64_t sum;
};

static double now_ns(clockid_t clock)
{
    struct timespec at;
    clock_gettime(clock, &at);
    return (double)at.tv_sec * 1e9 + (double)at.tv_nsec;
}

// splitmix64 (Steele, Lea, Flood 2014).
static uint64_t mix(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static __attribute__((noinline)) uint64_t run_chunk(uint64_t *state, struct worker *worker)
{
    uint64_t mask = options.shapes - 1, rbp_step = options.rbp_step;
    volatile uint64_t sum = 0; // volatile: in memory, so that rbp holds nothing but the next
    register uint64_t rbp __asm__("rbp") = 1;
    for (int i = 0; i < CHUNK; i++) {
        // The same work in every mode, so that the programs' own times can be compared.
        uint64_t random = mix(state), way = shapes ? shapes[random & mask] : random;
        __asm__ volatile("" : "+r"(rbp));
        uint64_t result = levels[0][way & 3](way >> 2, worker);
        __asm__ volatile("" : "+r"(rbp));
        rbp += rbp_step;
        sum = sum + result;
    }
    return sum;
}

static void *work(void *argument)
{
    struct result *result = argument;
    struct worker worker = { NULL, options.hold, 0 };
    uint64_t state = 1 + (uint64_t)(uintptr_t)result->pairs;
    if (worker.hold && !(worker.held = calloc(worker.hold, sizeof *worker.held)))
        abort();
    result->pairs = 0;
    pthread_barrier_wait(&start_line);
    // Warm: caches, what a tool learns of a stack once, and an analyzer that reads debug information first (heaptrack).
    double warming = now_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < WARM_CHUNKS || now_ns(CLOCK_MONOTONIC) - warming < WARM_MS * 1e6; i++) {
        result->sum += run_chunk(&state, &worker);
        result->warm += CHUNK;
        // New stacks use up a tool's room for them.
        if (options.pairs && i + 1 >= WARM_CHUNKS)
            break;
    }
    double cpu = now_ns(CLOCK_THREAD_CPUTIME_ID), begin = now_ns(CLOCK_MONOTONIC), last = begin, at = begin;
    do {
        result->sum += run_chunk(&state, &worker);
        at = now_ns(CLOCK_MONOTONIC);
        if (result->chunk_count < MAX_CHUNKS)
            result->chunks[result->chunk_count++] = (float)((at - last) / CHUNK);
        last = at;
        result->pairs += CHUNK;
    } while (options.pairs ? result->pairs < options.pairs : at - begin < options.ms * 1e6);
    result->cpu_ns = now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
    result->wall_ns = at - begin;
    for (size_t i = 0; i < worker.hold; i++)
        free(worker.held[i]);
    free(worker.held);
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static long peak_kib(void)
{
    char line[256];
    long peak = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmHWM: %ld", &peak) == 1)
            break;
    if (status)
        fclose(status);
    return peak;
}

static void usage(const char *problem, const char *what)
{
    fprintf(stderr,
            "micro: %s '%s'; usage: micro [--stacks same|changing|new] [--threads 1-%d] [--ms N | --pairs N] [--hold N] "
            "[--shapes POWER_OF_TWO] [--rbp steady|changing]\n",
            problem, what, MAX_THREADS);
    exit(2);
}

static uint64_t number(const char *option, const char *text, uint64_t least)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    if (!*text || *end || *text == '-' || value < least)
        usage("not a usable number for", option);
    return value;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(name, "--stacks"))
            options.stacks = value;
        else if (!strcmp(name, "--threads"))
            options.threads = (int)number(name, value, 1);
        else if (!strcmp(name, "--ms"))
            options.ms = (double)number(name, value, 1);
        else if (!strcmp(name, "--pairs"))
            options.pairs = number(name, value, 1);
        else if (!strcmp(name, "--hold"))
            options.hold = number(name, value, 0);
        else if (!strcmp(name, "--shapes"))
            options.shapes = number(name, value, 1);
        else if (!strcmp(name, "--rbp"))
            options.rbp = value;
        else
            usage("unknown option", name);
    }
    int same = !strcmp(options.stacks, "same"), changing = !strcmp(options.stacks, "changing");
    if (!same && !changing && strcmp(options.stacks, "new"))
        usage("unknown kind of stacks", options.stacks);
    if (!options.rbp)
        options.rbp = same ? "steady" : "changing";
    if (strcmp(options.rbp, "steady") && strcmp(options.rbp, "changing"))
        usage("unknown kind of rbp", options.rbp);
    options.rbp_step = !strcmp(options.rbp, "changing");
    if (options.threads > MAX_THREADS)
        usage("too many threads for", "--threads");
    if (options.shapes & (options.shapes - 1))
        usage("not a power of two for", "--shapes");

#ifdef WITH_LIBAV
    AVFrame *frame = av_frame_alloc();
    if (!frame)
        abort();
    av_frame_free(&frame);
#endif

    if (same)
        options.shapes = 1;
    if (same || changing) {
        shapes = malloc(options.shapes * sizeof *shapes);
        uint64_t state = 42;
        for (size_t i = 0; shapes && i < options.shapes; i++)
            shapes[i] = mix(&state);
        if (!shapes)
            abort();
    }
    pthread_barrier_init(&start_line, NULL, (unsigned)options.threads);
    struct result *results = calloc((size_t)options.threads, sizeof *results);
    pthread_t *threads = calloc((size_t)options.threads, sizeof *threads);
    if (!results || !threads)
        abort();
    for (int i = 0; i < options.threads; i++) {
        results[i].pairs = (uint64_t)i << 32; // the seed of its PRNG
        results[i].chunks = malloc(MAX_CHUNKS * sizeof *results[i].chunks);
        if (!results[i].chunks || pthread_create(&threads[i], NULL, work, &results[i]))
            abort();
    }
    double wall = 0, cpu = 0, median = 0;
    uint64_t pairs = 0, sum = 0, warm = 0;
    for (int i = 0; i < options.threads; i++) {
        struct result *result = &results[i];
        pthread_join(threads[i], NULL);
        qsort(result->chunks, result->chunk_count, sizeof *result->chunks, by_value);
        median += (double)result->chunks[result->chunk_count / 2] / options.threads;
        wall += result->wall_ns;
        cpu += result->cpu_ns;
        pairs += result->pairs;
        warm += result->warm;
        sum += result->sum;
        free(result->chunks);
    }
    free(results);
    free(threads);
    free(shapes);
    printf("{\"stacks\":\"%s\",\"rbp\":\"%s\",\"threads\":%d,\"hold\":%zu,\"pairs\":%llu,\"all_pairs\":%llu,\"wall_ns\":%.2f,\"cpu_ns\":%.2f,"
           "\"median_ns\":%.2f,\"peak_kib\":%ld,\"sum\":%llu}\n",
           options.stacks, options.rbp, options.threads, options.hold, (unsigned long long)pairs,
           (unsigned long long)(pairs + warm), wall / (double)pairs,
           cpu / (double)pairs, median, peak_kib(), (unsigned long long)sum);
    return 0;
}
