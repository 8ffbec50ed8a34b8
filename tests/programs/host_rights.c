// A host that gives up rights: another user, another root folder, no longer dumpable; before FFmpeg's first use, after it, or between.
#include <sys/prctl.h>

#include "host.h"

static void give_up(const char *what)
{
    int failed = 0;
    if (strcmp(what, "user") == 0)
        // Who is not root gives up nothing.
        failed = geteuid() == 0 ? setgid(65534) || setuid(65534) : setuid(getuid());
    else if (strcmp(what, "root") == 0)
        failed = geteuid() == 0 ? chroot("/proc") || chdir("/") : chdir("/");
    else
        failed = prctl(PR_SET_DUMPABLE, 0);
    if (failed)
        truth_die(what);
}

int main(int argc, char **argv)
{
    const char *what = argc > 2 ? argv[2] : "user", *when = argc > 3 ? argv[3] : "before";
    clean = is_clean(argc, argv);
    if (strcmp(when, "before") != 0)
        host_use();
    give_up(what);
    if (strcmp(when, "after") != 0)
        host_use();
    return host_ends();
}
