// A small streaming server in one process: it decodes a file, queues the pictures for a worker thread, which scales them
// and sends them on. It leaks, as such servers do: a picture that is late is skipped, and its frame is forgotten.
// Arguments: file, [clean].
#include <pthread.h>

#include <libavformat/avformat.h>
#include <libswscale/swscale.h>

#include "truth.h"

enum { QUEUE_LENGTH = 8, OUT_WIDTH = 320, OUT_HEIGHT = 180, LATE_EVERY = 40 };

struct queue {
    AVFrame *frames[QUEUE_LENGTH];
    int count, first, closed;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

struct worker {
    struct queue *queue;
    struct SwsContext *scaler;
    unsigned long sent, checksum;
    int64_t shown;
};

static int clean;

static void queue_push(struct queue *queue, AVFrame *frame)
{
    pthread_mutex_lock(&queue->lock);
    while (queue->count == QUEUE_LENGTH)
        pthread_cond_wait(&queue->changed, &queue->lock);
    queue->frames[(queue->first + queue->count++) % QUEUE_LENGTH] = frame;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
}

static AVFrame *queue_pop(struct queue *queue)
{
    AVFrame *frame = NULL;
    pthread_mutex_lock(&queue->lock);
    while (!queue->count && !queue->closed)
        pthread_cond_wait(&queue->changed, &queue->lock);
    if (queue->count) {
        frame = queue->frames[queue->first];
        queue->frames[queue->first] = NULL;
        queue->first = (queue->first + 1) % QUEUE_LENGTH;
        queue->count--;
    }
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
    return frame;
}

static void queue_close(struct queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->closed = 1;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
}

// The clock of the demo is deterministic: every 40th picture is too late to be shown.
static int is_late(const struct worker *worker)
{
    return worker->shown % LATE_EVERY == LATE_EVERY - 1;
}

static AVFrame *scale(struct worker *worker, const AVFrame *picture)
{
    AVFrame *small = av_frame_alloc();
    if (!small)
        return NULL;
    small->format = AV_PIX_FMT_YUV420P;
    small->width = OUT_WIDTH;
    small->height = OUT_HEIGHT;
    worker->scaler = sws_getCachedContext(worker->scaler, picture->width, picture->height, picture->format, OUT_WIDTH,
                                          OUT_HEIGHT, AV_PIX_FMT_YUV420P, SWS_BILINEAR, NULL, NULL, NULL);
    if (!worker->scaler || av_frame_get_buffer(small, 0) < 0 ||
        sws_scale(worker->scaler, (const uint8_t *const *)picture->data, picture->linesize, 0, picture->height, small->data,
                  small->linesize) < 0)
        av_frame_free(&small);
    return small;
}

static void send_picture(struct worker *worker, const AVFrame *picture)
{
    for (int y = 0; y < picture->height; y++)
        for (int x = 0; x < picture->width; x++)
            worker->checksum = worker->checksum * 31 + picture->data[0][y * picture->linesize[0] + x];
    worker->sent++;
}

static void work(void *argument)
{
    struct worker *worker = argument;
    AVFrame *picture;
    while ((picture = queue_pop(worker->queue))) {
        worker->shown++;
        if (is_late(worker)) {
            if (!clean) {
                truth.frames++;
                continue; // the leak: nobody frees this picture
            }
            av_frame_free(&picture);
            continue;
        }
        AVFrame *small = scale(worker, picture);
        if (small)
            send_picture(worker, small);
        av_frame_free(&small);
        av_frame_free(&picture);
    }
    sws_freeContext(worker->scaler);
    worker->scaler = NULL;
}

static void *worker_main(void *worker)
{
    hide(work, worker);
    return NULL;
}

static void decode_packet(AVCodecContext *decoder, const AVPacket *packet, struct queue *queue)
{
    if (avcodec_send_packet(decoder, packet) < 0)
        return;
    for (;;) {
        AVFrame *frame = av_frame_alloc();
        if (!frame || avcodec_receive_frame(decoder, frame) < 0) {
            av_frame_free(&frame);
            return;
        }
        queue_push(queue, frame);
    }
}

struct job {
    const char *path;
    struct queue *queue;
};

static void read_file(void *argument)
{
    struct job *job = argument;
    AVFormatContext *format = NULL;
    const AVCodec *codec = NULL;
    AVPacket *packet = av_packet_alloc();
    if (avformat_open_input(&format, job->path, NULL, NULL) < 0 || avformat_find_stream_info(format, NULL) < 0)
        truth_die("opening the file");
    int stream = av_find_best_stream(format, AVMEDIA_TYPE_VIDEO, -1, -1, (void *)&codec, 0); // const since FFmpeg 5
    AVCodecContext *decoder = stream < 0 ? NULL : avcodec_alloc_context3(codec);
    if (!packet || !decoder || avcodec_parameters_to_context(decoder, format->streams[stream]->codecpar) < 0)
        truth_die("finding a decoder");
    decoder->thread_count = 2;
    if (avcodec_open2(decoder, codec, NULL) < 0)
        truth_die("opening the decoder");
    while (av_read_frame(format, packet) >= 0) {
        if (packet->stream_index == stream)
            decode_packet(decoder, packet, job->queue);
        av_packet_unref(packet);
    }
    decode_packet(decoder, NULL, job->queue);
    queue_close(job->queue);
    av_packet_free(&packet);
    avcodec_free_context(&decoder);
    avformat_close_input(&format);
}

int main(int argc, char **argv)
{
    static struct queue queue = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
    static struct worker worker = { .queue = &queue };
    struct job job = { argc > 1 ? argv[1] : "", &queue };
    pthread_t thread;
    clean = argc > 2 && !strcmp(argv[2], "clean");
    truth.frames_unknown = 1; // the decoder makes frames of its own
    truth.pinned_bytes = -1;
    if (pthread_create(&thread, NULL, worker_main, &worker))
        truth_die("pthread_create");
    hide(read_file, &job);
    pthread_join(thread, NULL);
    fprintf(stderr, "demo_server: %ld pictures decoded, %lu sent (checksum %lx), %ld were late\n", (long)worker.shown,
            worker.sent, worker.checksum, (long)worker.shown / LATE_EVERY);
    truth_print();
    return 0;
}
