// Threads that make and free each other's blocks at full speed, so that addresses go round between them: through malloc
// and its kin, and through libavutil. At the end the table's blocks are all that is left: "held" keeps them, "lost" forgets
// them.
//
//   storm THREADS SECONDS held|lost
#include <pthread.h>
#include <time.h>

#include <libavutil/buffer.h>
#include <libavutil/channel_layout.h>

#include "truth.h"

enum { PLAIN, RESIZED, ALIGNED, AV, REF, FRAME, SOUND, PACKET, KINDS, PER_KIND = 512, MOST_THREADS = 64 };
static const char *const names[KINDS] = { "storm_plain", "storm_resized", "storm_aligned", "storm_av",
                                          "ref",         "frame",         "sound",         "packet" };
static _Atomic(void *) table[KINDS][PER_KIND];
static atomic_int stop;
static atomic_long operations, packets_made;

// Wiped, so that no stale word in a block leads to another.
static void *wiped(void *block, size_t size)
{
    if (!block)
        truth_die("making a block");
    memset(block, 0, size);
    __asm__ volatile("" ::: "memory"); // not the last thing that the callers below do: they stay on the stack
    return block;
}

NOINLINE static void *storm_plain(size_t size)
{
    return wiped(malloc(size), size);
}

NOINLINE static void *storm_resized(void *old, size_t size)
{
    return wiped(realloc(old, size), size);
}

NOINLINE static void *storm_aligned(size_t size)
{
    void *at = NULL;
    return wiped(posix_memalign(&at, 64, size) ? NULL : at, size);
}

NOINLINE static void *storm_av(size_t size)
{
    return wiped(av_malloc(size), size);
}

static void *make(int kind, unsigned random)
{
    size_t size = 16 + random % 24 * 8;
    void *made = NULL;
    AVFrame *frame;
    switch (kind) {
    case PLAIN: made = storm_plain(size); break;
    case RESIZED: made = storm_resized(NULL, size); break;
    case ALIGNED: made = storm_aligned(size); break;
    case AV: made = storm_av(size); break;
    case REF: made = av_buffer_allocz(size); break;
    case FRAME: made = frame_shell(); break;
    case SOUND:
        frame = frame_shell();
        frame->format = AV_SAMPLE_FMT_S16;
        frame->nb_samples = 32;
        av_channel_layout_default(&frame->ch_layout, 1);
        if (av_frame_get_buffer(frame, 0) < 0)
            truth_die("av_frame_get_buffer");
        memset(frame->buf[0]->data, 0, frame->buf[0]->size);
        made = frame;
        break;
    case PACKET:
        made = av_packet_alloc();
        atomic_fetch_add(&packets_made, 1);
        break;
    }
    if (!made)
        truth_die("making a block");
    return made;
}

static void unmake(int kind, void *block)
{
    AVFrame *frame = block;
    AVPacket *packet = block;
    AVBufferRef *ref = block;
    if (!block)
        return;
    switch (kind) {
    case AV: av_free(block); break;
    case REF: av_buffer_unref(&ref); break;
    case FRAME:
    case SOUND: av_frame_free(&frame); break;
    case PACKET: av_packet_free(&packet); break;
    default: free(block);
    }
}

static void storm(void *number)
{
    uint64_t random = 0x9E3779B97F4A7C15u * ((uintptr_t)number + 1);
    long done = 0;
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        unsigned dice = (unsigned)(random >> 33);
        int kind = (int)(dice % KINDS);
        // Few places, so that a block stays about as long as a thread's memory of its young.
        _Atomic(void *) *place = &table[kind][(dice >> 3) % PER_KIND];
        void *block = NULL;
        switch ((dice >> 12) % 8) {
        case 0: break; // only freed
        case 1:        // made and freed by one thread
            unmake(kind, make(kind, dice >> 15));
            break;
        case 2: // resized by somebody else
            block = atomic_exchange(place, NULL);
            if (block && kind == RESIZED)
                block = storm_resized(block, 16 + (dice >> 15) % 48 * 8);
            break;
        default: block = make(kind, dice >> 15);
        }
        unmake(kind, atomic_exchange(place, block));
        done++;
    }
    atomic_fetch_add(&operations, done);
}

static void *thread(void *number)
{
    hide(storm, number);
    return NULL;
}

static void run(void *argument)
{
    pthread_t threads[MOST_THREADS];
    char **argv = argument;
    int count = atoi(argv[1]);
    double seconds = atof(argv[2]);
    if (count < 1 || count > MOST_THREADS || seconds <= 0)
        truth_die("storm THREADS SECONDS held|lost");
    for (long i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, thread, (void *)i))
            truth_die("pthread_create");
    struct timespec time = { (time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9) };
    nanosleep(&time, NULL);
    atomic_store(&stop, 1);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

int main(int argc, char **argv)
{
    long kinds[KINDS] = { 0 };
    if (argc != 4)
        truth_die("storm THREADS SECONDS held|lost");
    hide(run, argv);
    for (int kind = 0; kind < KINDS; kind++)
        for (int i = 0; i < PER_KIND; i++)
            kinds[kind] += atomic_load(&table[kind][i]) != NULL;
    if (!strcmp(argv[3], "lost")) {
        memset(table, 0, sizeof table);
        truth.frames = kinds[FRAME] + kinds[SOUND];
        truth.packets = kinds[PACKET];
        truth.buffer_refs = kinds[REF];
        truth.pinned_bytes = -1;
        truth.slack_objects = 8; // stale words in the stacks of the threads
    } else {
        truth.reachable.frames = kinds[FRAME] + kinds[SOUND];
    }
    truth.packets_allocated = packets_made;
    printf("{\"storm\":{\"operations\":%ld,\"kinds\":{", operations);
    for (int kind = 0; kind < KINDS; kind++)
        printf("%s\"%s\":%ld", kind ? "," : "", names[kind], kinds[kind]);
    printf("}}}\n");
    fflush(stdout);
    truth_print();
    return 0;
}
