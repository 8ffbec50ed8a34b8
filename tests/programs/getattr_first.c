// The first allocation of a thread comes from inside pthread_getattr_np, which holds a lock of the thread's own: Rust's
// threads begin so. Each thread then loses a frame, or does not.
#include "truth.h"

#include <pthread.h>

enum { THREADS = 20 };
static int clean;

static void lose(void *unused)
{
    (void)unused;
    AVFrame *frame = frame_with_pixels(0);
    if (clean)
        av_frame_free(&frame);
    else
        frame_will_be_lost(frame);
}

static void *thread(void *unused)
{
    (void)unused;
    pthread_attr_t attributes;
    void *start;
    size_t bytes;
    if (pthread_getattr_np(pthread_self(), &attributes) || pthread_attr_getstack(&attributes, &start, &bytes) || !start)
        truth_die("pthread_getattr_np");
    pthread_attr_destroy(&attributes);
    hide(lose, NULL);
    return NULL;
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    AVFrame *first = frame_with_pixels(0);
    av_frame_free(&first);
    for (int i = 0; i < THREADS; i++) {
        pthread_t id;
        if (pthread_create(&id, NULL, thread, NULL) || pthread_join(id, NULL))
            truth_die("a thread");
    }
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}
