#!/usr/bin/env bash
# The promise of exact numerics over 1 to 8 ranks, 1 to 3 virtual hosts, with and without shared
# memory: same_bits prints the same lines. And its controls: a reduced combine and one flipped bit
# must be found out. SAME_BITS_CASES sets the number of seeds per setting.
# timeout: 600
set -euo pipefail
program=$SY_TEST_PROGRAMS/same_bits
cases=${SAME_BITS_CASES:-36}
first=${SAME_BITS_FIRST:-1}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
total=0

# check RANKS OPTIONS...: same lines as on one rank, by default settings.
check() {
    local ranks=$1
    shift
    mpirun -n "$ranks" "$program" "$first" "$cases" "$@" > "$work/got"
    if ! cmp -s "$work/expected" "$work/got"; then
        echo "same_bits differs on $ranks ranks ($*):"
        diff "$work/expected" "$work/got" | head -n 6
        exit 1
    fi
    total=$((total + cases))
}

"$program" "$first" "$cases" > "$work/expected"
[ "$(wc -l < "$work/expected")" -ge "$cases" ]
check 1 --variant 1
for ranks in 2 3 4 5 6 7 8; do
    check "$ranks"
done
check 3 --variant 2 --virtual-hosts 2
check 4 --variant 3 --virtual-hosts 3
check 2 --variant 4 --no-shared-memory
check 8 --variant 5 --virtual-hosts 2
echo "$total cases, all equal to one rank"

# Controls: both must differ. Their seeds are fixed, since not every case can tell: bfloat16 rounds
# most last bits of a sum away. In these the sums are known to differ.
"$program" 28 5 > "$work/expected"
mpirun -n 3 "$program" 28 5 --reduced > "$work/reduced"
if cmp -s "$work/expected" "$work/reduced"; then
    echo "the reduced combine was not told from the exact one"
    exit 1
fi
mpirun -n 2 "$program" 28 5 --flip 1 > "$work/flipped"
if cmp -s "$work/expected" "$work/flipped"; then
    echo "a flipped bit on rank 1 was not noticed"
    exit 1
fi
echo "controls: reduced combine $(diff "$work/expected" "$work/reduced" | grep -c '^>') and" \
    "flipped bit $(diff "$work/expected" "$work/flipped" | grep -c '^>') requests differ"
