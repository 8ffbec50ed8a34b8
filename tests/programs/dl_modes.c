// FFmpeg comes with a plug-in, opened local | deepbind | dlmopen | global; the plug-in makes six frames and three are
// lost. (With RTLD_DEEPBIND its malloc is bound past every preload, until avleak points those call slots at itself.) Arguments: mode, path of the plug-in, [clean].
#include <dlfcn.h>

#include "truth.h"

typedef AVFrame *make(void);
typedef void drop(AVFrame *);

static int clean;
static const char *mode, *path;

static void use(void *unused)
{
    static const char *const ways[] = { "caller_direct", "caller_tail", "caller_pointer" };
    void *plugin;
    (void)unused;
    if (!strcmp(mode, "dlmopen"))
        plugin = dlmopen(LM_ID_NEWLM, path, RTLD_NOW);
    else if (!strcmp(mode, "deepbind"))
        plugin = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    else if (!strcmp(mode, "global"))
        plugin = dlopen(path, RTLD_LAZY | RTLD_GLOBAL);
    else
        plugin = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    if (!plugin) {
        fprintf(stderr, "%s\n", dlerror());
        truth_die("dlopen");
    }
    drop *free_frame = (drop *)dlsym(plugin, "caller_free");
    for (int i = 0; i < 6; i++) {
        make *alloc = (make *)dlsym(plugin, ways[i % 3]);
        AVFrame *frame = alloc ? alloc() : NULL;
        if (!frame || !free_frame)
            truth_die("the plug-in");
        atomic_fetch_add(&frames_made, 1);
        if (clean || i < 3)
            free_frame(frame);
        else
            truth.frames++;
    }
}

int main(int argc, char **argv)
{
    if (argc < 3)
        truth_die("reading the arguments");
    mode = argv[1];
    path = argv[2];
    clean = argc > 3 && !strcmp(argv[3], "clean");
    hide(use, NULL);
    truth.definitely.frames = truth.frames;
    truth.calls_frame_alloc = 6;
    if (!strcmp(mode, "dlmopen")) {
        truth.unseen = 1; // another libc: nothing of avleak is there
        truth.verdict = "not clean";
    }
    truth_print();
    return 0;
}
