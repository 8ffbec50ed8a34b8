// longjmp out of FFmpeg: a log callback never returns, and jumps over libavutil's frames, after allocations beneath them.
#include <setjmp.h>
#include <stdarg.h>

#include "host.h"

enum { ROUNDS = 200 };
static jmp_buf back;
static void *volatile kept;


static void leaves(void *unused, int level, const char *format, va_list words)
{
    (void)unused, (void)level, (void)format, (void)words;
    // A block and a frame are made on the way, then nobody returns.
    kept = malloc(1000);
    AVFrame *frame = frame_with_pixels(1);
    av_frame_free(&frame);
    longjmp(back, 1);
}

static void round_trip(void *number)
{
    AVFrame *volatile frame = frame_with_pixels((long)number);
    if (setjmp(back) == 0) {
        av_log(NULL, AV_LOG_INFO, "away\n");
        truth_die("longjmp");
    }
    free(kept);
    kept = NULL;
    if (!clean && (long)number % 100 == 50) {
        frame_will_be_lost(frame);
        frame = NULL;
    } else {
        AVFrame *mine = frame;
        av_frame_free(&mine);
    }
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    av_log_set_callback(leaves);
    for (long i = 0; i < ROUNDS; i++)
        hide(round_trip, (void *)i);
    return host_ends();
}
