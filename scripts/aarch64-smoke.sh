#!/usr/bin/env bash
# Runs fixtures of tests/programs under `avleak run`, all of it built for AArch64 and emulated (qemu-user), and compares each report with the
# fixture's own truth. What emulation lacks is ptrace: memory is not read, so that blocks are counted, with their stacks, but not classified.
#
# avleak starts programs by execve and itself by /proc/self/exe: the kernel is told to run AArch64's programs by qemu, in a user namespace of
# its own (binfmt_misc, Linux 6.7), so that nothing on this machine changes. Without such a kernel, or qemu, it says so and runs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
root=build/aarch64/root
release=${CARGO_TARGET_DIR:-target}/aarch64-unknown-linux-gnu/release
qemu=$(command -v qemu-aarch64-static || true)

if [ "${1:-}" = --inside ]; then
    mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
    # An ELF file of 64 bits, little-endian, executable or position-independent, for machine 183. F: the interpreter is opened now, so that the
    # new root need not hold it.
    printf '%s' ':avleak-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:'"$2"':FPC' \
        >/proc/sys/fs/binfmt_misc/register
    mkdir -p "$root/proc" "$root/dev" "$root/tmp" "$root/work" "$root/bin"
    mount --rbind /proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --bind build/aarch64/run "$root/work"
    shift 2
    exec chroot "$root" "$@"
fi

if [ -z "$qemu" ]; then
    echo "aarch64-smoke.sh: nothing was run: qemu-aarch64-static is not installed (scripts/setup.sh aarch64)" >&2
    exit 0
fi
run=build/aarch64/run
mkdir -p "$run"
cp -f "$release/avleak" "$release/libavleak.so" "$run/"
if ! unshare -Urm "$0" --inside "$qemu" /work/avleak --version >/dev/null 2>"$run/why.txt"; then
    echo "aarch64-smoke.sh: nothing was run: $(tail -n 1 "$run/why.txt")" >&2
    exit 0
fi

libraries=$root/usr/lib/aarch64-linux-gnu
failed=0
# The last one signs its return addresses, which the emulated processor checks: what every program of Debian trixie does.
for fixture in leak_batch leak_worker_return leak_move_ref threads_many tls_destructors packets nine_frames host_coroutines storm leak_batch.signed; do
    protection=none
    [ "$fixture" = "${fixture%.signed}" ] || protection=standard
    aarch64-linux-gnu-gcc --sysroot="$root" -D_GNU_SOURCE -g -O1 -fno-builtin -mbranch-protection=$protection -fomit-frame-pointer \
        -I"$root/usr/include" -I"$root/usr/include/aarch64-linux-gnu" \
        "tests/programs/${fixture%.signed}.c" -o "$run/$fixture" -L"$libraries" -Wl,-rpath-link,"$libraries:$root/lib/aarch64-linux-gnu" \
        -Wl,--as-needed -lavcodec -lavutil -lpthread
    arguments=()
    [ "$fixture" != storm ] || arguments=(4 3 lost)
    code=0
    # verify: each stack is unwound once more, by the C++ ABI's unwinder.
    AVLEAK_OPTIONS=verify=1 timeout 300 unshare -Urm "$0" --inside "$qemu" \
        /work/avleak run --json /work/report.json -- "/work/$fixture" "${arguments[@]}" >"$run/$fixture.out" 2>&1 </dev/null || code=$?
    scripts/aarch64-compare.py "$fixture" "$code" "$run" || failed=1
done
exit $failed
