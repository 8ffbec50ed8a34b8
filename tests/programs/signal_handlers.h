// For handlers that interrupt a thread anywhere but in libc or ld.so: there malloc may be half done, and a handler that
// calls it again would be the fixture's own fault.
#ifndef SIGNAL_HANDLERS_H
#define SIGNAL_HANDLERS_H

#include <link.h>
#include <signal.h>
#include <sys/time.h>
#include <ucontext.h>

static unsigned long forbidden[8][2];
static int forbidden_count;

static int note_module(struct dl_phdr_info *info, size_t size, void *unused)
{
    const char *name = info->dlpi_name;
    (void)size;
    (void)unused;
    if (!strstr(name, "libc.so") && !strstr(name, "ld-linux") && strcmp(name, "linux-vdso.so.1"))
        return 0;
    for (int i = 0; i < info->dlpi_phnum && forbidden_count < 8; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD && info->dlpi_phdr[i].p_flags & PF_X) {
            forbidden[forbidden_count][0] = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            forbidden[forbidden_count++][1] = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr + info->dlpi_phdr[i].p_memsz;
        }
    return 0;
}

// True where the interrupted code is neither libc nor ld.so.
static int interrupted_outside_libc(void *context)
{
#if defined(__x86_64__)
    unsigned long at = (unsigned long)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    unsigned long at = (unsigned long)((ucontext_t *)context)->uc_mcontext.pc;
#endif
    for (int i = 0; i < forbidden_count; i++)
        if (at >= forbidden[i][0] && at < forbidden[i][1])
            return 0;
    return 1;
}

// Sends SIGALRM every `microseconds` to `handler`; 0 stops it.
static void tick(void (*handler)(int, siginfo_t *, void *), int microseconds)
{
    struct sigaction action = { .sa_flags = SA_SIGINFO | SA_RESTART };
    struct itimerval timer = { { 0, microseconds }, { 0, microseconds } };
    action.sa_sigaction = handler;
    if (!forbidden_count)
        dl_iterate_phdr(note_module, NULL);
    if (microseconds && sigaction(SIGALRM, &action, NULL))
        truth_die("sigaction");
    if (setitimer(ITIMER_REAL, &timer, NULL))
        truth_die("setitimer");
}

#endif
