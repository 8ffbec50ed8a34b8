#!/usr/bin/env bash
# Runs a command in a fresh copy of a root that make-root.sh made; what it changes is gone afterwards, and so is all that it started.
#   in-root.sh SUITE [FOLDER[=PLACE][:rw]…] -- CMD ARGUMENTS…
# FOLDER of this machine is seen inside at PLACE (default: the same path), read-only unless :rw.
set -euo pipefail
suite=${1:?usage: in-root.sh SUITE [FOLDER...] -- CMD}
shift
root=${AVLEAK_ROOTS:-${XDG_CACHE_HOME:-$HOME/.cache}/avleak/roots}/$suite
if [ ! -d "$root" ]; then
    echo "in-root.sh: $root is missing: make-root.sh $suite makes it" >&2
    exit 125
fi
folders=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    folders+=("$1")
    shift
done
shift
layer=$(mktemp -d "${root%/*}/.layer.XXXXXX")
trap 'rm -rf --one-file-system "$layer"' EXIT
mkdir "$layer/upper" "$layer/work" "$layer/root"
# Mounts and processes live in namespaces of their own, which end with the command.
# shellcheck disable=SC2016 # expanded by the inner shell
unshare --mount --pid --fork --kill-child bash -c '
    set -euo pipefail
    root=$1 layer=$2 count=$3
    shift 3
    mount --make-rprivate /
    mount -t overlay overlay -o "lowerdir=$root,upperdir=$layer/upper,workdir=$layer/work" "$layer/root"
    root=$layer/root
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    for ((; count > 0; count--)); do
        entry=$1
        shift
        mode=ro
        case "$entry" in *:rw) mode=rw entry=${entry%:rw} ;; esac
        from=${entry%%=*} to=${entry#*=}
        mkdir -p "$root/$to"
        mount --bind "$from" "$root/$to"
        [ $mode = rw ] || mount -o remount,bind,ro "$root/$to"
    done
    status=0
    # Not the shell itself: it is PID 1 here, and waits for what is orphaned.
    chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@" </dev/null || status=$?
    exit $status
' in-root.sh "$root" "$layer" "${#folders[@]}" ${folders[@]+"${folders[@]}"} "$@"
