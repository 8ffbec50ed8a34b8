#!/usr/bin/env bash
# Runs Go tests under avleak: fails where a test fails or an FFmpeg frame leaks.
#
#   run_tests_leak_check.sh [TestRegex]
#
# Each package's test binary is built without any preload, then run in its package's folder under one `avleak ci`.
# Returns 0: tests passed and nothing leaked; 1: everything else. The last line says which, ✓ or ✗.
#
#   HEAPCHECK       what counts as a leak: normal (default), strict or draconian
#   HEAPPROFILE     also write a pprof profile to $HEAPPROFILE.pb.gz
#   GO_TEST_FLAGS   flags of `go test` and of its binaries: "-v", "-test.v", "-short -count 2", "-tags ffmpeg" …
#   GO_PACKAGES     which packages, as for `go list`; default: ./...
#   GO, AVLEAK      the programs; default: those in PATH, for avleak first the one beside this script
#   AVLEAK_FLAGS    more options for `avleak ci`, such as "--allow-inconclusive"
#   AVLEAK_JSON     keep the report as JSON in this file
set -uo pipefail

# Under avleak: runs what was built. One bash, so that all packages are one run with one summary.
if [ "${1:-}" = --run-built ]; then
    work=$2
    mapfile -d '' -t arguments <"$work/arguments"
    while IFS=$'\t' read -r package folder binary; do
        echo "--- $package"
        (cd "$folder" && exec "$binary" ${arguments[@]+"${arguments[@]}"})
        status=$?
        if [ $status = 0 ]; then
            echo "ok   $package"
        else
            echo "FAIL $package (exit status $status)"
            echo "$package" >>"$work/failed"
        fi
    done <"$work/packages"
    [ ! -s "$work/failed" ]
    exit
fi

result=1
reason="stopped before the tests were judged"
work=
# Whatever happens, the last line tells how it ended.
# shellcheck disable=SC2317,SC2329 # called by the trap
conclude() {
    trap '' INT TERM HUP
    [ -z "$work" ] || rm -rf -- "$work"
    if [ "$result" = 0 ]; then echo "✓ $reason"; else echo "✗ $reason"; fi
    exit "$result"
}
trap conclude EXIT
trap 'reason="interrupted"; exit 1' INT TERM HUP

fail() {
    reason=$1
    exit 1
}

[ $# -le 1 ] || fail "one argument at most, the regular expression of the tests; flags go into GO_TEST_FLAGS"
case "${1:-}" in
-h | --help)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    trap - EXIT
    exit 0
    ;;
-*) fail "'$1' is no regular expression of tests: flags go into GO_TEST_FLAGS" ;;
esac
regex=${1:-}
level=${HEAPCHECK:-normal}
profile_file=${HEAPPROFILE:+$HEAPPROFILE.pb.gz}
packages=${GO_PACKAGES:-./...}
# An allocator's own checker in the test binary would read them too.
unset HEAPCHECK HEAPPROFILE
echo "=== Go tests under avleak"
echo "    level      $level"
echo "    tests      ${regex:-all}"
echo "    packages   $packages"
echo "    flags      ${GO_TEST_FLAGS:-none}"
echo "    profile    ${profile_file:-none}"
[ -z "${LD_PRELOAD:-}" ] || echo "    left out   LD_PRELOAD=$LD_PRELOAD"
unset LD_PRELOAD

case "$level" in
normal | strict | draconian) ;;
*) fail "HEAPCHECK=$level: normal, strict and draconian are known" ;;
esac

go=${GO:-go}
go=$(command -v -- "$go") || fail "'${GO:-go}' is not in PATH: install Go (https://go.dev/dl), or set GO to it"
echo "    go         $("$go" env GOVERSION 2>/dev/null), $go"

here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
avleak=${AVLEAK:-}
if [ -z "$avleak" ]; then
    for candidate in "$here/avleak" "$(command -v avleak)" "$here/../target/release/avleak" "$here/../bin/avleak" "$here/../../bin/avleak"; do
        if [ -n "$candidate" ] && [ -x "$candidate" ]; then
            avleak=$candidate
            break
        fi
    done
fi
[ -n "$avleak" ] || fail "avleak is neither beside this script nor in PATH: install it, or set AVLEAK to the program"
command -v -- "$avleak" >/dev/null || fail "AVLEAK=$avleak is no program: set it to the path of avleak"
version=$("$avleak" --version 2>&1) || fail "$avleak does not run: ${version##*$'\n'}"
echo "    avleak     ${version#avleak }, $avleak"
if [ -n "$profile_file" ] && ! "$avleak" ci --help 2>/dev/null | grep -q -- '--pprof'; then
    fail "HEAPPROFILE is set, but this avleak ($version, $avleak) writes no profiles: install a newer one"
fi

# Splits words as a shell would, quotes too, and executes nothing.
words() {
    xargs -r -n1 printf '%s\n' <<<"$1" 2>/dev/null
}

build=()
arguments=()
timeout=10m
read_flags() {
    local text split word name value
    text=${GO_TEST_FLAGS:-}
    split=$(words "$text") || fail "GO_TEST_FLAGS: a quote is not closed: $text"
    local list=()
    [ -z "$split" ] || mapfile -t list <<<"$split"
    set -- ${list[@]+"${list[@]}"}
    while [ $# -gt 0 ]; do
        word=$1
        shift
        if [ "$word" = -args ] || [ "$word" = --args ]; then
            arguments+=("$@")
            return
        fi
        [[ $word == -* ]] || fail "GO_TEST_FLAGS: '$word' is no flag (packages go into GO_PACKAGES)"
        name=${word#-}
        name=${name#-}
        value=
        if [[ $name == *=* ]]; then
            value="=${name#*=}"
            name=${name%%=*}
        fi
        case "${name#test.}" in
        v | short | failfast | benchmem | fullpath)
            arguments+=("-test.${name#test.}$value")
            continue
            ;;
        run | skip | list | count | cpu | parallel | shuffle | timeout | bench | benchtime)
            name=test.${name#test.}
            ;;
        *)
            if [[ $name == test.* ]]; then
                arguments+=("-$name$value")
                continue
            fi
            ;;
        esac
        case "$name" in
        test.* | tags | ldflags | gcflags | asmflags | mod | modfile | overlay | pgo | p | toolexec | covermode | coverpkg)
            if [ -z "$value" ]; then
                [ $# -gt 0 ] || fail "GO_TEST_FLAGS: $word needs a value"
                value="=$1"
                shift
            fi
            ;;
        esac
        case "$name" in
        test.timeout) timeout=${value#=} ;;
        test.run) [ -n "$regex" ] || regex=${value#=} ;;
        test.*) arguments+=("-$name$value") ;;
        tags | mod | modfile | overlay)
            build+=("-$name$value")
            list_flags+=("-$name$value")
            ;;
        ldflags | gcflags | asmflags | pgo | p | toolexec | covermode | coverpkg) build+=("-$name$value") ;;
        race | cover | trimpath | a | x | work | buildvcs) build+=("-$name$value") ;;
        vet) ;;
        json) fail "GO_TEST_FLAGS: -json is made by 'go test' itself, not by a test binary: 'go tool test2json' converts the output of -v" ;;
        *) fail "GO_TEST_FLAGS: $word is not known here; what only the test binary knows is written -test.NAME=VALUE" ;;
        esac
    done
}
list_flags=()
read_flags
# What `go test` passes as well. The expression first: by its arguments a process is known in the summary.
arguments=(${regex:+"-test.run=$regex"} "-test.paniconexit0" "-test.timeout=$timeout" ${arguments[@]+"${arguments[@]}"})
flags=$(words "${AVLEAK_FLAGS:-}") || fail "AVLEAK_FLAGS: a quote is not closed: $AVLEAK_FLAGS"
avleak_flags=()
[ -z "$flags" ] || mapfile -t avleak_flags <<<"$flags"
[ -z "$profile_file" ] || avleak_flags+=("--pprof=$profile_file")

work=$(mktemp -d "${TMPDIR:-/tmp}/avleak-go.XXXXXX") || fail "cannot make a folder in ${TMPDIR:-/tmp}"
printf '%s\0' "${arguments[@]}" >"$work/arguments"
: >"$work/packages"
: >"$work/failed"
template='{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{"\t"}}{{.Dir}}{{end}}'
# shellcheck disable=SC2086 # several packages are several words
"$go" list ${list_flags[@]+"${list_flags[@]}"} -f "$template" $packages >"$work/list" || fail "go list $packages failed: see above"
number=0
while IFS=$'\t' read -r package folder; do
    number=$((number + 1))
    binary=$work/$number/${package##*/}.test
    mkdir "$work/$number"
    # Without optimizing: functions that are inlined, or leave the stack early, would be missing from the report.
    "$go" test -c -gcflags="all=-N -l" ${build[@]+"${build[@]}"} -o "$binary" "$package" </dev/null ||
        fail "the tests of $package could not be built: see above"
    printf '%s\t%s\t%s\n' "$package" "$folder" "$binary" >>"$work/packages"
done <"$work/list"
[ $number -gt 0 ] || fail "no package of $packages has tests"

json=${AVLEAK_JSON:-$work/report.json}
"$avleak" ci --level "$level" --json "$json" ${avleak_flags[@]+"${avleak_flags[@]}"} -- \
    "$BASH" "${BASH_SOURCE[0]}" --run-built "$work"
status=$?
verdict=$(sed -n 's/^  "verdict": "\([a-z]*\)".*/\1/p' "$json" 2>/dev/null | head -n 1)
failed=$(paste -sd ' ' "$work/failed")
case "$status-$verdict-${failed:+failed}" in
0-clean-)
    result=0
    reason="tests passed, no leaks (level $level)"
    ;;
0-inconclusive-)
    result=0
    reason="tests passed, no leaks were found, but not everything was seen (--allow-inconclusive)"
    ;;
0-leaks-)
    # Unreachable as long as avleak ci fails over leaks; never green over one.
    reason="FFmpeg objects leaked (level $level)"
    ;;
*-leaks-failed) reason="tests failed: $failed; and FFmpeg objects leaked (level $level)" ;;
*-failed) reason="tests failed: $failed" ;;
*-leaks-) reason="FFmpeg objects leaked (level $level): see the summary above" ;;
*-inconclusive-) reason="inconclusive: not everything was seen, see the summary above (AVLEAK_FLAGS=--allow-inconclusive lets that pass)" ;;
*) reason="avleak failed with exit status $status: see above" ;;
esac
exit "$result"
