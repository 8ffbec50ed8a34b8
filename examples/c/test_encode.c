// An encoder gives back a packet for each frame, and refuses a frame of another size.
//
// The leak: where the frame is refused, this program's own helper forgets it.
#include <errno.h>
#include <libavcodec/avcodec.h>
#include <stdlib.h>
#include <string.h>

static AVFrame *gray(int width, int height) {
    AVFrame *frame = av_frame_alloc();
    frame->format = AV_PIX_FMT_YUV420P;
    frame->width = width;
    frame->height = height;
    if (av_frame_get_buffer(frame, 0) < 0) abort();
    for (int plane = 0; plane < 3; plane++)
        memset(frame->data[plane], 128, (size_t)frame->linesize[plane] * (plane ? height / 2 : height));
    return frame;
}

static int encode(AVCodecContext *encoder, int width, int height, int64_t pts) {
    AVFrame *frame = gray(width, height);
    frame->pts = pts;
    if (width != encoder->width || height != encoder->height) return AVERROR(EINVAL);
    int code = avcodec_send_frame(encoder, frame);
    av_frame_free(&frame);
    return code;
}

int main(void) {
    AVCodecContext *encoder = avcodec_alloc_context3(avcodec_find_encoder(AV_CODEC_ID_MPEG4));
    encoder->width = 320;
    encoder->height = 180;
    encoder->pix_fmt = AV_PIX_FMT_YUV420P;
    encoder->time_base = (AVRational){1, 25};
    if (avcodec_open2(encoder, NULL, NULL) < 0) return 1;
    AVPacket *packet = av_packet_alloc();
    int packets = 0;
    for (int pts = 0; pts < 25; pts++) {
        if (encode(encoder, 320, 180, pts) < 0) return 2;
        for (; avcodec_receive_packet(encoder, packet) == 0; packets++) av_packet_unref(packet);
    }
    const char *times = getenv("EXAMPLE_TIMES");
    for (int i = times ? atoi(times) : 3; i > 0; i--)
        if (encode(encoder, 64, 64, 25) >= 0) return 3;
    av_packet_free(&packet);
    avcodec_free_context(&encoder);
    return packets == 25 ? 0 : 4;
}
