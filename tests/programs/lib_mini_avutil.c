// A libavutil of a few functions, which marks its frames with VARIANT: two of the same name can live in one process.
#include <stdlib.h>
#include <string.h>

#ifndef VARIANT
#define VARIANT 0
#endif

struct AVFrame {
    void *data[8];
    int linesize[8];
    void **extended_data; // word 96: the address of data, that is of the frame
    int width, height, nb_samples, format;
    char rest[544 - 96 - 8 - 16];
};

_Static_assert(sizeof(struct AVFrame) == 544, "as libavutil 57 has it");

struct AVFrame *av_frame_alloc(void)
{
    void *block;
    if (posix_memalign(&block, 32, sizeof(struct AVFrame)))
        return NULL;
    struct AVFrame *frame = block;
    memset(frame, 0, sizeof *frame);
    frame->extended_data = frame->data;
    frame->format = -1;
    frame->nb_samples = VARIANT;
    return frame;
}

void av_frame_free(struct AVFrame **frame)
{
    free(*frame);
    *frame = NULL;
}

unsigned avutil_version(void)
{
    return 57u << 16;
}
