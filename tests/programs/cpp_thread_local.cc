// Frames held by C++ thread_local objects, freed (or, each fourth, lost) by their destructors at the thread's end.
#include <cstddef>
#include <thread>
#include <vector>

extern "C" {
#include "cpp_truth.h"
}

static bool clean;

struct Session {
    Session() : frame(cpp_frame(1)), history(100) {}
    ~Session()
    {
        std::vector<char> scratch(5000); // malloc and free in a TLS destructor
        if (clean || number % 4)
            cpp_frame_free(frame);
        else
            cpp_frame_lost(frame);
        frame = nullptr;
        cpp_scrub();
    }
    long number = 0;
    void *frame;
    std::vector<long> history;
};

static thread_local Session session;

int main(int argc, char **argv)
{
    clean = cpp_is_clean(argc, argv);
    for (long i = 0; i < 12; i++)
        std::thread([i] { session.number = i; }).join();
    cpp_truth_print();
    return 0;
}
