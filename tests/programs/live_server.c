// A server that runs until SIGTERM: a pipeline hands some thousand frames a second from thread to thread; some frames are held by the heap, some by
// a thread's stack alone; and with each SIGUSR1 three frames are lost, of which it says how many there are by then. With each SIGUSR2 a frame
// moves from a small block to a page of a large one that held no pointer before.
#include "truth.h"

#include <pthread.h>
#include <signal.h>

enum { QUEUE = 16, HELD = 20, LOST = 3, PAGE = 4096 };
static struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    AVFrame *frames[QUEUE];
    int count;
} queue = { .lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER };
static atomic_int stop;

static int put(AVFrame *frame)
{
    pthread_mutex_lock(&queue.lock);
    while (queue.count == QUEUE && !atomic_load(&stop))
        pthread_cond_wait(&queue.moved, &queue.lock);
    int taken = queue.count < QUEUE;
    if (taken)
        queue.frames[queue.count++] = frame;
    pthread_cond_broadcast(&queue.moved);
    pthread_mutex_unlock(&queue.lock);
    return taken;
}

static AVFrame *take(void)
{
    pthread_mutex_lock(&queue.lock);
    while (!queue.count && !atomic_load(&stop))
        pthread_cond_wait(&queue.moved, &queue.lock);
    AVFrame *frame = queue.count ? queue.frames[--queue.count] : NULL;
    if (frame)
        queue.frames[queue.count] = NULL;
    pthread_cond_broadcast(&queue.moved);
    pthread_mutex_unlock(&queue.lock);
    return frame;
}

static void *producer(void *unused)
{
    (void)unused;
    for (int64_t i = 0; !atomic_load(&stop); i++) {
        AVFrame *frame = frame_with_pixels(i);
        if (!put(frame))
            av_frame_free(&frame);
        // Some thousand frames a second: without a pause the analyzer has to share the processors of a busy machine with four threads.
        usleep(200);
    }
    return NULL;
}

// Frames go through a second pair of references: what holds a buffer is mostly younger than the buffer.
static void *consumer(void *unused)
{
    (void)unused;
    for (AVFrame *frame; (frame = take()) != NULL;) {
        AVFrame *other = frame_cloned(frame);
        av_frame_free(&frame);
        av_frame_free(&other);
    }
    return NULL;
}

static pthread_barrier_t ready;

static void *holder(void *unused)
{
    AVFrame *volatile mine = frame_with_pixels(1);
    (void)unused;
    pthread_barrier_wait(&ready);
    while (!atomic_load(&stop))
        usleep(1000);
    AVFrame *frame = mine;
    mine = NULL;
    av_frame_free(&frame);
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

int main(void)
{
    sigset_t set;
    int signal, threads = 0, moved = 0;
    pthread_t all[5];
    AVFrame **held = calloc(HELD, sizeof(*held)), *(*large)[PAGE / sizeof(AVFrame *)];
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_barrier_init(&ready, NULL, 2);
    for (int i = 0; held && i < HELD; i++)
        held[i] = frame_with_pixels(i);
    // Younger than the first frame, so that it is a block and not memory of which nothing is known.
    if (!(large = calloc(HELD + 1, sizeof(*large))))
        truth_die("a large block");
    void *(*roles[])(void *) = { producer, producer, consumer, consumer, holder };
    for (; threads < 5; threads++)
        if (pthread_create(&all[threads], NULL, roles[threads], NULL))
            truth_die("pthread_create");
    pthread_barrier_wait(&ready);
    printf("ready %d\n", (int)getpid());
    fflush(stdout);
    while (!sigwait(&set, &signal) && signal != SIGTERM) {
        pthread_t thread;
        if (signal == SIGUSR2 && moved < HELD) {
            large[moved + 1][0] = held[moved];
            held[moved++] = NULL;
            printf("moved %d\n", moved);
            fflush(stdout);
            continue;
        }
        if (pthread_create(&thread, NULL, lose, NULL) || pthread_join(thread, NULL))
            truth_die("pthread_create");
        printf("lost %ld\n", truth.frames);
        fflush(stdout);
    }
    pthread_mutex_lock(&queue.lock);
    atomic_store(&stop, 1);
    pthread_cond_broadcast(&queue.moved);
    pthread_mutex_unlock(&queue.lock);
    for (int i = 0; i < threads; i++)
        pthread_join(all[i], NULL);
    for (AVFrame *frame; queue.count;) {
        frame = queue.frames[--queue.count];
        av_frame_free(&frame);
    }
    for (int i = 0; i < HELD; i++)
        av_frame_free(i < moved ? &large[i + 1][0] : &held[i]);
    free(held);
    free(large);
    truth_print();
    return 0;
}
