// A plug-in that uses FFmpeg is opened, used and closed again and again while another thread allocates. Its code is
// unmapped at times; the frames that it lost are still its own. Arguments: path of the plug-in, [clean].
#include <dlfcn.h>
#include <pthread.h>

#include "truth.h"

typedef AVFrame *make(void);
typedef void drop(AVFrame *);

enum { ROUNDS = 60 };
static int clean;
static const char *path;
static atomic_int stop;

static void decode(void *unused)
{
    (void)unused;
    for (int64_t i = 0; i < 200 || !atomic_load(&stop); i++) {
        AVFrame *frame = frame_with_pixels(i);
        av_frame_free(&frame);
        free(malloc(100 + (size_t)(i % 1000)));
    }
}

static void *decoder(void *unused)
{
    hide(decode, unused);
    return NULL;
}

static void one_round(void *lose)
{
    void *plugin = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    make *alloc = plugin ? (make *)dlsym(plugin, "caller_direct") : NULL;
    drop *free_frame = plugin ? (drop *)dlsym(plugin, "caller_free") : NULL;
    if (!alloc || !free_frame)
        truth_die("dlopen");
    for (int i = 0; i < 4; i++) {
        AVFrame *frame = alloc();
        atomic_fetch_add(&frames_made, 1);
        if (lose && i == 2)
            truth.frames++;
        else
            free_frame(frame);
    }
    if (dlclose(plugin))
        truth_die("dlclose");
}

int main(int argc, char **argv)
{
    pthread_t thread;
    if (argc < 2)
        truth_die("reading the arguments");
    path = argv[1];
    clean = argc > 2 && !strcmp(argv[2], "clean");
    if (pthread_create(&thread, NULL, decoder, NULL))
        truth_die("pthread_create");
    for (long i = 0; i < ROUNDS; i++)
        hide(one_round, (void *)(long)(!clean && i % 20 == 0));
    atomic_store(&stop, 1);
    pthread_join(thread, NULL);
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}
