// Two libraries of the same name export av_frame_alloc to two callers (direct, tail call, function pointer, dlsym). Each
// call must reach the library that ld.so bound it to, and be counted.
// Arguments: local|clean, caller of one, libavutil one, caller of two, libavutil two.
#include <dlfcn.h>

#include "truth.h"

typedef AVFrame *make(void);
typedef AVFrame *make_in(void *library);
typedef void drop(AVFrame *);

static int clean;
static char **paths;

static void *symbol(void *library, const char *name)
{
    void *found = dlsym(library, name);
    if (!found)
        truth_die(name);
    return found;
}

static void *open_library(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        truth_die("dlopen");
    }
    return library;
}

static void use(void *unused)
{
    static const char *const ways[] = { "caller_direct", "caller_tail", "caller_pointer" };
    (void)unused;
    truth.calls_frame_alloc = 0;
    for (int variant = 1; variant <= 2; variant++) {
        void *caller = open_library(paths[2 * variant]);
        void *avutil = open_library(paths[2 * variant + 1]);
        AVFrame *frames[8];
        for (int i = 0; i < 6; i++) {
            frames[i] = ((make *)symbol(caller, ways[i % 3]))();
            truth.calls_frame_alloc++; // dlsym passes by the call slots
        }
        for (int i = 6; i < 8; i++)
            frames[i] = ((make_in *)symbol(caller, "caller_dlsym"))(avutil);
        for (int i = 0; i < 8; i++) {
            atomic_fetch_add(&frames_made, 1);
            if (!frames[i] || frames[i]->nb_samples != variant) {
                fprintf(stderr, "call %d of caller %d reached another library\n", i, variant);
                truth_die("binding");
            }
            if (i < 4 || clean)
                ((drop *)symbol(caller, "caller_free"))(frames[i]);
            else
                truth.frames++; // a tail call's, a pointer's, two of dlsym's
        }
    }
}

int main(int argc, char **argv)
{
    if (argc < 6)
        truth_die("reading the arguments");
    clean = is_clean(argc, argv);
    paths = argv;
    hide(use, NULL);
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}
