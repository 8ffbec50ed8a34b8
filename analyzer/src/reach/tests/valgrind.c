/* Builds the graphs of blocks that stdin describes, one after the other, and has memcheck judge each of them.
 *
 * stdin, numbers: graphs; for each graph: blocks, size of each; words, for each (block or -1: root, word, what, value):
 * what -1: the number value; -2: a vtable's address; else: the address of block what, plus value.
 * stdout: the vtable and its two functions, then for each graph the addresses of its blocks.
 * Addresses are kept inverted and in no buffer of libc's, so that memcheck sees only the pointers of the graph. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <valgrind/memcheck.h>

static char input[1 << 22], *at = input;
static uintptr_t hidden[64];
uintptr_t roots[64];

int first_function(void) { return 1; }
int second_function(void) { return 2; }
int (*const vtable[4])(void) = {first_function, second_function, first_function, second_function};

static long number(void) { return strtol(at, &at, 10); }

static __attribute__((noinline)) int build(void) {
    int blocks = number();
    for (int i = 0; i < blocks; i++) {
        hidden[i] = ~(uintptr_t)calloc(1, number());
        dprintf(1, "%lu ", ~hidden[i]);
    }
    dprintf(1, "\n");
    for (long words = number(); words > 0; words--) {
        long where = number(), word = number(), what = number(), value = number();
        uintptr_t *to = where < 0 ? roots : (uintptr_t *)~hidden[where];
        to[word] = what == -1 ? (uintptr_t)value : what == -2 ? (uintptr_t)vtable : ~hidden[what] + value;
    }
    return blocks;
}

static __attribute__((noinline)) void demolish(int blocks) {
    for (int i = 0; i < blocks; i++) free((void *)~hidden[i]);
    for (int i = 0; i < 64; i++) roots[i] = 0;
}

int main(void) {
    for (ssize_t n, have = 0; (n = read(0, input + have, sizeof input - 1 - have)) > 0;) have += n;
    dprintf(1, "%lu %lu %lu\n", (uintptr_t)vtable, (uintptr_t)first_function, (uintptr_t)second_function);
    for (int graphs = number(); graphs > 0; graphs--) {
        int blocks = build();
        /* What the registers of a called function may still hold. */
        __asm__ volatile("xor %%eax,%%eax; xor %%ecx,%%ecx; xor %%edx,%%edx; xor %%esi,%%esi; xor %%edi,%%edi;"
                         "xor %%r8d,%%r8d; xor %%r9d,%%r9d; xor %%r10d,%%r10d; xor %%r11d,%%r11d" ::
                             : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory");
        VALGRIND_DO_QUICK_LEAK_CHECK;
        demolish(blocks);
    }
    return 0;
}
