// A daemon as textbooks have it: two forks, setsid, another folder, descriptors closed; the daemon uses FFmpeg, its parents do not
// (or did, with `parent`).
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "host.h"

int main(int argc, char **argv)
{
    int parent_too = argc > 2 && strcmp(argv[2], "parent") == 0, status, pipes[2];
    pid_t child;
    char byte;
    clean = is_clean(argc, argv);
    if (pipe(pipes))
        truth_die("pipe");
    if (parent_too) {
        int kept = clean;
        clean = 1;
        host_use();
        clean = kept;
    }
    child = fork();
    if (child > 0) {
        if (waitpid(child, &status, 0) != child || status != 0)
            return 97;
        if (parent_too)
            truth_print();
        // The daemon begins when this process is about to end, and prints after it.
        close(pipes[0]);
        return 0;
    }
    setsid();
    if (fork() != 0)
        _exit(0);
    umask(0);
    if (chdir("/"))
        truth_die("chdir");
    close(pipes[1]);
    // Until the first process is gone.
    if (read(pipes[0], &byte, 1) != 0)
        truth_die("read");
    close(0);
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
    atomic_store(&frames_made, 0);
    host_use();
    // What the parent left in the heap is older than the daemon's arming, and searched.
    truth.slack_objects = parent_too;
    return host_ends();
}
