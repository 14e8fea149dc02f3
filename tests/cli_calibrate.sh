#!/usr/bin/env bash
# switchyard calibrate: a description that plan takes, with every constant measured, also over a link.
# timeout: 600
set -u
failed=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
holds() { # holds TITLE PATTERN FILE
    if ! grep -qE -- "$2" "$3"; then
        printf '%s: expected a line like "%s", found:\n' "$1" "$2" >&2
        cat "$3" >&2
        failed=1
    fi
}
"$SWITCHYARD" calibrate -n 2 -t 1 --device cpu --deadline 0 --out "$scratch/box.json" \
    >"$scratch/out" 2>"$scratch/err"
code=$?
if [ $code -ne 0 ]; then
    if grep -q 'too busy to measure' "$scratch/err"; then
        echo "skipped: this machine is too busy to measure"
        exit 77
    fi
    cat "$scratch/err" >&2
    exit 1
fi
holds "ranks of a host" '"devices_per_host": 2' "$scratch/box.json"
holds "the path" '"path": "memfd"' "$scratch/box.json"
holds "shares of formats" '"bf16": \{$' "$scratch/box.json"
holds "where it was measured" 'calibrate: 2 ranks of 1 threads, [a-z0-9]+, on ' "$scratch/box.json"
"$SWITCHYARD" plan "$SY_TEST_DATA/configs/olmoe-1b-7b-v4.json" --cluster "$scratch/box.json" \
    >"$scratch/plan" 2>&1 || failed=1
holds "the plan" '^cluster  calibrated: 2 x ' "$scratch/plan"
holds "the table" '^ +2  .* (yes|no) ' "$scratch/plan"
"$SWITCHYARD" calibrate --activations f32 --device cpu >/dev/null 2>"$scratch/err"
[ $? -eq 5 ] || failed=1
holds "f32" 'calibrate measures --activations bf16' "$scratch/err"
exit $failed
