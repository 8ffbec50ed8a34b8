// Valgrind's nine cases (memcheck/tests/leak-cases.c) on plain blocks made after the first frame.
#include "truth.h"

struct block {
    void *next;
    char rest[56];
};

static void *volatile roots[9];

NOINLINE static struct block *block_to(void *next)
{
    struct block *block = calloc(1, sizeof *block);
    if (!block)
        truth_die("calloc");
    block->next = next;
    return block;
}

// A pointer into the middle.
static void *inside(void *block)
{
    return (char *)block + 24;
}

static void build(void *unused)
{
    AVFrame *frame = frame_with_pixels(0);
    (void)unused;
    roots[0] = block_to(NULL);                   // 1: p->A
    roots[1] = block_to(block_to(NULL));         // 2: p->A->B
    block_to(NULL);                              // 3: A
    block_to(block_to(NULL));                    // 4: A->B
    roots[4] = inside(block_to(NULL));           // 5: p-?->A
    roots[5] = block_to(inside(block_to(NULL))); // 6: p->A-?->B
    roots[6] = inside(block_to(block_to(NULL))); // 7: p-?->A->B
    roots[7] = inside(block_to(inside(block_to(NULL)))); // 8: p-?->A-?->B
    block_to(inside(block_to(NULL)));            // 9: A-?->B
    av_frame_free(&frame);
}

static void build_clean(void *unused)
{
    AVFrame *frame = frame_with_pixels(0);
    (void)unused;
    roots[0] = block_to(NULL);
    roots[1] = block_to(block_to(NULL));
    av_frame_free(&frame);
}

int main(int argc, char **argv)
{
    if (is_clean(argc, argv)) {
        hide(build_clean, NULL);
        truth.definitely = truth.indirectly = truth.possibly = (struct per_class){ 0, 0 };
    } else {
        hide(build, NULL);
        truth.definitely = (struct per_class){ 0, 3 };
        truth.indirectly = (struct per_class){ 0, 2 };
        truth.possibly = (struct per_class){ 0, 6 };
    }
    truth_print(); // plain blocks are no FFmpeg objects: level normal calls both twins clean
    return 0;
}
