#!/usr/bin/env bash
# Exact numerics on a CUDA device, emulated or real: same_bits prints the same lines on 1 to 4
# ranks, whatever the batch, chunk, placement, recorded steps or not, and whatever the order in
# which the emulation runs threads and streams. SAME_BITS_CASES sets the number of seeds.
# timeout: 900, labels: cuda
set -euo pipefail
program=$SY_TEST_PROGRAMS/same_bits
cases=${SAME_BITS_CASES:-4}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
SY_EMU_SEED=0 "$program" 1 "$cases" --cuda > "$work/expected" || status=$?
if [ "$status" -eq 77 ]; then
    echo "skipped: no CUDA device, and no emulated build"
    exit 77
fi
[ "$status" -eq 0 ]
[ "$(wc -l < "$work/expected")" -ge "$cases" ]

# check RANKS SEED OPTIONS...: same lines as on one rank in the first order.
check() {
    local ranks=$1 seed=$2
    shift 2
    SY_EMU_SEED=$seed mpirun -n "$ranks" "$program" 1 "$cases" --cuda "$@" > "$work/got"
    if ! cmp -s "$work/expected" "$work/got"; then
        echo "same_bits --cuda differs on $ranks ranks, seed $seed ($*):"
        diff "$work/expected" "$work/got" | head -n 6
        exit 1
    fi
}
check 1 5 --variant 1
check 2 0
check 3 7
check 4 0
check 2 3 --variant 2
echo "$((5 * cases)) runs on the device, all equal to one rank"
