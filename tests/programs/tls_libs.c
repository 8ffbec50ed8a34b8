// 200 libraries with TLS are loaded after the threads exist; each thread keeps its only pointer to a frame in one of them.
// Arguments: folder of 000.so to 199.so, [clean].
#include <dlfcn.h>
#include <pthread.h>

#include "truth.h"

enum { LIBRARIES = 200, THREADS = 8 };
static int clean;
static void (*keep[LIBRARIES])(void *);
static void *(*kept[LIBRARIES])(void);
static pthread_barrier_t loaded, filled, done;

static void fill(void *number)
{
    for (int i = (int)(long)number; i < LIBRARIES; i += THREADS)
        keep[i](frame_shell());
    keep[(long)number](NULL); // and one is lost: the first
}

static void empty(void *number)
{
    for (int i = (int)(long)number; i < LIBRARIES; i += THREADS) {
        AVFrame *frame = kept[i]();
        av_frame_free(&frame);
        keep[i](NULL);
    }
}

static void fill_and_empty(void *number)
{
    for (int i = (int)(long)number; i < LIBRARIES; i += THREADS)
        keep[i](frame_shell());
    empty(number);
}

static void *thread(void *number)
{
    pthread_barrier_wait(&loaded);
    hide(clean ? fill_and_empty : fill, number);
    pthread_barrier_wait(&filled);
    pthread_barrier_wait(&done);
    return NULL;
}

static void first_frame(void *unused)
{
    AVFrame *frame = frame_shell();
    (void)unused;
    av_frame_free(&frame);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        truth_die("reading the arguments");
    hide(first_frame, NULL); // from here on avleak records
    clean = argc > 2 && !strcmp(argv[2], "clean");
    pthread_barrier_init(&loaded, NULL, THREADS + 1);
    pthread_barrier_init(&filled, NULL, THREADS + 1);
    pthread_barrier_init(&done, NULL, THREADS + 1);
    for (long i = 0; i < THREADS; i++) {
        pthread_t id;
        if (pthread_create(&id, NULL, thread, (void *)i))
            truth_die("pthread_create");
    }
    for (int i = 0; i < LIBRARIES; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%03d.so", argv[1], i);
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!library || !(keep[i] = (void (*)(void *))dlsym(library, "tls_keep")) ||
            !(kept[i] = (void *(*)(void))dlsym(library, "tls_kept")))
            truth_die(path);
    }
    pthread_barrier_wait(&loaded);
    pthread_barrier_wait(&filled);
    truth.frames = clean ? 0 : THREADS;
    truth.definitely.frames = truth.frames;
    truth.reachable.frames = clean ? 0 : LIBRARIES - THREADS;
    truth_print();
    return 0; // the threads still hold their frames
}
