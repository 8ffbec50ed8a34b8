// A frame is held only by a lost struct of the program's own: indirectly lost, and a leaked frame all the same.
#include "truth.h"

struct session {
    int id;
    AVFrame *last_picture;
    char name[40];
};
static int clean;

NOINLINE static struct session *session_open(int id)
{
    struct session *session = calloc(1, sizeof *session);
    if (!session)
        truth_die("calloc");
    session->id = id;
    session->last_picture = frame_with_pixels(id);
    return session;
}

static void one_session(void *unused)
{
    static int next_id;
    AVFrame *arming = frame_shell(); // blocks that are older than the first frame are unknown to avleak
    struct session *session = session_open(next_id++);
    (void)unused;
    if (clean) {
        av_frame_free(&session->last_picture);
        free(session);
    } else {
        frame_will_be_lost(session->last_picture);
    }
    av_frame_free(&arming);
}

int main(int argc, char **argv)
{
    clean = is_clean(argc, argv);
    for (int i = 0; i < 3; i++)
        hide(one_session, NULL);
    truth.definitely = (struct per_class){ 0, truth.frames };
    truth.indirectly.frames = truth.frames;
    truth_print();
    return 0;
}
