// av_frame_unref is forgotten before a frame is filled again: the refs that it held are overwritten.
#include "truth.h"

static int clean;

static void stream(void *unused)
{
    AVFrame *shown = frame_shell();
    (void)unused;
    for (int64_t pts = 0; pts < 4; pts++) {
        AVFrame *decoded = frame_with_pixels(pts);
        if (clean) {
            av_frame_unref(shown);
        } else {
            for (int i = 0; i < AV_NUM_DATA_POINTERS && shown->buf[i]; i++)
                truth.buffer_refs++;
            truth.pinned_bytes += frame_bytes(shown);
        }
        if (av_frame_ref(shown, decoded) < 0)
            truth_die("av_frame_ref");
        av_frame_free(&decoded);
    }
    av_frame_free(&shown);
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    hide(stream, NULL);
    truth.definitely.frames = 0;
    truth_print();
    return 0;
}
