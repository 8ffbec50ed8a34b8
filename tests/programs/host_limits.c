// A host with tight limits, set by itself: address space, descriptors, processes, file size, stack; before FFmpeg's first use or after.
#include <sys/resource.h>

#include "host.h"

static long mapped(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%ld", &pages) != 1)
        truth_die("statm");
    fclose(file);
    return pages * 4096;
}

static void limit(const char *what, long spare)
{
    int which = RLIMIT_AS;
    struct rlimit wanted;
    if (strcmp(what, "AS") == 0)
        spare += mapped();
    else if (strcmp(what, "NOFILE") == 0)
        which = RLIMIT_NOFILE;
    else if (strcmp(what, "NPROC") == 0)
        which = RLIMIT_NPROC;
    else if (strcmp(what, "FSIZE") == 0)
        which = RLIMIT_FSIZE;
    else if (strcmp(what, "DATA") == 0)
        which = RLIMIT_DATA;
    else
        truth_die("limit");
    wanted.rlim_cur = wanted.rlim_max = (rlim_t)spare;
    if (setrlimit(which, &wanted))
        truth_die("setrlimit");
}

int main(int argc, char **argv)
{
    pthread_t other;
    const char *what = argc > 2 ? argv[2] : "AS", *when = argc > 3 ? argv[3] : "before";
    long spare = argc > 4 ? atol(argv[4]) : 0;
    clean = is_clean(argc, argv);
    if (strcmp(when, "after") == 0)
        host_use();
    limit(what, spare);
    host_use();
    // A thread where one may be made.
    if (pthread_create(&other, NULL, host_thread, NULL) == 0)
        pthread_join(other, NULL);
    // avleak may be unable to watch it, but must not call it clean then.
    if (argc > 5)
        truth.verdict = "not clean";
    return host_ends();
}
