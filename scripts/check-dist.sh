#!/usr/bin/env bash
# Fails where a binary would not load on glibc 2.17: a newer symbol version, or a library that is not the C library's own.
#   check-dist.sh FILE…
set -euo pipefail
newest=2.17
status=0
for file in "$@"; do
    # Version needs of the dynamic linker: `Name: GLIBC_2.14  Flags: none  Version: 5`.
    needs=$(readelf --version-info --wide "$file" | sed -n '/\.gnu\.version_r/,$s/.*Name: \([A-Za-z]*_[A-Za-z0-9.]*\) .*/\1/p' | sort -uV)
    if [ -z "$needs" ]; then
        echo "check-dist.sh: $file needs no version of any symbol: is it what it should be?" >&2
        status=1
    fi
    for need in $needs; do
        number=${need#GLIBC_}
        if [ "$need" = "$number" ] || [ "$(printf '%s\n' "$number" "$newest" | sort -V | tail -n 1)" != "$newest" ]; then
            echo "check-dist.sh: $file needs $need; GLIBC_$newest is the newest allowed" >&2
            status=1
        fi
    done
    # Of the C library itself, which every process has or can have without another thing being loaded.
    for library in $(readelf --dynamic --wide "$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
        case "${file##*/}:$library" in
        *:libc.so.6 | *:libpthread.so.0 | *:libdl.so.2 | *:ld-linux-x86-64.so.2 | avleak:libm.so.6) ;;
        *)
            echo "check-dist.sh: $file needs $library, which is none of the C library's" >&2
            status=1
            ;;
        esac
    done
    # shellcheck disable=SC2086 # words
    [ $status != 0 ] || echo "${file##*/} needs glibc $(printf '%s\n' ${needs//GLIBC_/} | sort -V | tail -n 1) or later"
done
exit $status
