// What the fixtures of hosts that misbehave share: twenty frames, of which two are lost.
#ifndef HOST_H
#define HOST_H

#include <pthread.h>

#include "truth.h"

static int clean __attribute__((unused));
static pthread_mutex_t truth_lock __attribute__((unused)) = PTHREAD_MUTEX_INITIALIZER;

FIXTURE void host_lose(AVFrame *frame)
{
    pthread_mutex_lock(&truth_lock);
    frame_will_be_lost(frame);
    pthread_mutex_unlock(&truth_lock);
}

FIXTURE void host_frames(void *unused)
{
    (void)unused;
    for (int i = 0; i < 20; i++) {
        AVFrame *frame = frame_with_pixels(i);
        if (!clean && i % 10 == 3)
            host_lose(frame);
        else
            av_frame_free(&frame);
    }
}

// Uses FFmpeg; what was lost leaves no trace on this stack.
FIXTURE void host_use(void)
{
    hide(host_frames, NULL);
}

FIXTURE void *host_thread(void *unused)
{
    host_use();
    return unused;
}

FIXTURE int host_ends(void)
{
    truth.definitely.frames = truth.frames;
    truth_print();
    return 0;
}

#endif
