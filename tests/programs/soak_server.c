// A streaming server as they run for months: each stream is a thread that reads a file over and over, decodes it, sends it through a filter
// graph, keeps the last pictures warm in frames of a pool, encodes, and muxes to a viewer. Streams connect anew now and then, all torn down and
// rebuilt, one after the other; and each is quiet for a third of its time, with most of its cache given back.
//
// With --leak-every N every Nth picture leaks, as it happens: a snapshot is made for a viewer who has just gone, and that path forgets it.
// Each leak is a line of JSON with its time; the last lines are what was done, and the truth.
//
// Arguments: VIDEO [--streams N] [--leak-every N] [--pace FPS, 0: as fast as it can] [--frames N of each stream, 0: until SIGTERM]
//            [--reconnect FRAMES] [--breath SECONDS of the quickest stream, 0: none]
#include <libavfilter/avfilter.h>
#include <libavfilter/buffersink.h>
#include <libavfilter/buffersrc.h>
#include <libavformat/avformat.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "truth.h"

enum { RATE = 25, WARM = 32, MOST_STREAMS = 64, IO_BYTES = 4096 };

static struct {
    const char *video;
    long streams, leak_every, pace, frames, reconnect, breath;
} options = { .streams = 10, .pace = RATE, .reconnect = 1500 };

struct stream {
    int id;
    pthread_t thread;
    AVFormatContext *input, *output;
    AVCodecContext *decoder, *encoder;
    AVFilterGraph *graph;
    AVFilterContext *source, *sink;
    AVBufferPool *pool;
    AVFrame *warm[WARM];
    AVPacket *packet;
    int video, width, height; // which track; of what goes out, half of what comes in
    long decoded, since_connected, filtered, position, connections, sent_bytes;
};

static atomic_int stopping;
static atomic_long served;
static pthread_mutex_t leak_lock = PTHREAD_MUTEX_INITIALIZER;

static double seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void say(const char *line, int length)
{
    if (write(STDOUT_FILENO, line, (size_t)length) != length)
        truth_die("write of a line");
}

static int to_viewer(void *opaque, uint8_t *data, int size)
{
    struct stream *stream = opaque;
    (void)data;
    stream->sent_bytes += size;
    return size;
}

static void open_input(struct stream *stream)
{
    const AVCodec *codec = NULL;
    if (avformat_open_input(&stream->input, options.video, NULL, NULL) < 0 ||
        avformat_find_stream_info(stream->input, NULL) < 0 ||
        (stream->video = av_find_best_stream(stream->input, AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0)) < 0)
        truth_die("opening the video");
    stream->decoder = avcodec_alloc_context3(codec);
    if (!stream->decoder ||
        avcodec_parameters_to_context(stream->decoder, stream->input->streams[stream->video]->codecpar) < 0)
        truth_die("the decoder");
    // Every other stream decodes in two threads.
    stream->decoder->thread_count = 1 + stream->id % 2;
    if (avcodec_open2(stream->decoder, codec, NULL) < 0)
        truth_die("opening the decoder");
    stream->width = stream->decoder->width / 4 * 2;
    stream->height = stream->decoder->height / 4 * 2;
}

static void open_graph(struct stream *stream)
{
    char arguments[256], filters[256];
    AVFilterInOut *in = avfilter_inout_alloc(), *out = avfilter_inout_alloc();
    stream->graph = avfilter_graph_alloc();
    if (!in || !out || !stream->graph)
        truth_die("the filter graph");
    stream->graph->nb_threads = 1;
    snprintf(arguments, sizeof arguments, "video_size=%dx%d:pix_fmt=%d:time_base=1/%d:pixel_aspect=1/1", stream->decoder->width,
             stream->decoder->height, stream->decoder->pix_fmt, RATE);
    snprintf(filters, sizeof filters, "scale=%d:%d,drawbox=8:8:40:20:red,fps=%d,format=yuv420p", stream->width, stream->height, RATE);
    if (avfilter_graph_create_filter(&stream->source, avfilter_get_by_name("buffer"), "in", arguments, NULL, stream->graph) < 0 ||
        avfilter_graph_create_filter(&stream->sink, avfilter_get_by_name("buffersink"), "out", NULL, NULL, stream->graph) < 0)
        truth_die("the ends of the filter graph");
    out->name = av_strdup("in");
    out->filter_ctx = stream->source;
    in->name = av_strdup("out");
    in->filter_ctx = stream->sink;
    if (avfilter_graph_parse_ptr(stream->graph, filters, &in, &out, NULL) < 0 || avfilter_graph_config(stream->graph, NULL) < 0)
        truth_die("configuring the filter graph");
    avfilter_inout_free(&in);
    avfilter_inout_free(&out);
}

static void open_output(struct stream *stream)
{
    const AVCodec *codec = avcodec_find_encoder(AV_CODEC_ID_MPEG4);
    AVStream *track;
    stream->encoder = avcodec_alloc_context3(codec);
    if (!stream->encoder)
        truth_die("the encoder");
    stream->encoder->width = stream->width;
    stream->encoder->height = stream->height;
    stream->encoder->pix_fmt = AV_PIX_FMT_YUV420P;
    stream->encoder->time_base = (AVRational){ 1, RATE };
    stream->encoder->bit_rate = 400000;
    stream->encoder->gop_size = RATE;
    stream->encoder->thread_count = 1;
    if (avcodec_open2(stream->encoder, codec, NULL) < 0 ||
        avformat_alloc_output_context2(&stream->output, NULL, "mpegts", NULL) < 0 ||
        !(track = avformat_new_stream(stream->output, NULL)) || avcodec_parameters_from_context(track->codecpar, stream->encoder) < 0)
        truth_die("the output");
    track->time_base = stream->encoder->time_base;
    stream->output->pb = avio_alloc_context(av_malloc(IO_BYTES), IO_BYTES, 1, stream, NULL, to_viewer, NULL);
    if (!stream->output->pb || avformat_write_header(stream->output, NULL) < 0)
        truth_die("the header");
}

static void connect_stream(struct stream *stream)
{
    open_input(stream);
    open_graph(stream);
    open_output(stream);
    stream->pool = av_buffer_pool_init((size_t)av_image_get_buffer_size(AV_PIX_FMT_YUV420P, stream->width, stream->height, 32), NULL);
    stream->packet = av_packet_alloc();
    if (!stream->pool || !stream->packet)
        truth_die("a pool");
    stream->since_connected = stream->filtered = stream->position = 0;
    stream->connections++;
}

// The warm pictures outlive it, and with them the pool.
static void disconnect_stream(struct stream *stream)
{
    av_write_trailer(stream->output);
    av_freep(&stream->output->pb->buffer);
    avio_context_free(&stream->output->pb);
    avformat_free_context(stream->output);
    stream->output = NULL;
    avcodec_free_context(&stream->encoder);
    avfilter_graph_free(&stream->graph);
    avcodec_free_context(&stream->decoder);
    avformat_close_input(&stream->input);
    av_buffer_pool_uninit(&stream->pool);
    av_packet_free(&stream->packet);
}

static void forget_warm(struct stream *stream, int first)
{
    for (int i = first; i < WARM; i++)
        av_frame_free(&stream->warm[i]);
}

// Whoever connects late begins with the last pictures.
NOINLINE static void keep_warm(struct stream *stream, const AVFrame *picture)
{
    AVFrame *copy = av_frame_alloc(), **slot = &stream->warm[stream->filtered % WARM];
    if (!copy || !(copy->buf[0] = av_buffer_pool_get(stream->pool)))
        truth_die("a warm picture");
    copy->format = picture->format;
    copy->width = picture->width;
    copy->height = picture->height;
    copy->pts = picture->pts;
    if (av_image_fill_arrays(copy->data, copy->linesize, copy->buf[0]->data, AV_PIX_FMT_YUV420P, copy->width, copy->height, 32) < 0 ||
        av_frame_copy(copy, picture) < 0)
        truth_die("copying a picture");
    av_frame_free(slot);
    *slot = copy;
}

static void note_leak(const AVFrame *frame, long number)
{
    char line[160];
    pthread_mutex_lock(&leak_lock);
    frame_will_be_lost(frame);
    // A file's first picture holds what its encoder was called, in a block one byte larger than its ref says: libavcodec
    // ends the text with a zero.
    for (int i = 0; i < frame->nb_side_data; i++)
        truth.pinned_bytes += (long)frame->side_data[i]->buf->size + (frame->side_data[i]->type == AV_FRAME_DATA_SEI_UNREGISTERED);
    int length = snprintf(line, sizeof line, "{\"leak\":{\"count\":%ld,\"at\":%.3f,\"frame\":%ld,\"bytes\":%ld}}\n", truth.frames,
                          seconds(CLOCK_REALTIME), number, truth.pinned_bytes);
    say(line, length);
    pthread_mutex_unlock(&leak_lock);
}

static int viewer_is_gone(long number)
{
    return options.leak_every && number % options.leak_every == 0;
}

// The leak: the way out where the viewer is gone forgets the snapshot.
NOINLINE static int send_snapshot(struct stream *stream, const AVFrame *picture)
{
    long number = atomic_fetch_add(&served, 1) + 1;
    AVFrame *snapshot = av_frame_clone(picture);
    if (!snapshot)
        truth_die("a snapshot");
    if (viewer_is_gone(number)) {
        note_leak(snapshot, number);
        return -1;
    }
    for (int y = 0; y < snapshot->height; y += 16)
        stream->sent_bytes += snapshot->data[0][y * snapshot->linesize[0]] & 1;
    av_frame_free(&snapshot);
    return 0;
}

static void encode(struct stream *stream, AVFrame *picture)
{
    AVStream *track = stream->output->streams[0];
    if (avcodec_send_frame(stream->encoder, picture) < 0)
        truth_die("the encoder");
    while (avcodec_receive_packet(stream->encoder, stream->packet) >= 0) {
        av_packet_rescale_ts(stream->packet, stream->encoder->time_base, track->time_base);
        if (av_interleaved_write_frame(stream->output, stream->packet) < 0)
            truth_die("the muxer");
    }
}

static void filter(struct stream *stream, AVFrame *picture, AVFrame *small)
{
    picture->pts = stream->since_connected;
    picture->pict_type = AV_PICTURE_TYPE_NONE;
    if (av_buffersrc_add_frame(stream->source, picture) < 0)
        truth_die("the filter graph");
    while (av_buffersink_get_frame(stream->sink, small) >= 0) {
        small->pict_type = AV_PICTURE_TYPE_NONE;
        small->pts = stream->filtered++;
        keep_warm(stream, small);
        encode(stream, small);
        av_frame_unref(small);
    }
}

// The next packet of the picture; the file begins anew where it ends.
static void read_packet(struct stream *stream)
{
    for (;;) {
        if (av_read_frame(stream->input, stream->packet) < 0) {
            if (av_seek_frame(stream->input, -1, 0, AVSEEK_FLAG_BACKWARD) < 0)
                truth_die("seeking");
            avcodec_flush_buffers(stream->decoder);
        } else if (stream->packet->stream_index == stream->video) {
            return;
        } else {
            av_packet_unref(stream->packet);
        }
    }
}

static int is_done(const struct stream *stream)
{
    return atomic_load(&stopping) || (options.frames && stream->decoded >= options.frames);
}

// Until the next picture is due, and longer where this stream is quiet.
static void wait_for_turn(struct stream *stream, double begun, double *due)
{
    double period = (double)options.breath * (1 + stream->id / 3.0), at = (seconds(CLOCK_MONOTONIC) - begun) / (period > 0 ? period : 1);
    if (period > 0 && at - (double)(long)at > 2.0 / 3) {
        forget_warm(stream, WARM / 4);
        while (!atomic_load(&stopping) && seconds(CLOCK_MONOTONIC) - begun < ((double)(long)at + 1) * period)
            usleep(50000);
    }
    if (!options.pace)
        return;
    double now = seconds(CLOCK_MONOTONIC);
    *due = *due < now - 1 ? now : *due + 1.0 / (double)options.pace;
    if (*due > now)
        usleep((useconds_t)((*due - now) * 1e6));
}

static void serve(void *argument)
{
    struct stream *stream = argument;
    double begun = seconds(CLOCK_MONOTONIC), due = begun;
    AVFrame *picture = av_frame_alloc(), *small = av_frame_alloc();
    if (!picture || !small)
        truth_die("frames");
    while (!is_done(stream)) {
        connect_stream(stream);
        long until = options.reconnect + options.reconnect * stream->id / options.streams;
        while (!is_done(stream) && stream->since_connected < until) {
            read_packet(stream);
            if (avcodec_send_packet(stream->decoder, stream->packet) < 0)
                truth_die("the decoder");
            av_packet_unref(stream->packet);
            while (!is_done(stream) && avcodec_receive_frame(stream->decoder, picture) >= 0) {
                stream->decoded++;
                stream->since_connected++;
                send_snapshot(stream, picture);
                filter(stream, picture, small);
                av_frame_unref(picture);
                wait_for_turn(stream, begun, &due);
            }
        }
        disconnect_stream(stream);
    }
    forget_warm(stream, 0);
    av_frame_free(&small);
    av_frame_free(&picture);
}

static void *stream_main(void *stream)
{
    hide(serve, stream);
    return NULL;
}

static void read_options(int argc, char **argv)
{
    struct {
        const char *name;
        long *value;
    } known[] = { { "--streams", &options.streams }, { "--leak-every", &options.leak_every }, { "--pace", &options.pace },
                  { "--frames", &options.frames },   { "--reconnect", &options.reconnect },   { "--breath", &options.breath } };
    if (argc < 2 || argc % 2)
        truth_die("reading the arguments");
    options.video = argv[1];
    for (int i = 2; i < argc; i += 2) {
        size_t at = 0;
        while (at < sizeof known / sizeof known[0] && strcmp(argv[i], known[at].name))
            at++;
        if (at == sizeof known / sizeof known[0])
            truth_die(argv[i]);
        *known[at].value = atol(argv[i + 1]);
    }
    if (options.streams < 1 || options.streams > MOST_STREAMS || options.reconnect < 1)
        truth_die("reading the numbers");
}

static struct stream *streams;

static void run_streams(void)
{
    int signal;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    streams = calloc((size_t)options.streams, sizeof *streams);
    for (long i = 0; streams && i < options.streams; i++) {
        streams[i].id = (int)i;
        if (pthread_create(&streams[i].thread, NULL, stream_main, &streams[i]))
            truth_die("pthread_create");
    }
    if (!options.frames) {
        sigwait(&set, &signal);
        atomic_store(&stopping, 1);
    }
    for (long i = 0; streams && i < options.streams; i++)
        pthread_join(streams[i].thread, NULL);
}

int main(int argc, char **argv)
{
    char line[256];
    read_options(argc, argv);
    av_log_set_level(AV_LOG_ERROR);
    say(line, snprintf(line, sizeof line, "{\"serving\":{\"pid\":%d}}\n", (int)getpid()));
    double begun = seconds(CLOCK_MONOTONIC);
    run_streams();
    long connections = 0;
    for (long i = 0; i < options.streams; i++)
        connections += streams[i].connections;
    say(line, snprintf(line, sizeof line, "{\"done\":{\"wall_s\":%.3f,\"frames\":%ld,\"leaked\":%ld,\"leaked_bytes\":%ld,\"connections\":%ld}}\n",
                       seconds(CLOCK_MONOTONIC) - begun, atomic_load(&served), truth.frames, truth.pinned_bytes, connections));
    free(streams);
    truth.frames_unknown = 1;
    truth_print();
    return 0;
}
