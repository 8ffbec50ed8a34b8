#!/usr/bin/env bash
# Makes the sample videos of the demo and the tests: build/media (or $AVLEAK_MEDIA). Files that are there are kept.
#   make-media.sh            the 10 s sample (640x360 H.264 and AAC) and the scanned page
#   make-media.sh v180       also the 200 s file of the measurements (320x180)
#   make-media.sh v720       also the 10 s file of the transcode benchmark (1280x720)
set -euo pipefail
cd "$(dirname "$0")/.."
media=${AVLEAK_MEDIA:-build/media}
mkdir -p "$media"

# make NAME FFMPEG-ARGUMENTS…: through a temporary name, so that a broken run leaves nothing that looks whole.
make_file() {
    local name=$1
    shift
    [ -s "$media/$name" ] && return
    local part="$media/.part.$$.$name"
    if ! ffmpeg -nostdin -hide_banner -loglevel error -y "$@" "$part" </dev/null; then
        rm -f "$part"
        echo "make-media.sh: ffmpeg could not make $name" >&2
        exit 1
    fi
    mv "$part" "$media/$name"
    echo "made $media/$name"
}

make_file sample.mp4 -f lavfi -i testsrc2=size=640x360:rate=30 -f lavfi -i sine=frequency=440:sample_rate=44100 -t 10 \
    -c:v libx264 -preset ultrafast -g 30 -pix_fmt yuv420p -c:a aac
make_file short.mp4 -f lavfi -i testsrc2=size=320x180:rate=25 -f lavfi -i sine=frequency=440:sample_rate=44100 -t 2 \
    -c:v libx264 -preset ultrafast -g 25 -bf 2 -pix_fmt yuv420p -c:a aac
make_file page.pgm -f lavfi -i testsrc2=size=620x877 -frames:v 1 -pix_fmt gray -f image2 -update 1 -c:v pgm

case "${1:-}" in
"") ;;
v180)
    make_file v180.mp4 -f lavfi -i testsrc2=size=320x180:rate=30 -f lavfi -i sine=frequency=440 -t 200 \
        -c:v libx264 -preset ultrafast -g 30 -c:a aac
    ;;
v720)
    make_file v720.mp4 -f lavfi -i testsrc2=size=1280x720:rate=30 -t 10 \
        -c:v libx264 -preset ultrafast -g 60 -pix_fmt yuv420p
    ;;
*)
    echo "make-media.sh: unknown file '$1': v180 and v720 are made on demand" >&2
    exit 2
    ;;
esac
