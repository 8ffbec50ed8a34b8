// What every fixture shares: it makes frames with real pixels, loses pointers without leaving a copy of them in a dead
// stack slot or a register, and prints its own truth as one line of JSON.
//
// {"truth":{"pid":812,"ended":{"exit":0},"leaks":{"frames":3,"packets":0,"buffer_refs":0,"contexts":0,"pinned_bytes":N},
//           "observed":{"frames_allocated":20},"totals":{"possibly_lost":{"frames":6}},"slack_objects":0}}
//
// The keys are those of avleak's report; what is absent the fixture does not speak of. "slack_objects" is how many lost
// objects a stale word may hide. "verdict" is given where it does not follow from the leaks: a verdict, or "not clean"
// where avleak may be unable to tell, which must never read as "no leaks".
#ifndef TRUTH_H
#define TRUTH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libavcodec/avcodec.h>
#include <libavutil/frame.h>

#define NOINLINE __attribute__((noinline, noclone, unused))
#define FIXTURE static __attribute__((unused))

enum { FIXTURE_WIDTH = 640, FIXTURE_HEIGHT = 360 };

// -1: not spoken of.
struct per_class {
    long frames, blocks;
};

struct truth {
    long frames, packets, buffer_refs, contexts; // leaks
    long pinned_bytes;
    long packets_allocated, calls_frame_alloc;
    struct per_class definitely, indirectly, possibly, reachable;
    long exit_status, signal;
    long slack_objects;
    const char *verdict;
    int exec;           // ends by replacing itself
    int unseen;         // FFmpeg is used where no preload reaches: no report at all
    int drops_allowed;  // events may be dropped, and are then reported
    int frames_unknown; // frames_allocated is not counted here, because libav makes some of its own
};

static struct truth truth __attribute__((unused)) = {
    .packets_allocated = -1, .calls_frame_alloc = -1,
    .definitely = { -1, -1 }, .indirectly = { -1, -1 }, .possibly = { -1, -1 }, .reachable = { -1, -1 },
    .signal = -1,
};

// Frames made by the helpers below, in any thread.
static atomic_long frames_made __attribute__((unused));

FIXTURE void truth_die(const char *what)
{
    fprintf(stderr, "fixture: %s failed\n", what);
    _exit(99);
}

// Overwrites the dead part of this stack, the vector registers and those that a call may change: no stale word is left there.
NOINLINE static void scrub(void)
{
    volatile unsigned long room[64 * 1024];
    for (size_t i = 0; i < sizeof room / sizeof room[0]; i++)
        room[i] = 0;
#if defined(__x86_64__)
    __asm__ volatile("pxor %%xmm0,%%xmm0\n pxor %%xmm1,%%xmm1\n pxor %%xmm2,%%xmm2\n pxor %%xmm3,%%xmm3\n"
                     "pxor %%xmm4,%%xmm4\n pxor %%xmm5,%%xmm5\n pxor %%xmm6,%%xmm6\n pxor %%xmm7,%%xmm7\n"
                     "pxor %%xmm8,%%xmm8\n pxor %%xmm9,%%xmm9\n pxor %%xmm10,%%xmm10\n pxor %%xmm11,%%xmm11\n"
                     "pxor %%xmm12,%%xmm12\n pxor %%xmm13,%%xmm13\n pxor %%xmm14,%%xmm14\n pxor %%xmm15,%%xmm15\n" ::
                         : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                           "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory");
    // A system call that follows keeps them, and so does a thread that is stopped in it.
    __asm__ volatile("xor %%ecx,%%ecx\n xor %%edx,%%edx\n xor %%esi,%%esi\n xor %%edi,%%edi\n xor %%r8d,%%r8d\n xor %%r9d,%%r9d\n"
                     "xor %%r10d,%%r10d\n xor %%r11d,%%r11d\n" ::
                         : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11");
#endif
}

// Runs `body` and wipes what it left behind.
NOINLINE static void hide(void (*volatile body)(void *), void *argument)
{
    body(argument);
    scrub();
}

// A frame without pixels.
NOINLINE static AVFrame *frame_shell(void)
{
    AVFrame *frame = av_frame_alloc();
    if (!frame)
        truth_die("av_frame_alloc");
    atomic_fetch_add(&frames_made, 1);
    return frame;
}

// A frame with 640x360 pixels in buffers of its own.
NOINLINE static AVFrame *frame_with_pixels(int64_t pts)
{
    AVFrame *frame = frame_shell();
    frame->format = AV_PIX_FMT_YUV420P;
    frame->width = FIXTURE_WIDTH;
    frame->height = FIXTURE_HEIGHT;
    frame->pts = pts;
    if (av_frame_get_buffer(frame, 0) < 0)
        truth_die("av_frame_get_buffer");
    for (int plane = 0; plane < 3; plane++)
        memset(frame->data[plane], 16 + (int)(pts % 200), (size_t)frame->linesize[plane] * (plane ? 180 : 360));
    return frame;
}

// av_frame_clone, which makes a frame inside libav.
NOINLINE static AVFrame *frame_cloned(const AVFrame *source)
{
    AVFrame *frame = av_frame_clone(source);
    if (!frame)
        truth_die("av_frame_clone");
    atomic_fetch_add(&frames_made, 1);
    return frame;
}

// Bytes of the buffers that a frame refers to.
FIXTURE long frame_bytes(const AVFrame *frame)
{
    long bytes = 0;
    for (int i = 0; i < AV_NUM_DATA_POINTERS && frame->buf[i]; i++)
        bytes += (long)frame->buf[i]->size;
    return bytes;
}

// Notes that this frame, with buffers that no one else refers to, is about to be lost.
FIXTURE void frame_will_be_lost(const AVFrame *frame)
{
    truth.frames++;
    truth.pinned_bytes += frame_bytes(frame);
}

static char truth_line[2048] __attribute__((unused));

FIXTURE int truth_class(int at, const char *name, struct per_class class, int *first)
{
    if (class.frames < 0 && class.blocks < 0)
        return at;
    at += snprintf(truth_line + at, sizeof truth_line - (size_t)at, "%s\"%s\":{", *first ? "" : ",", name);
    *first = 0;
    if (class.frames >= 0)
        at += snprintf(truth_line + at, sizeof truth_line - (size_t)at, "\"frames\":%ld%s", class.frames,
                       class.blocks >= 0 ? "," : "");
    if (class.blocks >= 0)
        at += snprintf(truth_line + at, sizeof truth_line - (size_t)at, "\"blocks\":%ld", class.blocks);
    return at + snprintf(truth_line + at, sizeof truth_line - (size_t)at, "}");
}

// Prints the truth of this process with one write.
NOINLINE static void truth_print(void)
{
    int at = 0, first = 1;
#define PUT(...) at += snprintf(truth_line + at, sizeof truth_line - (size_t)at, __VA_ARGS__)
    PUT("{\"truth\":{\"pid\":%d,", (int)getpid());
    if (truth.exec)
        PUT("\"ended\":{\"exec\":true},");
    else if (truth.signal >= 0)
        PUT("\"ended\":{\"signal\":%ld},", truth.signal);
    else
        PUT("\"ended\":{\"exit\":%ld},", truth.exit_status);
    PUT("\"leaks\":{\"frames\":%ld,\"packets\":%ld,\"buffer_refs\":%ld,\"contexts\":%ld", truth.frames, truth.packets,
        truth.buffer_refs, truth.contexts);
    if (truth.pinned_bytes >= 0)
        PUT(",\"pinned_bytes\":%ld", truth.pinned_bytes);
    PUT("},\"observed\":{");
    if (!truth.frames_unknown) {
        PUT("\"frames_allocated\":%ld", atomic_load(&frames_made));
        first = 0;
    }
    if (truth.packets_allocated >= 0) {
        PUT("%s\"packets_allocated\":%ld", first ? "" : ",", truth.packets_allocated);
        first = 0;
    }
    if (truth.calls_frame_alloc >= 0)
        PUT("%s\"calls\":{\"av_frame_alloc\":%ld}", first ? "" : ",", truth.calls_frame_alloc);
    PUT("},\"totals\":{");
    first = 1;
    at = truth_class(at, "definitely_lost", truth.definitely, &first);
    at = truth_class(at, "indirectly_lost", truth.indirectly, &first);
    at = truth_class(at, "possibly_lost", truth.possibly, &first);
    at = truth_class(at, "still_reachable", truth.reachable, &first);
    PUT("}");
    if (truth.verdict)
        PUT(",\"verdict\":\"%s\"", truth.verdict);
    if (truth.unseen)
        PUT(",\"unseen\":true");
    if (truth.drops_allowed)
        PUT(",\"drops_allowed\":true");
    PUT(",\"slack_objects\":%ld}}\n", truth.slack_objects);
#undef PUT
    for (int done = 0; done < at;) {
        ssize_t n = write(STDOUT_FILENO, truth_line + done, (size_t)(at - done));
        if (n <= 0)
            truth_die("write of the truth");
        done += (int)n;
    }
    scrub();
}

// True where the program was called with `word` as its first argument.
FIXTURE int mode_is(int argc, char **argv, const char *word)
{
    return argc > 1 && strcmp(argv[1], word) == 0;
}

// True where the clean twin is asked for.
FIXTURE int is_clean(int argc, char **argv)
{
    return mode_is(argc, argv, "clean");
}

#endif
