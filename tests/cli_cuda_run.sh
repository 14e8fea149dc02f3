#!/usr/bin/env bash
# `switchyard run --device cuda`, emulated or real, as a user starts it: the same text on 1 to 4
# ranks; the device is named; recorded steps and plain launches agree; what cannot be is refused.
# timeout: 300, labels: cuda
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
demo=$SY_TEST_DATA/demo
run=("$SWITCHYARD" run "$demo" -p "The file" --max-tokens 24)

fail() {
    echo "cli_cuda_run: $*"
    cat "$work"/*.err | head -n 20
    exit 1
}

if ! "${run[@]}" --device cuda > "$work/1.txt" 2> "$work/1.err"; then
    if grep -qE 'built without CUDA|no CUDA device' "$work/1.err"; then
        echo "skipped: $(head -n 1 "$work/1.err")"
        exit 77
    fi
    fail "one rank"
fi
grep -q '^device ' "$work/1.err" || fail "the device is not named"
[ -s "$work/1.txt" ] || fail "no text"
for n in 2 3 4; do
    "${run[@]}" --device cuda -n "$n" > "$work/$n.txt" 2> "$work/$n.err" || fail "$n ranks"
    cmp "$work/1.txt" "$work/$n.txt" || fail "the text on $n ranks differs"
done
"${run[@]}" --device cuda --no-graphs > "$work/launches.txt" 2> "$work/launches.err" ||
    fail "--no-graphs"
cmp "$work/1.txt" "$work/launches.txt" || fail "the text without recorded steps differs"
# The front end's expert loads are conserved whoever counts them.
"${run[@]}" --device cuda -n 2 --loads "$work/loads.json" > /dev/null 2> "$work/loads.err" ||
    fail "--loads"
grep -q 'load per rank' "$work/loads.err" || fail "no loads in the summary"

if "${run[@]}" --device cuda --activations f32 > "$work/f32.txt" 2> "$work/f32.err"; then
    fail "f32 activations were accepted"
fi
grep -q 'bf16 activations, not F32' "$work/f32.err" || fail "f32 is refused without saying why"
# The emulation is only for who asks for it by name.
if grep -q '^device *emulated' "$work/1.err"; then
    "${run[@]}" > "$work/auto.txt" 2> "$work/auto.err" || fail "--device auto"
    ! grep -q '^device' "$work/auto.err" || fail "--device auto took the emulated device"
fi
echo "same text on 1 to 4 ranks: $(grep '^device' "$work/1.err")"
