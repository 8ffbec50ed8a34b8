// A big block is freed, its pages become a thread's stack, and that stack holds the only pointer to a frame: reachable.
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <sys/mman.h>

#include "truth.h"

enum { BLOCK = 12 << 20 };
static int clean;
static sem_t ready, done;

// Where the block was: a number, for the pointer is dead.
static volatile uintptr_t block_at;

static void free_big_block(void *unused)
{
    AVFrame *arming = frame_shell();
    char *block = malloc(BLOCK);
    (void)unused;
    if (!block)
        truth_die("malloc");
    memset(block, 1, BLOCK);
    block_at = (uintptr_t)block;
    free(block);
    av_frame_free(&arming);
}

NOINLINE static void *keeper(void *unused)
{
    AVFrame *volatile on_this_stack = frame_with_pixels(5);
    (void)unused;
    scrub();
    sem_post(&ready);
    while (sem_wait(&done))
        continue;
    AVFrame *frame = on_this_stack;
    av_frame_free(&frame);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_attr_t attributes;
    pthread_t thread;
    clean = is_clean(argc, argv);
    sem_init(&ready, 0, 0);
    sem_init(&done, 0, 0);
    hide(free_big_block, NULL);
    // malloc's 16 bytes of header lie before the block: take the pages inside.
    char *stack = (char *)((block_at + 4095) & ~(uintptr_t)4095);
    if (mmap(stack, BLOCK - 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != stack)
        truth_die("mmap of the block's pages");
    pthread_attr_init(&attributes);
    if (pthread_attr_setstack(&attributes, stack, BLOCK - 8192) || pthread_create(&thread, &attributes, keeper, NULL))
        truth_die("pthread_create");
    while (sem_wait(&ready))
        continue;
    if (clean) {
        sem_post(&done);
        pthread_join(thread, NULL);
    }
    truth.definitely.frames = 0;
    truth.reachable.frames = clean ? 0 : 1;
    truth_print();
    return 0;
}
