// A library with thread-local storage: what a thread keeps in it lies in a block that ld.so allocated.
static __thread void *kept[64];

__attribute__((visibility("default"))) void tls_keep(void *pointer)
{
    kept[7] = pointer;
}

__attribute__((visibility("default"))) void *tls_kept(void)
{
    return kept[7];
}
