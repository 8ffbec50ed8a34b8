// Frames made and freed in pthread_key destructors, the last code that a thread runs, several rounds of it.
#include <pthread.h>

#include "truth.h"

enum { THREADS = 30 };
static int clean;
static pthread_key_t keys[3];
static pthread_mutex_t truth_lock = PTHREAD_MUTEX_INITIALIZER;

static void at_thread_end(void *number)
{
    AVFrame *frame = frame_with_pixels((long)number);
    void *block = malloc(123);
    free(block);
    if (!clean && (long)number % 10 == 1) {
        pthread_mutex_lock(&truth_lock);
        frame_will_be_lost(frame);
        pthread_mutex_unlock(&truth_lock);
    } else {
        av_frame_free(&frame);
    }
}

// Sets its key again, so that ld.so runs it in a second round after all others.
static void destructor(void *number)
{
    hide(at_thread_end, number);
    if ((long)number < 1000)
        pthread_setspecific(keys[2], (void *)((long)number + 1000));
}

// A block that the thread made and only its destructor frees.
static void free_it(void *frame)
{
    AVFrame *held = frame;
    av_frame_free(&held);
}

static void set_up(void *number)
{
    pthread_setspecific(keys[0], number);
    pthread_setspecific(keys[1], frame_with_pixels(0));
}

static void *thread(void *number)
{
    hide(set_up, number);
    return NULL;
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    if (pthread_key_create(&keys[0], destructor) || pthread_key_create(&keys[1], free_it) ||
        pthread_key_create(&keys[2], destructor))
        truth_die("pthread_key_create");
    for (long i = 1; i <= THREADS; i++) {
        pthread_t id;
        if (pthread_create(&id, NULL, thread, (void *)i) || pthread_join(id, NULL))
            truth_die("a thread");
    }
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}
