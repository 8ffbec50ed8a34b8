#!/usr/bin/env bash
# Makes a root of another Debian, with its FFmpeg, that FFmpeg's headers and a compiler: $AVLEAK_ROOTS/SUITE.
#   make-root.sh SUITE        bullseye, bookworm, trixie, sid …; one that is there is kept
# AVLEAK_ROOTS: default ~/.cache/avleak/roots. Removing a folder there is enough to have it made anew.
# The mirror is the one that this machine's apt has for Debian. Needs root, and mmdebstrap (setup.sh matrix).
set -euo pipefail
suite=${1:?usage: make-root.sh SUITE}
roots=${AVLEAK_ROOTS:-${XDG_CACHE_HOME:-$HOME/.cache}/avleak/roots}
root=$roots/$suite
# gdb counts frames, strace and setpriv (util-linux) play their parts in the tests.
packages=(gcc g++ libc6-dev ffmpeg libavcodec-dev libavdevice-dev libavfilter-dev libavformat-dev libavutil-dev
    libswresample-dev libswscale-dev binutils gdb strace util-linux procps python3-minimal)

[ "$(cat "$root/.avleak-root" 2>/dev/null || true)" != "${packages[*]}" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "make-root.sh: roots are made by root: run it with sudo" >&2
    exit 1
fi
if ! command -v mmdebstrap >/dev/null; then
    echo "make-root.sh: mmdebstrap is missing: scripts/setup.sh matrix installs it" >&2
    exit 1
fi
# shellcheck disable=SC2016 # apt's own variables
mirror=$(apt-get indextargets --format '$(LABEL)|$(CREATED_BY)|$(REPO_URI)' | sed -n 's/^Debian|Packages|//p' | head -n 1)
if [ -z "$mirror" ]; then
    echo "make-root.sh: apt knows no mirror of Debian: run apt-get update, or add one to its sources" >&2
    exit 1
fi
mkdir -p "$roots"
part=$(mktemp -d "$roots/.part.XXXXXX")
trap 'rm -rf --one-file-system "$part"' EXIT
echo "make-root.sh: making $root (some hundred megabytes)"
# A mirror that stands still has lists that have expired; they are still signed.
joined=$(IFS=,; echo "${packages[*]}")
if ! mmdebstrap --quiet --variant=minbase --include="$joined" --aptopt='Acquire::Check-Valid-Until "false"' \
    --aptopt='APT::Install-Recommends "false"' "$suite" "$part/root" "$mirror" >"$roots/$suite.log" 2>&1 </dev/null; then
    echo "make-root.sh: mmdebstrap failed for $suite; the end of $roots/$suite.log:" >&2
    tail -n 15 "$roots/$suite.log" >&2
    exit 1
fi
echo "${packages[*]}" >"$part/root/.avleak-root"
rm -rf --one-file-system "$root"
mv "$part/root" "$root"
