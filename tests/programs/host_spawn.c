// A storm of posix_spawn, vfork and system() from four threads, while four others use FFmpeg; every child must be seen, with its status.
#include <spawn.h>
#include <sys/wait.h>

#include "host.h"

enum { THREADS = 4, CHILDREN = 40, ROUNDS = 200 };
extern char **environ;
static atomic_int bad, seen;

NOINLINE static pid_t start_by_vfork(char **child)
{
    pid_t pid = vfork();
    if (pid == 0) {
        execve("/bin/sh", child, environ);
        _exit(99);
    }
    return pid;
}

static void *spawner(void *number)
{
    char word[16];
    char *child[] = { "sh", "-c", word, NULL };
    for (int i = 0; i < CHILDREN; i++) {
        int status = 0, wanted = (int)(long)number * 10 + i % 10;
        pid_t pid = 0;
        snprintf(word, sizeof word, "exit %d", wanted);
        if (i % 3 == 0) {
            if (posix_spawnp(&pid, "sh", NULL, NULL, child, environ))
                truth_die("posix_spawnp");
        } else if (i % 3 == 1) {
            pid = start_by_vfork(child);
        } else {
            status = system(word);
        }
        if (pid && waitpid(pid, &status, 0) != pid)
            truth_die("waitpid");
        if (!WIFEXITED(status) || WEXITSTATUS(status) != wanted)
            bad++;
        seen++;
    }
    return NULL;
}

static void use(void *number)
{
    for (int i = 0; i < ROUNDS; i++) {
        AVFrame *frame = frame_with_pixels(i);
        if (!clean && i == 100)
            host_lose(frame);
        else
            av_frame_free(&frame);
    }
    (void)number;
}

static void *user(void *number)
{
    hide(use, number);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[2 * THREADS];
    clean = is_clean(argc, argv);
    for (long i = 0; i < 2 * THREADS; i++)
        if (pthread_create(&threads[i], NULL, i % 2 ? spawner : user, (void *)(i / 2)))
            truth_die("pthread_create");
    for (int i = 0; i < 2 * THREADS; i++)
        pthread_join(threads[i], NULL);
    if (bad || seen != THREADS * CHILDREN || waitpid(-1, NULL, __WALL) != -1) {
        fprintf(stderr, "fixture: %d of %d children ended wrongly\n", bad, seen);
        return 97;
    }
    return host_ends();
}
