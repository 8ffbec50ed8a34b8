#!/usr/bin/env bash
# Makes what is handed out, in target/dist: avleak-VERSION-x86_64-linux.tar.gz and avleak_VERSION_amd64.deb.
#   dist.sh            both
#   dist.sh stage      only the folder of files, target/dist/stage
# Built against the symbols of glibc 2.17 (RHEL 7, Debian 8), and checked to need nothing newer. setup.sh dist brings the tools.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
triple=x86_64-unknown-linux-gnu
venv=$PWD/build/dist/venv
tools=$PWD/build/dist/tools
for tool in "$venv/bin/cargo-zigbuild" "$tools/bin/cargo-deb"; do
    if [ ! -x "$tool" ]; then
        echo "dist.sh: $tool is missing: scripts/setup.sh dist installs it" >&2
        exit 1
    fi
done
export PATH=$venv/bin:$tools/bin:$PATH
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
# The same sources make the same archives.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.lock)}
export SOURCE_DATE_EPOCH

# Standard input is a terminal's otherwise, which zig looks at.
dist=$target/dist
# A folder of its own: what zig links and what the machine's linker does would take each other for out of date.
CARGO_TARGET_DIR=$dist/build cargo zigbuild --profile dist --locked --target $triple.2.17 -p avleak -p avleak-interposer </dev/null
built=$dist/build/$triple/dist
stage=$dist/stage
rm -rf "$stage"
mkdir -p "$stage"/{bin,lib,share/avleak,share/man/man1,share/doc/avleak}
# The analyzer names nothing of avleak's own, and neither needs its symbols at run time.
strip --strip-all -o "$stage/bin/avleak" "$built/avleak"
strip --strip-unneeded -o "$stage/lib/libavleak.so" "$built/libavleak.so"
scripts/check-dist.sh "$stage/bin/avleak" "$stage/lib/libavleak.so"
scripts/check-exports.sh "$stage/lib/libavleak.so"
cp scripts/run_tests_leak_check.sh scripts/run_tests_with_avleak.sh "$stage/share/avleak/"
"$stage/bin/avleak" man "$stage/share/man/man1"
cp README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE docs/*.md docs/*.json docs/*.svg docs/*.png docs/prometheus/*.yml "$stage/share/doc/avleak/"
[ "${1:-}" != stage ] || exit 0

name=avleak-$version-x86_64-linux
tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=go-w \
    --transform="s,^\./,$name/," -C "$stage" -cf - ./bin ./lib ./share | gzip -9n >"$dist/$name.tar.gz"
# The assets are listed in analyzer/Cargo.toml.
deb=$(cargo deb --quiet --no-build --no-strip --locked -p avleak --output "$dist/")
stat --format='%s bytes  %n' "$dist/$name.tar.gz" "$deb"
