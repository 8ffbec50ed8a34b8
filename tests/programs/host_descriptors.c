// A host that closes descriptors it did not open: all but stdout before FFmpeg's first use, or after it; or all, and opens a file
// of its own that becomes number 2.
#include <fcntl.h>

#include "host.h"

static void close_from(int first)
{
    for (int fd = first; fd < 4096; fd++)
        close(fd);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 2 ? argv[2] : "before";
    char path[] = "/tmp/avleak-host-XXXXXX";
    int fd = -1;
    clean = is_clean(argc, argv);
    if (strcmp(mode, "after") == 0)
        host_use();
    close(0);
    if (strcmp(mode, "reused") == 0) {
        close(2);
        close_from(3);
        fd = mkstemp(path); // number 0
        if (dup2(fd, 2) != 2 || dup2(fd, 3) != 3)
            truth_die("dup2");
    } else {
        close_from(3);
    }
    host_use();
    if (fd >= 0) {
        struct { char byte; } one;
        // Nobody else wrote into the host's file.
        if (lseek(fd, 0, SEEK_END) != 0 || pread(fd, &one, 1, 0) != 0)
            return 97;
        unlink(path);
    } else if (write(3, "x", 1) >= 0 || write(4, "x", 1) >= 0) {
        return 98; // A descriptor that the host does not know of.
    }
    return host_ends();
}
