// realloc that fails leaves its block alive; realloc to 0 frees it; a moved block is still the same one.
#include <errno.h>
#include <stdint.h>

#include "truth.h"

static void *volatile kept;
static int clean;

static void edges(void *unused)
{
    AVFrame *frame = frame_with_pixels(0);
    (void)unused;

    kept = malloc(100);
    volatile size_t too_much = PTRDIFF_MAX;
    errno = 0;
    if (realloc(kept, too_much) || errno != ENOMEM)
        truth_die("a realloc that must fail");

    char *grown = malloc(64);
    grown = realloc(grown, 300000);
    grown = realloc(grown, 40);
    volatile size_t nothing = 0;
    if (realloc(grown, nothing))
        truth_die("realloc to 0");

    void *lost = malloc(200);
    if (realloc(lost, too_much))
        truth_die("a realloc that must fail");
    if (clean)
        free(lost);
    volatile size_t half = SIZE_MAX / 2;
    if (reallocarray(NULL, half, 16) || errno != ENOMEM)
        truth_die("an overflowing reallocarray");
    void *array = reallocarray(NULL, 20, 30);
    free(array);
    av_frame_free(&frame);
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    hide(edges, NULL);
    truth.definitely = (struct per_class){ 0, clean ? 0 : 1 };
    truth.possibly = truth.indirectly = (struct per_class){ 0, 0 };
    truth_print();
    return 0;
}
