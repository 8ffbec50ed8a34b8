// 2,000 threads come and go, 20 at a time; each makes three frames, and every hundredth forgets one.
#include <pthread.h>

#include "truth.h"

enum { ROUNDS = 100, AT_ONCE = 20 };
static int clean;
static pthread_mutex_t truth_lock = PTHREAD_MUTEX_INITIALIZER;

static void work(void *number)
{
    for (int64_t i = 0; i < 3; i++) {
        AVFrame *frame = frame_with_pixels(i);
        if (!clean && i == 1 && (long)number % 100 == 0) {
            pthread_mutex_lock(&truth_lock);
            frame_will_be_lost(frame);
            pthread_mutex_unlock(&truth_lock);
        } else {
            av_frame_free(&frame);
        }
    }
}

static void *thread(void *number)
{
    hide(work, number);
    return NULL;
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    for (long round = 0; round < ROUNDS; round++) {
        pthread_t threads[AT_ONCE];
        for (long i = 0; i < AT_ONCE; i++)
            if (pthread_create(&threads[i], NULL, thread, (void *)(round * AT_ONCE + i)))
                truth_die("pthread_create");
        for (int i = 0; i < AT_ONCE; i++)
            pthread_join(threads[i], NULL);
    }
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}
