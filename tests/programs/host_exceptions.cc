// C++ exceptions that leave FFmpeg: thrown by a log callback, they unwind libavutil's frames and meet destructors that free frames
// on the way.
#include <cstdarg>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

extern "C" {
#include "cpp_truth.h"
void av_log(void *object, int level, const char *format, ...);
void av_log_set_callback(void (*callback)(void *, int, const char *, va_list));
}

static bool clean;

struct Held {
    explicit Held(long pts) : frame(cpp_frame(pts)) {}
    ~Held() { cpp_frame_free(frame); }
    void *frame;
};

static void throws(void *, int, const char *, va_list)
{
    Held held(1);
    std::vector<char> scratch(1000);
    throw std::runtime_error(std::string(200, 'x')); // allocates, and is freed where it is caught
}

__attribute__((noinline)) static void round_trip(long number)
{
    void *frame = cpp_frame(number);
    try {
        Held held(2);
        av_log(nullptr, 32, "away\n");
        std::abort();
    } catch (const std::exception &error) {
        if (error.what()[0] != 'x')
            std::abort();
    }
    if (!clean && number % 100 == 50)
        cpp_frame_lost(frame);
    else
        cpp_frame_free(frame);
}

int main(int argc, char **argv)
{
    clean = cpp_is_clean(argc, argv);
    av_log_set_callback(throws);
    for (long i = 0; i < 200; i++) {
        round_trip(i);
        cpp_scrub();
    }
    cpp_truth_print();
    return 0;
}
