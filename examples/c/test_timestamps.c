// A test without a byte of FFmpeg's memory: avleak has nothing to say of it.
#include <libavutil/mathematics.h>

int main(void) {
    return av_rescale_q(90000, (AVRational){1, 90000}, (AVRational){1, 25}) == 25 ? 0 : 1;
}
