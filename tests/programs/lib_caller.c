// A plug-in that uses FFmpeg in four ways: a direct call, a tail call, a function pointer, and dlsym.
#include <dlfcn.h>
#include <stddef.h>

struct AVFrame;
struct AVFrame *av_frame_alloc(void);
void av_frame_free(struct AVFrame **frame);

#define EXPORT __attribute__((visibility("default"), noinline))

EXPORT struct AVFrame *caller_direct(void)
{
    struct AVFrame *frame = av_frame_alloc();
    __asm__ volatile("" : "+r"(frame)); // something is left to do after the call
    return frame;
}

// With -O1 -foptimize-sibling-calls: a jump, so that the return address is not this function's.
EXPORT struct AVFrame *caller_tail(void)
{
    return av_frame_alloc();
}

EXPORT struct AVFrame *caller_pointer(void)
{
    struct AVFrame *(*volatile make)(void) = av_frame_alloc;
    return make();
}

// In the libavutil of the name that it is given.
EXPORT struct AVFrame *caller_dlsym(void *library)
{
    struct AVFrame *(*make)(void) = (struct AVFrame * (*)(void)) dlsym(library, "av_frame_alloc");
    return make ? make() : NULL;
}

EXPORT void caller_free(struct AVFrame *frame)
{
    av_frame_free(&frame);
}
