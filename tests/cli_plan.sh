#!/usr/bin/env bash
# switchyard plan: every published config, what it says, JSON, loads, a limit just below and just above
# what it forecasts, and what it refuses.
# timeout: 300
set -u
failed=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
configs=$SY_TEST_DATA/configs
check() { # check TITLE EXPECTED FOUND
    if [ "$2" != "$3" ]; then
        echo "$1: expected \"$2\", found \"$3\"" >&2
        failed=1
    fi
}
holds() { # holds TITLE PATTERN TEXT
    if ! grep -qE -- "$2" <<<"$3"; then
        printf '%s: expected a line like "%s", found:\n%s\n' "$1" "$2" "$3" >&2
        failed=1
    fi
}
refuses() { # refuses TITLE EXIT_CODE PATTERN ARGUMENTS...
    local title=$1 code=$2 pattern=$3 text
    shift 3
    text=$("$SWITCHYARD" "$@" 2>&1 >/dev/null)
    check "exit code: $title" "$code" $?
    holds "$title" "$pattern" "$text"
}
# field ROW KEY: the first number KEY in row ROW (of that many ranks) of a JSON plan on stdin
field() {
    awk -v ranks="$1" -v key="\"$2\":" '
        $1 == "\"rows\":" { rows = 1 }
        rows && $1 == "\"ranks\":" { here = $2 + 0 == ranks }
        here && $1 == key { sub(/,$/, "", $2); print $2; exit }'
}

for config in "$configs"/*.json; do
    name=$(basename "$config" .json)
    text=$("$SWITCHYARD" plan "$config" --cluster spark:8)
    check "exit code of $name" 0 $?
    holds "$name says whether it fits" '^  (fits|does not fit)$' "$text"
    holds "$name recommends" '^recommended: .+' "$text"
    check "$name has 16 rows" 16 "$(grep -cE '^ +[0-9]+[ *] .*(yes|no) ' <<<"$text")"
    check "$name has no odd number" 0 "$(grep -ciE 'nan|inf[^e]|-[0-9]+\.' <<<"$text")"
done

# A published shape whose answer is known: experts help little, the rest is read on every rank.
text=$("$SWITCHYARD" plan "$configs/qwen3-30b-a3b-v4.json" --cluster spark:4 --precision nvfp4+fp8)
holds "more ranks do not help decode" \
    '^recommended: 1 rank; more ranks do not help decode: 2 would give .* less decode and .* more prefill' \
    "$text"
text=$("$SWITCHYARD" plan "$configs/olmoe-1b-7b-v4.json" --cluster cpu:16 --ctx 32)
holds "more ranks do not help" '^recommended: [0-9] ranks, in spread, .*; more ranks do not help you: ' \
    "$text"
holds "what is not built" 'but is not built yet$' "$text"
text=$("$SWITCHYARD" plan "$configs/deepseek-v3-v4.json" --cluster spark:4)
holds "asterisks" '^ +5\* ' "$text"
holds "a misfit" '^recommended: does not fit: a rank of 4 needs .*; [0-9]+ ranks would do$' "$text"
text=$("$SWITCHYARD" plan "$configs/mixtral-8x7b-v4.json" --cluster station-gb300 --ctx 32768 \
    --batch 100)
holds "batch and context" '^run      100 sequences of 32768 tokens' "$text"

json=$("$SWITCHYARD" plan "$configs/gpt-oss-120b-v4.json" --cluster spark:2 --json)
check "exit code with --json" 0 $?
holds "cluster in JSON" '"switchyard_cluster": 1' "$json"
# Parts add up, and the experts of two ranks are half of those of one.
total=0
for part in experts rest kv workspace process; do
    total=$((total + $(field 2 $part <<<"$json")))
done
check "parts and their sum" "$(field 2 total <<<"$json")" "$total"
check "half of the experts" "$(field 1 experts <<<"$json")" \
    "$((2 * $(field 2 experts <<<"$json")))"

# A description can be taken from the list and changed.
"$SWITCHYARD" plan --cluster list --json >"$scratch/list.json" || failed=1
text=$("$SWITCHYARD" plan --cluster list)
holds "sources" '^  device.read_bandwidth +2\.73e\+11 bytes_per_s +[0-9a-zA-Z]' "$text"
sed -n '/^  {/,/^  }/p' "$scratch/list.json" | sed '/^  },\{0,1\}$/q' | sed 's/^  },$/  }/' \
    >"$scratch/spark.json"
by_name=$("$SWITCHYARD" plan "$configs/olmoe-1b-7b-v4.json" --cluster spark)
by_file=$("$SWITCHYARD" plan "$configs/olmoe-1b-7b-v4.json" --cluster "$scratch/spark.json")
check "a file says the same as the name" "$by_name" "$by_file"

# Loads: even ones change nothing, all tokens on the experts of one rank slow it down.
make_loads() { # make_loads TOKENS COUNT_OF_EXPERT_E (an awk expression of e)
    awk 'BEGIN {
        printf "{\"version\": 1, \"model\": \"olmoe\", \"ranks\": 1, \"tokens\": %d,", '"$1"'
        printf "\"layers\": ["
        for (l = 0; l < 16; l++) {
            printf "%s{\"layer\": %d, \"experts\": 64, \"top_k\": 8, \"counts\": [", (l ? "," : ""), l
            for (e = 0; e < 64; e++) printf "%s[%d]", (e ? "," : ""), '"$2"'
            printf "]}"
        }
        print "]}"
    }'
}
make_loads 80 10 >"$scratch/even.json"
make_loads 10 '(e < 8 ? 10 : 0)' >"$scratch/hot.json"
make_loads 10 '(e == 0 ? 20 : 1)' >"$scratch/impossible.json"
olmoe=("$configs/olmoe-1b-7b-v4.json" --cluster h100:4 --batch 64 --json)
none=$("$SWITCHYARD" plan "${olmoe[@]}" | field 4 imbalance)
even=$("$SWITCHYARD" plan "${olmoe[@]}" --loads "$scratch/even.json" | field 4 imbalance)
hot=$("$SWITCHYARD" plan "${olmoe[@]}" --loads "$scratch/hot.json" | field 4 imbalance)
check "even loads" "${none:0:6}" "${even:0:6}"
check "all tokens on one of four ranks" 4.0 "$hot"

# A placement that evens out such loads: its fullest rank is no busier, and its rows are charged.
"$SWITCHYARD" place "$scratch/hot.json" --ranks 4 --out "$scratch/placed.json" >/dev/null || failed=1
placed=$("$SWITCHYARD" plan "${olmoe[@]}" --loads "$scratch/hot.json" \
    --placement "$scratch/placed.json")
contiguous=$("$SWITCHYARD" plan "${olmoe[@]}" --loads "$scratch/hot.json")
awk -v a="$(field 4 imbalance <<<"$placed")" -v b="$(field 4 exchange_bytes <<<"$placed")" \
    -v c="$(field 4 exchange_bytes <<<"$contiguous")" 'BEGIN { exit !(a < 2 && b > 1.1 * c) }' || {
    echo "a placement: imbalance $(field 4 imbalance <<<"$placed")" >&2
    failed=1
}
refuses "a placement for another number of ranks" 4 'placed.json' \
    plan "$configs/olmoe-1b-7b-v4.json" --cluster h100:2 --placement "$scratch/placed.json"

refuses "no cluster" 2 'plan needs --cluster' plan "$configs/olmoe-1b-7b-v4.json"
refuses "no model" 2 'plan needs a MODEL' plan --cluster spark
refuses "no such cluster" 3 'neither a file nor a known name' plan x --cluster sparkle
refuses "a number that is none" 2 'expected a number from 1' plan x --cluster spark:x
refuses "no such config" 3 'no-such' plan no-such.json --cluster spark
refuses "context" 2 "beyond the model's context" plan "$configs/olmoe-1b-7b-v4.json" \
    --cluster spark --ctx 5000
refuses "precision" 2 'EXPERTS or EXPERTS\+REST' plan "$configs/olmoe-1b-7b-v4.json" \
    --cluster spark --precision fp4
refuses "loads of another model" 4 'layer 0: 8 of 64 experts per token, the model has 8 of 128' \
    plan "$configs/qwen3-30b-a3b-v4.json" --cluster spark --loads "$scratch/even.json"
refuses "loads that cannot be" 4 'layer 0, expert 0: expected at most 10' \
    plan "$configs/olmoe-1b-7b-v4.json" --cluster spark --loads "$scratch/impossible.json"
echo '{"switchyard_cluster": 1, "name": "x", "device": {"name": "x", "kidn": "gpu"}}' \
    >"$scratch/bad.json"
refuses "a misspelt key" 4 'bad.json: device: "kidn" is not known here' \
    plan "$configs/olmoe-1b-7b-v4.json" --cluster "$scratch/bad.json"

# What it forecasts is what a run may hold: a little less is refused before weights are made, a
# little more runs.
sed -e 's/"num_hidden_layers": [0-9]*/"num_hidden_layers": 1/' \
    -e 's/"num_experts": [0-9]*/"num_experts": 8/' \
    -e 's/"vocab_size": [0-9]*/"vocab_size": 2048/' \
    -e '/"[a-z]*_token_id"/d' "$configs/qwen3-30b-a3b-v4.json" >"$scratch/config.json"
for ranks in 1 2 3; do
    bytes=$("$SWITCHYARD" plan "$scratch/config.json" --cluster station-a100 --ctx 64 \
        --batch $ranks --chunk 16 --json | field $ranks total)
    run=(bench "$scratch/config.json" --dummy-weights -p 63 -g 0 -r 1 -t 1 --chunk 16
        -n "$ranks" -b "$ranks")
    below=$(awk "BEGIN { printf \"%.9f\", ($bytes - 1000) * 1e-9 }")
    above=$(awk "BEGIN { printf \"%.9f\", ($bytes + 1000) * 1e-9 }")
    refuses "a limit below the plan of $ranks" 6 'allowed by --memory' "${run[@]}" \
        --memory "$below"
    "$SWITCHYARD" "${run[@]}" --memory "$above" >"$scratch/out" 2>"$scratch/err"
    check "exit code with a limit above the plan of $ranks" 0 $?
done
exit $failed
