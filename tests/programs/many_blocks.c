// A million live blocks in one of four shapes, and 1 GiB of frames with every page touched; three of the frames are lost.
// Shapes: an array of pointers, a list in random order, a binary tree, or the same list after its head is lost.
// Arguments: array, list, tree or lost; then, for the twin that loses no frame, "clean".
#include "truth.h"

enum { BLOCKS = 1000000, WIDTH = 1920, HEIGHT = 1080, FRAMES = (1 << 30) / (WIDTH * HEIGHT * 3 / 2) + 1, LOST = 3 };

struct node {
    struct node *left, *right;
    char rest[]; // 16 to 79 bytes
};

static struct node **volatile all; // the array; else a work list that is given back
static struct node *volatile root; // of the list or the tree
static AVFrame *volatile frames[FRAMES];
static unsigned long long state = 88172645463325252ULL;

static unsigned long long random_number(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

NOINLINE static void make_frame(int at)
{
    AVFrame *frame = frame_shell();
    frame->format = AV_PIX_FMT_YUV420P;
    frame->width = WIDTH;
    frame->height = HEIGHT;
    frame->pts = at;
    if (av_frame_get_buffer(frame, 0) < 0)
        truth_die("av_frame_get_buffer");
    for (int i = 0; i < AV_NUM_DATA_POINTERS && frame->buf[i]; i++)
        memset(frame->buf[i]->data, 16 + at % 200, frame->buf[i]->size);
    frames[at] = frame;
}

static void make(void *unused)
{
    (void)unused;
    for (int i = 0; i < FRAMES; i++)
        make_frame(i);
    all = malloc(BLOCKS * sizeof *all);
    for (long i = 0; i < BLOCKS; i++) {
        all[i] = calloc(1, sizeof(struct node) + 16 + random_number() % 64);
        if (!all[i])
            truth_die("calloc");
    }
}

// Fisher and Yates.
static void shuffle(void)
{
    for (long i = BLOCKS - 1; i > 0; i--) {
        long other = (long)(random_number() % (unsigned long)(i + 1));
        struct node *held = all[i];
        all[i] = all[other];
        all[other] = held;
    }
}

static void link_up(void *shape)
{
    if (strcmp(shape, "array") == 0)
        return;
    shuffle();
    int is_tree = strcmp(shape, "tree") == 0;
    for (long i = 0; i < BLOCKS; i++) {
        long left = is_tree ? 2 * i + 1 : i + 1, right = 2 * i + 2;
        all[i]->left = left < BLOCKS ? all[left] : NULL;
        all[i]->right = is_tree && right < BLOCKS ? all[right] : NULL;
    }
    root = all[0];
    memset(all, 0, BLOCKS * sizeof *all);
    free(all);
    all = NULL;
}

static void lose(void *clean)
{
    for (int i = 0; !*(int *)clean && i < LOST; i++) {
        frame_will_be_lost(frames[i]);
        frames[i] = NULL;
    }
}

int main(int argc, char **argv)
{
    int clean = argc > 2 && strcmp(argv[2], "clean") == 0;
    const char *shape = argc > 1 ? argv[1] : "array";
    if (strcmp(shape, "array") && strcmp(shape, "list") && strcmp(shape, "tree") && strcmp(shape, "lost")) {
        fprintf(stderr, "%s: usage: %s array|list|tree|lost [clean]\n", argv[0], argv[0]);
        return 99;
    }
    hide(make, NULL);
    hide(link_up, (void *)shape);
    hide(lose, &clean);
    truth.definitely.frames = truth.frames;
    truth.indirectly.frames = truth.possibly.frames = 0;
    truth.reachable.frames = FRAMES - truth.frames;
    if (strcmp(shape, "lost") == 0)
        root = NULL;
    truth_print();
    return 0;
}
