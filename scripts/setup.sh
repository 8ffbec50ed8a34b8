#!/usr/bin/env bash
# Installs what avleak's build, demo and tests need on Debian 12 or later. Idempotent; quick when all is there.
#   setup.sh           what the build and the demo need
#   setup.sh tests     what the tests need as well
set -euo pipefail

build=(gcc g++ libc6-dev make pkg-config ffmpeg libavcodec-dev libavdevice-dev libavfilter-dev libavformat-dev libavutil-dev
    libswresample-dev libswscale-dev)
tests=(valgrind gdb strace unpaper util-linux gstreamer1.0-libav gstreamer1.0-plugins-base gstreamer1.0-plugins-good
    gstreamer1.0-tools)

wanted=("${build[@]}")
case "${1:-}" in
"") ;;
tests) wanted+=("${tests[@]}") ;;
*)
    echo "setup.sh: unknown argument '$1': only 'tests' is known" >&2
    exit 2
    ;;
esac

missing=()
for package in "${wanted[@]}"; do
    # `dpkg -s` alone also succeeds for a package that was removed and left its configuration.
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
done

if [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "setup.sh: this is no Debian; install what these packages hold: ${missing[*]}" >&2
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "setup.sh: root is needed (or sudo) to install: ${missing[*]}" >&2
            exit 1
        fi
        as_root=(sudo)
    fi
    echo "setup.sh: installing ${missing[*]}"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null
fi

if ! command -v cargo >/dev/null && [ ! -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    echo "setup.sh: Rust is missing. Install it with rustup (https://rustup.rs):" >&2
    echo "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y" >&2
    exit 1
fi
