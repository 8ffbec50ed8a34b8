#!/usr/bin/env bash
# Compares what a libavleak.so exports with the hooks that interposer/src/stubs.rs (or aarch64/stubs.rs), loader.rs, stacks.rs and exec.rs list: nothing may be missing, and
# nothing else may get out into the host.
set -euo pipefail
library=${1:?usage: check-exports.sh LIBAVLEAK.SO [aarch64/]}
stubs=${2:-}stubs.rs
source=$(dirname "$0")/../interposer/src
wanted=$({
    sed -n '/^stubs! {/,/^}/s/^    \([a-z_]*\)(.*/\1/p' "$source/$stubs"
    sed -n '/^loader_stubs! {/,/^}/s/^    \([a-z_]*\) loader.*/\1/p' "$source/$stubs"
    sed -n '/^sandbox_stubs! {/,/^}/s/^    \([a-z_]*\) ".*/\1/p' "$source/$stubs"
    sed -n '/^redhook::hook!/,/^}/s/^    unsafe fn \([a-z_]*\)(.*/\1/p' "$source/loader.rs"
    sed -n '/no_mangle/,/fn/s/^unsafe extern "C" fn \([a-z_]*\)(.*/\1/p' "$source/stacks.rs" "$source/exec.rs"
} | sort)
exported=$(nm -D --defined-only "$library" | awk '{ print $3 }' | sort)
if ! difference=$(diff <(echo "$wanted") <(echo "$exported")); then
    echo "check-exports.sh: $library does not export what the tables list (< listed only, > exported only):" >&2
    echo "$difference" >&2
    exit 1
fi
echo "libavleak.so exports its $(echo "$wanted" | wc -l) hooks and nothing else"
