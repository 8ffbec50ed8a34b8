// A server of a kind: a million live blocks, a gigabyte of live frames, and some frames that are lost 20 functions deep, in libav's hands.
// Prints its own truth as one line of JSON; exits with 0 without freeing anything, as servers do.
//
//     million [BLOCKS [MIB]]        default: 1000000 1024
//
// The blocks hang in lists from a table, 16 to 271 bytes each. All of them, and the frames in `keeper`, MIB of pixels that were all
// written, are reachable; LOST frames with pixels and one frame of which only its middle is known are not.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libavutil/frame.h>

enum { LISTS = 4096, LOST = 5, DEPTH = 20, FRAME_BYTES = 640 * 360 * 3 / 2 };

struct block {
    struct block *next;
    uint64_t bytes;
};

// Volatile, or the compiler sees that nobody reads them and leaves the stores out.
static struct block *volatile table[LISTS];
static AVFrame **volatile keeper;
static void *volatile interior;

static __attribute__((noinline, noclone)) AVFrame *frame_with_pixels(int depth)
{
    if (depth > 1) {
        AVFrame *frame = frame_with_pixels(depth - 1);
        __asm__ volatile("" : : "r"(frame) : "memory"); // no tail call: a frame on the stack for each level
        return frame;
    }
    AVFrame *frame = av_frame_alloc();
    if (!frame)
        abort();
    frame->format = 0; // AV_PIX_FMT_YUV420P
    frame->width = 640;
    frame->height = 360;
    if (av_frame_get_buffer(frame, 0) < 0)
        abort();
    return frame;
}

// No copy of a lost pointer may stay in a dead stack slot.
static __attribute__((noinline, noclone)) void scrub(void)
{
    volatile unsigned char room[64 * 1024];
    memset((void *)room, 0, sizeof room);
    __asm__ volatile("" : : "r"(room) : "memory");
}

static __attribute__((noinline, noclone)) void lose_frames(void)
{
    for (int i = 0; i < LOST; i++)
        __asm__ volatile("" : : "r"(frame_with_pixels(DEPTH)) : "memory");
    interior = (char *)frame_with_pixels(DEPTH) + 64;
}

static long peak_kib(void)
{
    char line[256];
    long peak = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmHWM: %ld", &peak) == 1)
            break;
    if (status)
        fclose(status);
    return peak;
}

int main(int argc, char **argv)
{
    char *end = "";
    long blocks = argc > 1 ? strtol(argv[1], &end, 10) : 1000000;
    if (blocks < 0 || *end) {
        fprintf(stderr, "million: '%s' is not a number of blocks\n", argv[1]);
        return 2;
    }
    long mib = argc > 2 ? strtol(argv[2], &end, 10) : 1024;
    if (mib < 0 || *end) {
        fprintf(stderr, "million: '%s' is not a number of MiB\n", argv[2]);
        return 2;
    }
    long kept = mib * 1024 * 1024 / FRAME_BYTES;
    keeper = calloc(kept + 1, sizeof *keeper);
    if (!keeper)
        abort();
    for (long i = 0; i < kept; i++) {
        keeper[i] = frame_with_pixels(DEPTH);
        for (int plane = 0; plane < 3; plane++)
            memset(keeper[i]->data[plane], (int)i, (size_t)keeper[i]->linesize[plane] * (plane ? 180 : 360));
    }
    lose_frames();
    scrub();
    uint64_t random = 42, bytes = 0;
    for (long i = 0; i < blocks; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u; // Knuth, MMIX
        size_t size = sizeof(struct block) + (random >> 56);
        struct block *block = malloc(size);
        if (!block)
            abort();
        block->next = table[(random >> 32) % LISTS];
        block->bytes = size;
        table[(random >> 32) % LISTS] = block;
        bytes += size;
    }
    scrub();
    printf("{\"blocks\":%ld,\"bytes\":%llu,\"lost_frames\":%d,\"possibly_lost_frames\":1,\"kept_frames\":%ld,"
           "\"peak_kib\":%ld}\n",
           blocks, (unsigned long long)bytes, LOST, kept, peak_kib());
    return 0;
}
