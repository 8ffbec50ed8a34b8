// Four threads open, use and close four copies of a plug-in in a loop, while two others use FFmpeg. Arguments: the four copies, [clean].
#include <dlfcn.h>

#include "host.h"

typedef AVFrame *make(void);
typedef void drop(AVFrame *);

enum { LOOPS = 4, ROUNDS = 150, OTHERS = 2, FRAMES = 10000 };
static char **paths;

struct round {
    const char *path;
    int lose;
};

static void one_round(void *argument)
{
    struct round *round = argument;
    void *plugin = dlopen(round->path, RTLD_LAZY | RTLD_LOCAL);
    make *alloc = plugin ? (make *)dlsym(plugin, "caller_direct") : NULL;
    drop *free_frame = plugin ? (drop *)dlsym(plugin, "caller_free") : NULL;
    if (!alloc || !free_frame)
        truth_die("dlopen");
    for (int i = 0; i < 3; i++) {
        AVFrame *frame = alloc();
        atomic_fetch_add(&frames_made, 1);
        if (round->lose && i == 1)
            host_lose(frame);
        else
            free_frame(frame);
    }
    if (dlclose(plugin))
        truth_die("dlclose");
}

static void *opener(void *number)
{
    for (int i = 0; i < ROUNDS; i++) {
        struct round round = { paths[(long)number], !clean && i % 50 == 7 };
        hide(one_round, &round);
    }
    return NULL;
}

static void decode(void *unused)
{
    (void)unused;
    for (int64_t i = 0; i < FRAMES; i++) {
        AVFrame *frame = frame_with_pixels(i);
        av_frame_free(&frame);
    }
}

static void *decoder(void *unused)
{
    hide(decode, unused);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[LOOPS + OTHERS];
    if (argc < 1 + LOOPS)
        truth_die("reading the arguments");
    paths = argv + 1;
    clean = argc > 1 + LOOPS && !strcmp(argv[1 + LOOPS], "clean");
    for (long i = 0; i < LOOPS + OTHERS; i++)
        if (pthread_create(&threads[i], NULL, i < LOOPS ? opener : decoder, (void *)i))
            truth_die("pthread_create");
    for (int i = 0; i < LOOPS + OTHERS; i++)
        pthread_join(threads[i], NULL);
    return host_ends();
}
