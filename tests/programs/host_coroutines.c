// Coroutines by ucontext that change stacks in the middle of their work with frames, on stacks mapped, allocated, static and without
// guards. At the end some are suspended with a frame in hand, which is reachable; some gave up theirs.
#include <sys/mman.h>
#include <ucontext.h>

#include "host.h"

enum { COROUTINES = 8, STACK = 256 << 10, ROUNDS = 50 };
static ucontext_t contexts[COROUTINES], scheduler;
static char still[STACK] __attribute__((aligned(16)));
static int running;

static void yield(void)
{
    swapcontext(&contexts[running], &scheduler);
}

NOINLINE static void one_frame(long round)
{
    AVFrame *frame = frame_with_pixels(round);
    yield();
    AVFrame *copy = frame_cloned(frame);
    yield();
    av_frame_free(&frame);
    yield();
    av_frame_free(&copy);
}

// Loses a frame, and leaves nothing of it on this stack.
static void forget(void *unused)
{
    (void)unused;
    frame_will_be_lost(frame_with_pixels(2));
}

NOINLINE static void wipe(void)
{
    volatile long room[8192];
    for (int i = 0; i < 8192; i++)
        room[i] = 0;
    __asm__ volatile("" ::"r"(room) : "memory");
}

static void body(void)
{
    for (long round = 0; round < ROUNDS; round++)
        one_frame(round);
    if (!clean) {
        void (*volatile call)(void *) = forget;
        call(NULL);
    }
    wipe();
    // Suspended for good, with a frame in hand.
    AVFrame *volatile mine = frame_with_pixels(3);
    for (;;)
        yield();
    (void)mine;
}

static void *stack_of(int number)
{
    void *stack;
    switch (number % 4) {
    case 0: // without a guard, beside others
        stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return stack == MAP_FAILED ? NULL : stack;
    case 1:
        return malloc(STACK);
    case 2:
        return number == 2 ? still : malloc(STACK);
    default: // with a guard
        stack = mmap(NULL, STACK + 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED || mprotect((char *)stack + 4096, STACK, PROT_READ | PROT_WRITE))
            return NULL;
        return (char *)stack + 4096;
    }
}

static void prepare(int number)
{
    ucontext_t *context = &contexts[number];
    getcontext(context);
    context->uc_stack.ss_sp = stack_of(number);
    context->uc_stack.ss_size = STACK;
    if (!context->uc_stack.ss_sp)
        truth_die("a stack");
    makecontext(context, body, 0);
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    for (int i = 0; i < COROUTINES; i++)
        prepare(i);
    for (int round = 0; round < ROUNDS * 3 + 2; round++)
        for (running = 0; running < COROUTINES; running++)
            swapcontext(&scheduler, &contexts[running]);
    truth.reachable.frames = COROUTINES;
    return host_ends();
}
