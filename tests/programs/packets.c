// Packets with payload that are never freed.
#include "truth.h"

static int clean;

static void demux(void *unused)
{
    (void)unused;
    for (int i = 0; i < 6; i++) {
        AVPacket *packet = av_packet_alloc();
        if (!packet || av_new_packet(packet, 20000) < 0)
            truth_die("av_packet_alloc");
        if (clean || i % 2) {
            av_packet_free(&packet);
        } else {
            truth.packets++;
            truth.pinned_bytes += (long)packet->buf->size;
        }
    }
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    hide(demux, NULL);
    truth.packets_allocated = 6;
    truth_print();
    return 0;
}
