// What goes on while avleak is killed or stopped, or is killed itself.
// steady leak|clean: frames are made here and freed by another thread, for about a second; some are lost, and one is held.
// endless FILE: the same in two threads without end; in FILE are counts that outlive it: frames made, frames about to be lost.
// flood FILE leak|clean: once FILE is there, as many allocations as can be, in two threads, then the frees of 500 frames that were made
// before. Another word, once FILE is gone again, and some more frames; the leaky twin loses three.
// last FILE: makes and loses frames, and ends once FILE is there.
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>

#include "truth.h"

enum { ROUNDS = 250, A_ROUND = 40, PAUSE_US = 4000, FLOOD = 400 * 1000 };

static AVFrame *handed[A_ROUND];
static sem_t full, empty;
static struct counts { atomic_long made, lost; } *counts;

static void *frees(void *unused)
{
    (void)unused;
    for (int round = 0; round < ROUNDS; round++) {
        sem_wait(&full);
        for (int i = 0; i < A_ROUND; i++)
            av_frame_free(&handed[i]);
        sem_post(&empty);
    }
    scrub();
    return NULL;
}

static void lose_one(void *unused)
{
    (void)unused;
    frame_will_be_lost(frame_with_pixels(7));
}

static void one_round(void *unused)
{
    (void)unused;
    for (int i = 0; i < A_ROUND; i++)
        handed[i] = frame_shell();
}

static int steady(int clean)
{
    pthread_t thread;
    sem_init(&full, 0, 0);
    sem_init(&empty, 0, 1);
    static AVFrame *held;
    held = frame_shell();
    if (pthread_create(&thread, NULL, frees, NULL))
        truth_die("pthread_create");
    for (volatile int round = 0; round < ROUNDS; round++) {
        sem_wait(&empty);
        hide(one_round, NULL);
        sem_post(&full);
        if (round % 25 == 24 && !clean)
            hide(lose_one, NULL);
        usleep(PAUSE_US);
    }
    pthread_join(thread, NULL);
    truth.definitely.frames = truth.frames;
    truth.reachable.frames = 1;
    truth_print();
    return held == NULL;
}

static void one_of_many(void *unused)
{
    (void)unused;
    AVFrame *frames[8];
    for (int i = 0; i < 8; i++) {
        frames[i] = frame_shell();
        atomic_fetch_add(&counts->made, 1);
    }
    for (int i = 0; i < 8; i++)
        av_frame_free(&frames[i]);
    // Counted before: killed in between, one too many is counted for each thread.
    atomic_fetch_add(&counts->lost, 1);
    frame_shell();
    atomic_fetch_add(&counts->made, 1);
}

static void *without_end(void *unused)
{
    (void)unused;
    for (;;) {
        hide(one_of_many, NULL);
        usleep(500);
    }
    return NULL;
}

static int endless(const char *file)
{
    int fd = open(file, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, sizeof *counts))
        truth_die("the file of counts");
    counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (counts == MAP_FAILED)
        truth_die("mmap");
    pthread_t thread;
    if (pthread_create(&thread, NULL, without_end, NULL))
        truth_die("pthread_create");
    without_end(NULL);
    return 1;
}

static void *floods(void *unused)
{
    // Handed on and freed late, so that each is told.
    enum { LATE = 1024 };
    void **late = calloc(LATE, sizeof *late);
    (void)unused;
    for (int i = 0; i < FLOOD; i++) {
        free(late[i % LATE]);
        late[i % LATE] = malloc(24);
    }
    for (int i = 0; i < LATE; i++)
        free(late[i]);
    free(late);
    return NULL;
}

static AVFrame *before[500];

static void make_some(void *unused)
{
    (void)unused;
    for (unsigned i = 0; i < sizeof before / sizeof before[0]; i++)
        before[i] = frame_shell();
}

static void free_some(void *unused)
{
    (void)unused;
    for (unsigned i = 0; i < sizeof before / sizeof before[0]; i++)
        av_frame_free(&before[i]);
}

static void say(const char *word)
{
    if (write(STDOUT_FILENO, word, strlen(word)) < 0)
        truth_die("write");
}

static int flood(const char *file, int clean)
{
    pthread_t thread;
    hide(make_some, NULL);
    if (!clean) {
        hide(lose_one, NULL);
        hide(lose_one, NULL);
    }
    // Whoever is to stop avleak does so now, and makes the file.
    say("ready\n");
    while (access(file, F_OK))
        usleep(1000);
    if (pthread_create(&thread, NULL, floods, NULL))
        truth_die("pthread_create");
    floods(NULL);
    pthread_join(thread, NULL);
    hide(free_some, NULL);
    say("flooded\n");
    while (!access(file, F_OK))
        usleep(1000);
    hide(make_some, NULL);
    hide(free_some, NULL);
    if (!clean)
        hide(lose_one, NULL);
    truth.drops_allowed = 1;
    truth.frames_unknown = 1;
    truth_print();
    return 0;
}

static int last(const char *file)
{
    hide(make_some, NULL);
    for (int i = 0; i < 3; i++)
        hide(lose_one, NULL);
    say("ready\n");
    while (access(file, F_OK))
        usleep(1000);
    hide(free_some, NULL);
    hide(lose_one, NULL);
    truth_print();
    return 0;
}

int main(int argc, char **argv)
{
    if (mode_is(argc, argv, "endless") && argc > 2)
        return endless(argv[2]);
    if (mode_is(argc, argv, "flood") && argc > 2)
        return flood(argv[2], argc > 3 && !strcmp(argv[3], "clean"));
    if (mode_is(argc, argv, "last") && argc > 2)
        return last(argv[2]);
    return steady(argc > 2 && !strcmp(argv[2], "clean"));
}
