#!/usr/bin/env bash
# The table of published figures in docs/plan.md is what plan says: every forecast there, and the ratio
# beside it, from the command in the row.
# timeout: 120
set -u
failed=0
n=0
# Rows: | published | what | `config options` | forecast | published | ratio |
while IFS='|' read -r _ title what command forecast published ratio _; do
    command=${command//\`/}
    read -r config options <<<"$command"
    case $command in *spark:*) ranks=${command#*spark:} ranks=${ranks%% *} ;; *) ranks=1 ;; esac
    # shellcheck disable=SC2086 # options are words
    found=$("$SWITCHYARD" plan "$SY_TEST_DATA/configs/$config" $options --json |
        awk -v ranks="$ranks" -v what="$what" '
            BEGIN { shard = what ~ /shard/; key = what ~ /prefill/ ? "\"prefill\":" : "\"decode\":" }
            $1 == "\"rows\":" { rows = 1 }
            rows && $1 == "\"ranks\":" { here = $2 + 0 == ranks; in_shard = 0 }
            here && $1 == "\"shard\":" { in_shard = 1 }
            here && $1 == key { within = in_shard == shard }
            here && within && $1 == "\"tokens_per_s\":" { print $2 + 0; exit }')
    n=$((n + 1))
    awk -v a="$found" -v b="$forecast" -v p="$published" -v r="$ratio" 'BEGIN {
        exit !(a > 0 && (a - b) ^ 2 <= (0.01 * b) ^ 2 && (p / b - r) ^ 2 <= 0.01 ^ 2) }' || {
        echo "$title,$what: docs/plan.md says $forecast and $ratio, plan says $found" >&2
        failed=1
    }
done < <(grep -E '^\|.*`[a-z0-9.-]+\.json --cluster' "$SY_SOURCE_DIR/docs/plan.md")
if [ "$n" -lt 20 ]; then
    echo "docs/plan.md: only $n rows found" >&2
    failed=1
fi
exit $failed
