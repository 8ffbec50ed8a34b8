// A storm of signals: SIGPROF at 1 kHz of processor time, and SIGURG as Go's runtime sends it, thread to thread without pause; handlers
// on an alternate stack of each thread. Frames are made and freed meanwhile; errno is nobody's but the host's.
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "host.h"

enum { THREADS = 3, ROUNDS = 3000 };
static atomic_int profs, urgs, done, wrong;
static atomic_int tids[THREADS];
static char stacks[THREADS][64 << 10];

static void handler(int signal)
{
    int kept = errno;
    if (signal == SIGPROF)
        profs++;
    else
        urgs++;
    errno = kept;
}

static void work(void *number)
{
    for (int i = 0; i < ROUNDS; i++) {
        AVFrame *frame = frame_with_pixels(i);
        errno = 7777;
        void *block = malloc(100);
        free(block);
        if (errno != 7777)
            wrong++;
        if (!clean && i % 1000 == 500)
            host_lose(frame);
        else
            av_frame_free(&frame);
    }
    (void)number;
}

static void *worker(void *number)
{
    stack_t stack = { .ss_sp = stacks[(long)number], .ss_size = sizeof stacks[0] };
    if (sigaltstack(&stack, NULL))
        truth_die("sigaltstack");
    tids[(long)number] = (int)syscall(SYS_gettid);
    hide(work, number);
    tids[(long)number] = 0;
    done++;
    stack.ss_flags = SS_DISABLE;
    sigaltstack(&stack, NULL);
    // Registers that a handler's frame saved there are no pointers any more.
    memset(stacks[(long)number], 0, sizeof stacks[0]);
    return NULL;
}

static void *sender(void *unused)
{
    for (int i = 0; done < THREADS; i = (i + 1) % THREADS) {
        int tid = tids[i];
        if (tid)
            syscall(SYS_tgkill, getpid(), tid, SIGURG);
        if (i == 0)
            usleep(100);
    }
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS + 1];
    struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART | SA_ONSTACK };
    struct itimerval timer = { { 0, 1000 }, { 0, 1000 } };
    clean = is_clean(argc, argv);
    sigaction(SIGPROF, &action, NULL);
    sigaction(SIGURG, &action, NULL);
    setitimer(ITIMER_PROF, &timer, NULL);
    for (long i = 0; i <= THREADS; i++)
        if (pthread_create(&threads[i], NULL, i < THREADS ? worker : sender, (void *)i))
            truth_die("pthread_create");
    for (int i = 0; i <= THREADS; i++)
        pthread_join(threads[i], NULL);
    timer = (struct itimerval) { { 0, 0 }, { 0, 0 } };
    setitimer(ITIMER_PROF, &timer, NULL);
    if (wrong || !profs || !urgs) {
        fprintf(stderr, "fixture: errno changed %d times; %d SIGPROF, %d SIGURG\n", wrong, profs, urgs);
        return 97;
    }
    return host_ends();
}
