#!/usr/bin/env bash
# The part of matrix.sh that runs inside a root: installs the package, tries it and the tarball, and runs the tests.
#   matrix-inside.sh SUITE TESTS [ARGUMENTS of TESTS…]
# In the root: the packages in /dist, sample videos in /samples.
set -euo pipefail
suite=$1 tests=$2
shift 2
version() {
    dpkg-query -W -f='${Version}' "$1" 2>/dev/null || true
}
ffmpeg_version=$(ffmpeg -version | sed -n '1s/ffmpeg version \([^ ]*\).*/\1/p')
avutil=$(ffmpeg -version | sed -n 's/^libavutil *\([0-9]*\)\. *\([0-9]*\)\..*/\1.\2/p')
echo "matrix: $suite | $ffmpeg_version | $avutil | $(version libc6) | $(gcc -dumpfullversion)"

# The library must load where every symbol is bound at once, into programs that have nothing to do with FFmpeg too.
dpkg -i /dist/avleak_*_amd64.deb
avleak --version
test -s /usr/share/man/man1/avleak-run.1.gz
LD_BIND_NOW=1 LD_PRELOAD=/usr/lib/libavleak.so /bin/sh -c 'test "$(echo preloaded)" = preloaded' 2>/tmp/stderr
test ! -s /tmp/stderr || { cat /tmp/stderr; exit 1; }

mkdir -p /opt
tar -xzf /dist/avleak-*-x86_64-linux.tar.gz -C /opt
unpacked=$(echo /opt/avleak-*)
video=/samples/short.mp4
for avleak in avleak "$unpacked/bin/avleak"; do
    # Clean, and every frame that Debian's own ffmpeg makes is seen.
    LD_BIND_NOW=1 "$avleak" run --json /tmp/r.json -- ffmpeg -nostdin -loglevel error -i $video -f null -
    grep -q '"verdict": "clean"' /tmp/r.json
done
# By its name alone, from ld.so's own folders; its analyzer is /usr/bin/avleak. It may still write when ffmpeg has ended.
cd /tmp
LD_PRELOAD=libavleak.so ffmpeg -nostdin -loglevel error -i $video -f null -
for _ in $(seq 300); do
    ! ls avleak.*.json >/dev/null 2>&1 || break
    sleep 0.1
done
grep -q '"verdict": "clean"' avleak.*.json

# As cargo lays it out: the fixtures are built in /work/target/fixtures, with this Debian's compiler and headers.
mkdir -p /work/target/release/deps /work/media
cp "$tests" /work/target/release/deps/end_to_end
cp /samples/*.* /work/media/
export AVLEAK_BIN=/usr/bin/avleak AVLEAK_LIB=/usr/lib/libavleak.so AVLEAK_MEDIA=/work/media
exec /work/target/release/deps/end_to_end --test-threads=2 "$@"
