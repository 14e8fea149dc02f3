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
    done < <(grep -rnE '^ *# *include *"' --include='*.[ch]' --include='*.cu' "$folder")
done
# CUDA, NCCL and MPI headers have their places: kernels/cuda, comm/nccl*, comm.
if grep -rnE '^ *# *include *<(mpi|nccl[a-z_]*|cuda[a-z_]*|cublas[a-z_0-9]*)\.h>' --include='*.[ch]' \
    --include='*.cu' base kernels topology comm runtime launcher |
    grep -vE '^(launcher/version\.c|comm/[a-z_]+\.[ch]):[0-9]+: *# *include *<mpi' |
    grep -vE '^comm/nccl[a-z_]*\.[ch]:[0-9]+: *# *include *<nccl' |
    grep -vE '^kernels/cuda/[a-z_0-9]+\.(c|h|cu):[0-9]+: *# *include *<(cuda|cublas)'; then
    say "MPI headers belong into comm/, NCCL's into comm/nccl*, CUDA's into kernels/cuda/"
    bad=1
fi
# C++ is the emulation's alone, and the emulation is the tests'.
if find base kernels topology comm runtime launcher -name '*.c[px]*' | grep .; then
    say "C++ sources belong into tests/emulation/"
    bad=1
fi
exit $bad
