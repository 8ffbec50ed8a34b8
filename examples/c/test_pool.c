// Buffers of a pool come back, also where the pool is given up before they do.
#include <libavutil/buffer.h>

int main(void) {
    AVBufferPool *pool = av_buffer_pool_init(4096, NULL);
    AVBufferRef *held[8];
    for (int i = 0; i < 8; i++)
        if (!(held[i] = av_buffer_pool_get(pool))) return 1;
    av_buffer_pool_uninit(&pool);
    for (int i = 0; i < 8; i++) av_buffer_unref(&held[i]);
    return 0;
}
