#!/usr/bin/env bash
# Includes may only point down: launcher > runtime > comm > {kernels, topology} > base. kernels and
# topology do not know each other; tests may include anything, nothing includes tests.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
    '') ;;
    -h | --help) echo "usage: scripts/check_layers.sh   fails on an include that points up"; exit 0 ;;
    *) die "unknown argument: $1" ;;
esac

declare -A may_include=(
    [base]="base"
    [kernels]="kernels base"
    [topology]="topology base"
    [comm]="comm kernels topology base"
    [runtime]="runtime comm kernels topology base"
    [launcher]="launcher runtime comm kernels topology base"
)
bad=0
cd "$root"
for folder in "${!may_include[@]}"; do
    while IFS=: read -r file line text; do
        target=$(sed -E 's/.*"([a-z]+)\/.*/\1/' <<< "$text")
        [[ " ${may_include[$folder]} " == *" $target "* ]] && continue
        say "$file:$line: $folder/ must not include from $target/"
        bad=1
    done < <(grep -rnE '^ *# *include *"' --include='*.[ch]' "$folder")
done
# CUDA and MPI headers have their places.
if grep -rnE '^ *# *include *<(mpi|nccl|cuda[a-z_]*)\.h>' --include='*.[ch]' base kernels/cpu \
    topology runtime launcher | grep -v 'launcher/version.c'; then
    say "MPI headers belong into comm/, CUDA headers into kernels/cuda/"
    bad=1
fi
exit $bad
