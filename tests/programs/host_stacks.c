// Threads on stacks of the program's own making: in the heap, mapped without a guard, in a static array, in the middle of a mapping that
// holds two. Each ends while another still runs on a stack beside it; at the end four of them wait with a frame in hand.
#include <sys/mman.h>

#include "host.h"

enum { THREADS = 5, STACK = 640 << 10 };
static char still[STACK] __attribute__((aligned(4096)));
static pthread_barrier_t barrier;

static void *waits(void *unused)
{
    host_use();
    AVFrame *volatile mine = frame_with_pixels(3);
    pthread_barrier_wait(&barrier);
    for (;;)
        pause();
    (void)mine;
    return unused;
}

static void start(void *stack, void *(*body)(void *), pthread_t *thread)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    if (!stack || stack == MAP_FAILED || pthread_attr_setstack(&attributes, stack, STACK)
        || pthread_create(thread, &attributes, body, NULL))
        truth_die("a thread on a stack of its own");
    pthread_attr_destroy(&attributes);
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    void *heap = NULL;
    char *two = mmap(NULL, 2 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *bare = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    clean = is_clean(argc, argv);
    if (posix_memalign(&heap, 4096, STACK))
        truth_die("posix_memalign");
    // The same stack, one thread after the other.
    for (int i = 0; i < 10; i++) {
        start(heap, host_thread, &threads[0]);
        pthread_join(threads[0], NULL);
    }
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    start(heap, waits, &threads[0]);
    start(still, waits, &threads[1]);
    start(bare, waits, &threads[2]);
    start(two, waits, &threads[3]);
    start(two + STACK, waits, &threads[4]);
    pthread_barrier_wait(&barrier);
    truth.reachable.frames = THREADS;
    return host_ends();
}
