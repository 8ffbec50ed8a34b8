// Sixteen threads make their first frames at one moment, the first of the process: while one of them arms avleak, the
// frames of the others count too.
#include <pthread.h>

#include "truth.h"

enum { THREADS = 16, FRAMES = 5 };
static int clean;
static pthread_barrier_t start;
static pthread_mutex_t truth_lock = PTHREAD_MUTEX_INITIALIZER;

static void work(void *unused)
{
    (void)unused;
    pthread_barrier_wait(&start);
    for (int64_t i = 0; i < FRAMES; i++) {
        AVFrame *frame = frame_shell();
        if (clean || i) {
            av_frame_free(&frame);
        } else {
            pthread_mutex_lock(&truth_lock);
            truth.frames++;
            pthread_mutex_unlock(&truth_lock);
        }
    }
}

static void *thread(void *unused)
{
    hide(work, unused);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    clean = is_clean(argc, argv);
    pthread_barrier_init(&start, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, thread, NULL))
            truth_die("pthread_create");
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}
