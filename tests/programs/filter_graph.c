// An AVFilterGraph (buffer, scale, buffersink) with a picture still in it is never freed.
#include <libavfilter/avfilter.h>
#include <libavfilter/buffersink.h>
#include <libavfilter/buffersrc.h>

#include "truth.h"

static int clean;

static void filter(void *unused)
{
    AVFilterGraph *graph = avfilter_graph_alloc();
    AVFilterContext *source = NULL, *scale = NULL, *sink = NULL;
    AVFrame *frame = frame_with_pixels(0), *scaled = frame_shell();
    (void)unused;
    if (!graph)
        truth_die("avfilter_graph_alloc");
    graph->nb_threads = 1;
    if (avfilter_graph_create_filter(&source, avfilter_get_by_name("buffer"), "in",
                                     "video_size=640x360:pix_fmt=yuv420p:time_base=1/25", NULL, graph) < 0 ||
        avfilter_graph_create_filter(&scale, avfilter_get_by_name("scale"), "scale", "320:180", NULL, graph) < 0 ||
        avfilter_graph_create_filter(&sink, avfilter_get_by_name("buffersink"), "out", NULL, NULL, graph) < 0 ||
        avfilter_link(source, 0, scale, 0) < 0 || avfilter_link(scale, 0, sink, 0) < 0 ||
        avfilter_graph_config(graph, NULL) < 0)
        truth_die("the filter graph");
    if (av_buffersrc_write_frame(source, frame) < 0 || av_buffersink_get_frame(sink, scaled) < 0)
        truth_die("filtering");
    if (scaled->width != 320)
        truth_die("scaling");
    if (av_buffersrc_write_frame(source, frame) < 0)
        truth_die("the second picture");
    av_frame_free(&frame);
    av_frame_free(&scaled);
    if (clean)
        avfilter_graph_free(&graph);
    else
        truth.contexts = 1; // the graph; filters, scaler and the picture in the link hang on it
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    truth.frames_unknown = 1;
    truth.pinned_bytes = -1;
    hide(filter, NULL);
    truth_print();
    return 0;
}
