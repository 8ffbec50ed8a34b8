#!/usr/bin/env bash
# Runs Go tests under avleak and writes a pprof profile of what they leaked, for `go tool pprof`.
#
#   run_tests_with_avleak.sh [TestRegex]
#
# As run_tests_leak_check.sh beside it, with its variables and its exit status. The profile is $HEAPPROFILE.pb.gz;
# default: avleak-tests.pb.gz in the working folder.
set -uo pipefail
here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
check=$here/run_tests_leak_check.sh
if [ ! -f "$check" ]; then
    echo "✗ $check is missing: the two scripts belong together"
    exit 1
fi
HEAPPROFILE=${HEAPPROFILE:-avleak-tests} exec "$BASH" "$check" "$@"
