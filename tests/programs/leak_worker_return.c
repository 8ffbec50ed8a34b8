// A worker thread returns early and forgets the frames that it holds.
#include <pthread.h>

#include "truth.h"

enum { WORKERS = 4, PICTURES = 6 };
static int clean;
static pthread_mutex_t truth_lock = PTHREAD_MUTEX_INITIALIZER;

// Takes two frames at a time; a worker with a bad picture gives up.
static void work(void *number)
{
    for (int64_t i = 0; i < PICTURES; i++) {
        AVFrame *previous = frame_with_pixels(i);
        AVFrame *current = frame_with_pixels(i + 1);
        if (i == 3 && (long)number % 2) {
            if (clean) {
                av_frame_free(&previous);
                av_frame_free(&current);
            } else {
                pthread_mutex_lock(&truth_lock);
                frame_will_be_lost(previous);
                frame_will_be_lost(current);
                pthread_mutex_unlock(&truth_lock);
            }
            return; // the bug
        }
        av_frame_free(&previous);
        av_frame_free(&current);
    }
}

static void *worker(void *number)
{
    hide(work, number);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[WORKERS];
    clean = is_clean(argc, argv);
    for (long i = 0; i < WORKERS; i++)
        if (pthread_create(&threads[i], NULL, worker, (void *)i))
            truth_die("pthread_create");
    for (int i = 0; i < WORKERS; i++)
        pthread_join(threads[i], NULL);
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}
