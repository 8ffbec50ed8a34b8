// Decodes a file and ends badly: of the decoded frames it loses some, and holds others by a list on the heap, by its own stack, by a callee-saved
// register alone, and by the stacks of other threads.
//
//   crash MEDIA abort|segv|kill|exit|wait leak|clean [THREADS]
//
// With "wait" it says "ready PID" and waits; each SIGUSR1 makes it lose three more frames, and say how many are lost; SIGTERM is abort().
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include <libavformat/avformat.h>

#include "truth.h"

enum { LOST = 7, LISTED = 5, MOST_THREADS = 64 };

struct entry {
    struct entry *next;
    AVFrame *frame;
};

static struct entry *list;
static AVFrame *decoded[LOST + LISTED + 2 + MOST_THREADS];
static pthread_barrier_t all_there;

// The first frames of the video, each a reference to the decoder's buffers.
static void decode(void *name)
{
    AVFormatContext *format = NULL;
    AVPacket *packet = av_packet_alloc();
    const AVCodec *codec = NULL;
    int count = 0, stream;
    if (!packet || avformat_open_input(&format, name, NULL, NULL) < 0 || avformat_find_stream_info(format, NULL) < 0)
        truth_die("opening the file");
    stream = av_find_best_stream(format, AVMEDIA_TYPE_VIDEO, -1, -1, (void *)&codec, 0);
    AVCodecContext *context = avcodec_alloc_context3(codec);
    if (stream < 0 || !context || avcodec_parameters_to_context(context, format->streams[stream]->codecpar) < 0)
        truth_die("finding the video");
    context->thread_count = 1;
    if (avcodec_open2(context, codec, NULL) < 0)
        truth_die("opening the decoder");
    while (count < (int)(sizeof decoded / sizeof decoded[0]) && av_read_frame(format, packet) >= 0) {
        if (packet->stream_index == stream && avcodec_send_packet(context, packet) >= 0) {
            AVFrame *frame = av_frame_alloc();
            while (count < (int)(sizeof decoded / sizeof decoded[0]) && avcodec_receive_frame(context, frame) >= 0) {
                decoded[count++] = frame;
                frame = av_frame_alloc();
            }
            av_frame_free(&frame);
        }
        av_packet_unref(packet);
    }
    if (count < (int)(sizeof decoded / sizeof decoded[0]))
        truth_die("decoding enough frames");
    av_packet_free(&packet);
    avcodec_free_context(&context);
    avformat_close_input(&format);
}

static AVFrame *take(int at)
{
    AVFrame *frame = decoded[at];
    decoded[at] = NULL;
    return frame;
}

static void share_out(void *clean)
{
    for (int i = 0; i < LOST; i++) {
        AVFrame *frame = take(i);
        if (clean)
            av_frame_free(&frame);
        else
            truth.frames++;
    }
    for (int i = 0; i < LISTED; i++) {
        struct entry *entry = malloc(sizeof *entry);
        if (!entry)
            truth_die("malloc");
        *entry = (struct entry){ list, take(LOST + i) };
        list = entry;
    }
}

static void *hold(void *number)
{
    AVFrame *volatile mine = take((int)(long)number);
    scrub();
    pthread_barrier_wait(&all_there);
    for (;;)
        pause();
    return mine;
}

static void *lose_more(void *unused)
{
    (void)unused;
    for (volatile int i = 0; i < 3; i++) {
        frame_with_pixels(i);
        truth.frames++;
    }
    return NULL;
}

// Waits until it shall end.
static void wait_for_the_end(void)
{
    sigset_t set;
    int signal;
    pthread_t thread;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGTERM);
    printf("ready %d\n", (int)getpid());
    fflush(stdout);
    while (!sigwait(&set, &signal) && signal == SIGUSR1) {
        if (pthread_create(&thread, NULL, lose_more, NULL) || pthread_join(thread, NULL))
            truth_die("pthread_create");
        printf("lost %ld\n", truth.frames);
        fflush(stdout);
    }
}

NOINLINE static void end(const char *how)
{
    if (!strcmp(how, "wait"))
        wait_for_the_end();
    truth.definitely.frames = truth.frames;
    truth.frames_unknown = 1;
    truth.signal = strcmp(how, "segv") ? strcmp(how, "kill") ? strcmp(how, "exit") ? SIGABRT : -1 : SIGKILL : SIGSEGV;
    truth_print();
    if (!strcmp(how, "segv"))
        *(volatile int *)8 = 1;
    if (!strcmp(how, "kill"))
        kill(getpid(), SIGKILL);
    if (!strcmp(how, "exit"))
        _exit(0);
    abort();
}

int main(int argc, char **argv)
{
    const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
    int clean = argc > 3 && !strcmp(argv[3], "clean");
    long threads = argc > 4 ? atol(argv[4]) : 2;
    pthread_t thread;
    if (argc < 4 || threads < 0 || threads > MOST_THREADS)
        truth_die("crash MEDIA abort|segv|kill|exit|wait leak|clean [THREADS]");
    // Where the hard limit forbids it there is no core.
    setrlimit(RLIMIT_CORE, &all);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    hide(decode, argv[1]);
    hide(share_out, clean ? "clean" : NULL);
    pthread_barrier_init(&all_there, NULL, (unsigned)threads + 1);
    for (long i = 0; i < threads; i++)
        if (pthread_create(&thread, NULL, hold, (void *)(LOST + LISTED + 2 + i)))
            truth_die("pthread_create");
    pthread_barrier_wait(&all_there);
    for (long i = threads; i < MOST_THREADS; i++) {
        AVFrame *frame = take((int)(LOST + LISTED + 2 + i));
        av_frame_free(&frame);
    }
    AVFrame *volatile mine = take(LOST + LISTED);
    truth.reachable.frames = LISTED + 2 + threads;
    // end() saves it on its stack where it needs the register, and raise() keeps it in the register otherwise.
    register AVFrame *kept = take(LOST + LISTED + 1);
    __asm__ volatile("" : "+r"(kept));
    // A compiler that knew that it never comes back would keep nothing for later.
    void (*volatile never_back)(const char *) = end;
    scrub();
    never_back(argv[2]);
    __asm__ volatile("" ::"r"(kept));
    return mine == NULL;
}
