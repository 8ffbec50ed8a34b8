// Ends of every kind, each with two lost frames and one that main's stack still holds (not where main returns or is gone).
// return | exit | status | _exit | exit_group_thread | abort | segv | sigterm | sigkill and sigint (wait for it) | main_gone |
// quick_exit
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

#include "truth.h"

static void lose_two(void *unused)
{
    (void)unused;
    frame_will_be_lost(frame_with_pixels(1));
    frame_will_be_lost(frame_with_pixels(2));
}

static void *thread_that_ends_the_process(void *unused)
{
    (void)unused;
    truth_print();
    syscall(SYS_exit_group, truth.exit_status);
    return NULL;
}

static void *thread_that_outlives_main(void *main_thread)
{
    pthread_join(*(pthread_t *)main_thread, NULL);
    hide(lose_two, NULL);
    truth.definitely.frames = truth.frames;
    truth_print();
    exit(0);
}

// For ends after which main's stack is nobody's.
NOINLINE static void let_go(AVFrame *volatile *held)
{
    AVFrame *frame = *held;
    av_frame_free(&frame);
    *held = NULL;
    truth.reachable.frames = 0;
    scrub();
}

NOINLINE static int end(const char *how, AVFrame *volatile *held)
{
    static pthread_t self;
    pthread_t thread;
    if (!*held)
        truth_die("the held frame");
    if (!strcmp(how, "exit_group_thread")) {
        if (pthread_create(&thread, NULL, thread_that_ends_the_process, NULL))
            truth_die("pthread_create");
        pthread_join(thread, NULL);
    } else if (!strcmp(how, "main_gone")) {
        self = pthread_self();
        let_go(held);
        if (pthread_create(&thread, NULL, thread_that_outlives_main, &self))
            truth_die("pthread_create");
        pthread_exit(NULL);
    } else if (!strcmp(how, "exit")) {
        truth_print();
        exit(0);
    } else if (!strcmp(how, "_exit")) {
        truth_print();
        _exit(0);
    } else if (!strcmp(how, "quick_exit")) {
        truth_print();
        quick_exit(0);
    } else if (!strcmp(how, "status")) {
        truth.exit_status = 42;
        truth_print();
        exit(42);
    } else if (!strcmp(how, "abort")) {
        truth.signal = SIGABRT;
        truth_print();
        abort();
    } else if (!strcmp(how, "segv")) {
        truth.signal = SIGSEGV;
        truth_print();
        *(volatile int *)8 = 1;
    } else if (!strcmp(how, "sigterm")) {
        truth.signal = SIGTERM;
        truth_print();
        kill(getpid(), SIGTERM);
    } else if (!strcmp(how, "sigkill")) {
        truth.signal = SIGKILL;
        truth_print();
        for (;;)
            pause();
    } else if (!strcmp(how, "sigint")) {
        truth.signal = SIGINT;
        truth_print();
        for (;;)
            pause();
    } else {
        let_go(held);
    }
    truth_print();
    return 0;
}

int main(int argc, char **argv)
{
    AVFrame *volatile held = frame_with_pixels(0);
    hide(lose_two, NULL);
    truth.definitely.frames = truth.frames;
    truth.reachable.frames = 1;
    // end()'s own frame has slots that not every way of ending writes: now and then one still holds a word of lose_two's callees.
    truth.slack_objects = 1;
    return end(argc > 1 ? argv[1] : "return", &held);
}
