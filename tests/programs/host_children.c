// Uses FFmpeg, and starts each program named by its arguments (a shell's command line each); says how each ended. Arguments: leak |
// clean, command lines.
#include <sys/wait.h>

#include "host.h"

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    host_use();
    for (int i = 2; i < argc; i++) {
        int status;
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            execl("/bin/sh", "sh", "-c", argv[i], (char *)NULL);
            _exit(126);
        }
        if (child < 0 || waitpid(child, &status, 0) != child)
            truth_die("a child");
        printf("%s: %s %d\n", argv[i], WIFSIGNALED(status) ? "signal" : "exit",
               WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        fflush(NULL);
    }
    return host_ends();
}
