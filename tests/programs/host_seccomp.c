// A host that forbids itself what avleak likes to call. Arguments: leak | clean, before | after (FFmpeg's first use), errno | kill,
// prctl | seccomp (the call that installs the filter), [not-clean].
#include <errno.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <linux/filter.h>
#include <linux/seccomp.h>

#include "host.h"

static const int forbidden[] = {
    SYS_memfd_create, SYS_process_vm_readv, SYS_process_vm_writev, SYS_ptrace, SYS_socket, SYS_connect, SYS_sendmsg, SYS_recvfrom,
    SYS_getsockopt, SYS_openat, SYS_ftruncate, SYS_sigaltstack, SYS_prctl, SYS_gettid, SYS_nanosleep, SYS_sched_yield,
    SYS_mlock, SYS_munlock, SYS_ppoll, SYS_fcntl, SYS_clone, SYS_close, SYS_access, SYS_pread64,
};
enum { COUNT = sizeof forbidden / sizeof forbidden[0] };

static void forbid(unsigned action, int by_prctl)
{
    struct sock_filter filter[3 + 2 * COUNT];
    struct sock_fprog program = { .len = 0, .filter = filter };
    int at = 0;
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < COUNT; i++) {
        filter[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)forbidden[i], 0, 1);
        filter[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
    }
    filter[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    program.len = (unsigned short)at;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        truth_die("PR_SET_NO_NEW_PRIVS");
    if (by_prctl ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0)
                 : syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
        truth_die("seccomp");
}

int main(int argc, char **argv)
{
    if (argc < 5)
        truth_die("reading the arguments");
    clean = is_clean(argc, argv);
    if (!strcmp(argv[2], "after"))
        host_use();
    forbid(!strcmp(argv[3], "kill") ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ERRNO | EPERM, !strcmp(argv[4], "prctl"));
    host_use();
    if (argc > 5 && !strcmp(argv[5], "unseen"))
        truth.unseen = 1;
    return host_ends();
}
