#!/usr/bin/env bash
# Runs the fixtures under the avleak that is handed out, over every FFmpeg that Debian has, each in a root of that Debian, and
# over the FFmpegs of PyAV's wheels.
#   matrix.sh [SUITE… | wheels]     default: all of them
# Logs and the table go to build/matrix. Needs root; the roots are kept (make-root.sh says where).
set -euo pipefail
cd "$(dirname "$0")/.."
suites=(bullseye bookworm trixie sid)
# FFmpeg 6.1, 7.0, 7.1, 8.0, 8.1; of older ones there are no wheels for today's Pythons.
wheels=(12.3.0 13.1.0 14.2.0 15.1.0 16.1.0 17.1.0 18.1.0)
# What the roots have no tools for: Go, browsers, Valgrind, unpaper, players, wheels, musl's and 32-bit compilers, other allocators; and what
# does not depend on FFmpeg's version.
skipped=(ci:: ci_baseline:: ci_docs:: ci_go:: fleet:: formats:: html:: http:: gate:: storm:: oracle:: wheels:: golang:: python:: programs_at_large::
    hosts_allocators:: hosts_children::for_musl hosts_children::started_from_python real_leaks::unpaper)

[ $# -gt 0 ] || set -- "${suites[@]}" wheels
scripts/setup.sh matrix
scripts/make-media.sh
scripts/dist.sh
out=build/matrix
mkdir -p "$out"
target=${CARGO_TARGET_DIR:-target}
export PATH=$PWD/build/dist/venv/bin:$PATH
triple=x86_64-unknown-linux-gnu
tests=$(CARGO_TARGET_DIR=$target/dist/build cargo-zigbuild test --no-run --release --locked --target $triple.2.17 -p avleak-tests --test end_to_end \
    --message-format=json </dev/null 2>"$out/build.log" | sed -n 's/.*"executable":"\([^"]*end_to_end-[^"]*\)".*/\1/p' | tail -n 1) ||
    { cat "$out/build.log" >&2; exit 1; }
status=0

# One row of the table: where, versions, what the tests' last line says.
row() {
    local log=$1 result
    result=$(sed -n 's/^test result: \(.*\); 0 measured.*/\1/p' "$log" | tail -n 1)
    printf '| %s | %s |\n' "$(sed -n 's/^matrix: //p' "$log" | head -n 1)" "${result:-did not run}" >>"$out/table.md"
    tail -n 1 "$out/table.md"
}

printf '| Debian | FFmpeg | libavutil | glibc | gcc | tests |\n|---|---|---|---|---|---|\n' >"$out/table.md"
for suite in "$@"; do
    [ "$suite" != wheels ] || continue
    scripts/make-root.sh "$suite"
    log=$out/$suite.log
    skips=()
    for name in "${skipped[@]}"; do
        skips+=(--skip "$name")
    done
    scripts/in-root.sh "$suite" "$PWD" "$(realpath "$target")/dist=/dist" "${tests%/*}=/tests" "$(realpath build/media)=/samples" -- \
        bash "$PWD/scripts/matrix-inside.sh" "$suite" "/tests/${tests##*/}" "${skips[@]}" >"$log" 2>&1 || {
        status=1
        echo "matrix.sh: $suite failed; the end of $log:" >&2
        tail -n 40 "$log" >&2
    }
    row "$log"
done

for argument in "$@"; do
    [ "$argument" = wheels ] || continue
    printf '\n| PyAV | FFmpeg | libavutil | tests |\n|---|---|---|---|\n' >>"$out/table.md"
    for wheel in "${wheels[@]}"; do
        venv=$out/pyav-$wheel
        if [ ! -e "$venv/installed" ]; then
            python3 -m venv "$venv"
            "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "av==$wheel" </dev/null || {
                status=1
                echo "| $wheel | | | not to be had for $("$venv/bin/python" --version) |" | tee -a "$out/table.md"
                continue
            }
            touch "$venv/installed"
        fi
        log=$out/pyav-$wheel.log
        "$venv/bin/python" - "$wheel" >"$log" <<'PYTHON'
import ctypes, glob, os, sys, av
avutil = ctypes.CDLL(glob.glob(os.path.dirname(av.__file__) + ".libs/libavutil-*.so*")[0])
avutil.av_version_info.restype = ctypes.c_char_p
version = avutil.avutil_version()
print(f"matrix: {sys.argv[1]} | {avutil.av_version_info().decode()} | {version >> 16}.{version >> 8 & 255}")
PYTHON
        dist=$(realpath "$target")/dist/stage
        AVLEAK_BIN=$dist/bin/avleak AVLEAK_LIB=$dist/lib/libavleak.so AVLEAK_WHEELS=$PWD/$venv/bin/python \
            "$tests" wheels:: --nocapture >>"$log" 2>&1 </dev/null || {
            status=1
            echo "matrix.sh: PyAV $wheel failed; the end of $log:" >&2
            tail -n 40 "$log" >&2
        }
        row "$log"
    done
done
exit $status
