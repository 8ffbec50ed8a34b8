// Many threads at once, or many after another; says how much memory the process had at its peak.
//
//   threads_memory at_once|in_a_row COUNT leak|clean
#include <pthread.h>

#include "truth.h"

static int clean;
static pthread_barrier_t all_there;
static pthread_mutex_t truth_lock = PTHREAD_MUTEX_INITIALIZER;

static void lose(AVFrame *frame)
{
    pthread_mutex_lock(&truth_lock);
    frame_will_be_lost(frame);
    pthread_mutex_unlock(&truth_lock);
}

// Enough of everything that a thread's ring, its young and its counts are written through.
static void busy(void *number)
{
    void *kept[256];
    for (int round = 0; round < 24; round++) {
        for (int i = 0; i < 256; i++)
            kept[i] = malloc(24 + (size_t)(i % 4 * 16));
        for (int i = 0; i < 256; i++)
            free(kept[i]);
    }
    for (int64_t i = 0; i < 40; i++) {
        AVFrame *frame = frame_shell();
        if (!clean && i == 20 && (long)number % 100 == 0)
            lose(frame);
        else
            av_frame_free(&frame);
    }
}

static void brief(void *number)
{
    AVFrame *frame = frame_shell();
    free(malloc(100));
    if (!clean && (long)number % 10000 == 0)
        lose(frame);
    else
        av_frame_free(&frame);
}

static void *thread_at_once(void *number)
{
    hide(busy, number);
    pthread_barrier_wait(&all_there);
    pthread_barrier_wait(&all_there);
    return NULL;
}

static void *thread_in_a_row(void *number)
{
    brief(number);
    return NULL;
}

static long status_kib(const char *name)
{
    char line[256];
    long kib = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, name, strlen(name)))
            kib = atol(line + strlen(name));
    if (status)
        fclose(status);
    return kib;
}

static void say_memory(const char *when)
{
    printf("{\"memory\":{\"when\":\"%s\",\"rss_kib\":%ld,\"shared_kib\":%ld}}\n", when, status_kib("VmRSS:"),
           status_kib("RssShmem:"));
    fflush(stdout);
}

static void run(void *argument)
{
    char **argv = argument;
    long count = atol(argv[2]);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 20);
    if (!strcmp(argv[1], "at_once")) {
        pthread_t *threads = calloc((size_t)count, sizeof *threads);
        pthread_barrier_init(&all_there, NULL, (unsigned)count + 1);
        for (long i = 0; i < count; i++)
            if (pthread_create(&threads[i], &attributes, thread_at_once, (void *)i))
                truth_die("pthread_create");
        pthread_barrier_wait(&all_there);
        say_memory("all threads are there");
        pthread_barrier_wait(&all_there);
        for (long i = 0; i < count; i++)
            pthread_join(threads[i], NULL);
        free(threads);
    } else {
        for (long i = 0; i < count; i++) {
            pthread_t thread;
            if (pthread_create(&thread, &attributes, thread_in_a_row, (void *)i))
                truth_die("pthread_create");
            pthread_join(thread, NULL);
        }
        say_memory("all threads have been");
    }
}

int main(int argc, char **argv)
{
    if (argc != 4 || atol(argv[2]) < 1)
        truth_die("threads_memory at_once|in_a_row COUNT leak|clean");
    clean = strcmp(argv[3], "clean") == 0;
    hide(run, argv);
    truth.slack_objects = truth.frames / 5; // stale words in the stacks that glibc keeps
    truth_print();
    return 0;
}
