#!/usr/bin/env bash
# switchyard place and --placement: loads in, placements out and back in, equal bits under all of
# them, loads conserved, and what is refused.
# timeout: 300
set -u
failed=0
scratch=$(mktemp -d) || exit 1
trap 'rm -r "$scratch"' EXIT
cd "$scratch" || exit 1
tiny=$SY_TEST_DATA/tiny

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
refused() { # refused CODE PATTERN COMMAND...
    local code=$1 pattern=$2 text
    shift 2
    text=$("$@" 2>&1 >/dev/null)
    check "exit code of: $*" "$code" $?
    holds "refusal of: $*" "$pattern" "$text"
}
same() { # same TITLE FILE FILE
    cmp -s "$2" "$3" || { echo "$1: the bytes differ" >&2; failed=1; }
}
place() { "$SWITCHYARD" place "$@"; }

# Loads of two kinds of text.
ids="1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16"
"$SWITCHYARD" run "$tiny/qwen3_moe" -q --ids "$ids" --max-tokens 50 --loads a.json >/dev/null || exit 1
"$SWITCHYARD" run "$tiny/qwen3_moe" -q -n 2 --ids "140 90 80 77" --max-tokens 50 --loads b.json \
    >/dev/null || exit 1

# A table before and after.
text=$(place a.json --ranks 4)
check "exit code" 0 $?
holds "what was read" '^qwen3_moe: 2 layers with experts, 65 tokens in 1 profile$' "$text"
holds "slots" '^4 ranks on 1 host, at most 3 slots on a rank and 1 copy of an expert$' "$text"
holds "a layer" '^ +2 +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ % +[0-9.]+ +[0-9.]+ +0$' "$text"
holds "max/mean" "^  max/mean of the ranks' times +[0-9.]+ +[0-9.]+$" "$text"
holds "imbalance ratio" '^  \(max - mean\)/mean +[0-9.]+ +[0-9.]+$' "$text"
holds "rows" '^  rows per token of the exact combine +[0-9.]+ +[0-9.]+$' "$text"
holds "the bound" '^no placement in these slots is below [0-9.]+; the gap is [0-9.]+ %$' "$text"

json=$(place a.json b.json --ranks 3 --slots 5 --ranks-per-host 2 --json --out ours.json)
check "exit code with --json" 0 $?
holds "profiles" '"profiles": 2, ' "$json"
holds "hosts" '"hosts": 2, ' "$json"
holds "copies" '"max_copies": 3, ' "$json"
number() { grep -oE "\"$1\": [0-9.]+" <<<"$2" | head -n 1 | grep -oE '[0-9.]+$'; }
before=$(number max_over_mean "${json#*\"before\"}")
after=$(number max_over_mean "${json#*\"after\"}")
awk -v a="$before" -v b="$after" 'BEGIN {exit !(b < a && b >= 1)}' ||
    { echo "placing did not help: $before, then $after" >&2; failed=1; }
holds "our file" '^\{"kind": "placement", "version": 1, "model": "qwen3_moe", "ranks": 3,$' \
    "$(cat ours.json)"

# The same question, the same answer.
place a.json b.json --ranks 3 --slots 5 --ranks-per-host 2 --out again.json >/dev/null
same "placing twice" ours.json again.json
# Against a placement that is as good, nothing is gained.
json=$(place a.json b.json --ranks 3 --slots 5 --ranks-per-host 2 --against ours.json --json)
check "against itself" "$(number max_over_mean "${json#*\"before\"}")" \
    "$(number max_over_mean "${json#*\"after\"}")"
# A rank of twice the speed has the most experts, where there is room.
place a.json --ranks 3 --slots 8 --max-copies 1 --speeds 1,1,2 --out fast.json >/dev/null
check "exit code with speeds" 0 $?

# Other systems' formats, there and back.
place a.json --ranks 3 --slots 5 --format trtllm --out p.yaml >/dev/null
check "exit code for YAML" 0 $?
holds "YAML" '^num_slots: 15$' "$(cat p.yaml)"
place --from p.yaml --ranks 3 --out from_yaml.json
check "exit code from YAML" 0 $?
place --from p.yaml --ranks 3 --format sglang --out p_sglang.json
holds "SGLang" '^\{"physical_to_logical_map": \[$' "$(cat p_sglang.json)"
place --from from_yaml.json --format trtllm --out p2.yaml
same "YAML, ours, YAML" p.yaml p2.yaml

# Equal bits: text, logits, and loads that are conserved (place checks them).
run_on() { # run_on RANKS OUT MODEL OPTIONS..
    local n=$1 out=$2 model=$3
    shift 3
    "$SWITCHYARD" logits "$tiny/$model" -q -n "$n" --ids "$ids 21 22 23 24 25" --out "$out" \
        --chunk 8 "$@" || { echo "logits on $n ranks failed: $*" >&2; failed=1; }
}
run_on 1 one.npy qwen3_moe
for f in ours.json fast.json p.yaml p_sglang.json from_yaml.json; do
    run_on 3 got.npy qwen3_moe --placement $f
    same "logits under $f" one.npy got.npy
done
run_on 3 got.npy qwen3_moe --placement ours.json --virtual-hosts 2
same "logits over virtual hosts" one.npy got.npy
run_on 3 got.npy qwen3_moe --placement ours.json --numerics fast
"$SWITCHYARD" run "$tiny/qwen3_moe" -q --ids "$ids" --max-tokens 30 >one.txt
"$SWITCHYARD" run "$tiny/qwen3_moe" -q -n 3 --ids "$ids" --max-tokens 30 --placement ours.json \
    --loads c.json >got.txt
same "text" one.txt got.txt
place c.json >/dev/null
check "loads under a placement are conserved" 0 $?

# The ranks of a real run are as even as the placement says: its loads, and its choice of copies.
prompt=$(seq -s ' ' 1 120)
imbalance() { # imbalance OPTIONS..: what run prints, for the prompt that was counted
    "$SWITCHYARD" run "$tiny/qwen3_moe" -n 3 --ids "$prompt" --max-tokens 1 "$@" 2>&1 >/dev/null |
        grep -oE 'imbalance \(max/mean\) [0-9.]+' | grep -oE '[0-9.]+$'
}
before=$(imbalance --loads prompt.json)
place prompt.json --slots 5 --out even.json >/dev/null
after=$(imbalance --placement even.json)
awk -v a="$before" -v b="$after" 'BEGIN {exit !(b > 0 && b < a && b < 1.05)}' ||
    { echo "the run's imbalance: $before, with copies $after" >&2; failed=1; }

# Random placements with copies, ranks of different size, one of them perhaps empty.
random() { # random SEED RANKS: of two layers of 11 experts, 0 and 2
    awk -v seed="$1" -v R="$2" 'BEGIN {
        srand(seed)
        printf "{\"kind\": \"placement\", \"version\": 1, \"ranks\": %d, \"layers\": [", R
        for (l = 0; l <= 2; l += 2) {
            delete on
            for (e = 0; e < 11; e++)
                do on[int(rand() * R), e] = 1; while (rand() < 0.4)
            printf "%s{\"layer\": %d, \"experts\": 11, \"slots\": [", l ? ", " : "", l
            for (r = 0; r < R; r++) {
                n = 0
                printf "%s[", r ? ", " : ""
                for (e = 10; e >= 0; e--)
                    if ((r, e) in on) printf "%s%d", n++ ? ", " : "", e
                printf "]"
            }
            printf "]}"
        }
        print "]}"
    }'
}
for seed in 1 2 3 4 5 6; do
    ranks=$((seed % 3 + 2))
    random $seed $ranks >random.json
    run_on $ranks got.npy qwen3_moe --placement random.json
    same "logits under random placement $seed on $ranks ranks" one.npy got.npy
    "$SWITCHYARD" run "$tiny/qwen3_moe" -q -n $ranks --ids "$ids" --max-tokens 30 \
        --placement random.json --loads c.json >got.txt
    same "text under random placement $seed" one.txt got.txt
    place c.json >/dev/null
    check "loads under random placement $seed are conserved" 0 $?
done

# Stacked and dummy weights, another family.
"$SWITCHYARD" run "$tiny/mixtral" -q --ids "$ids" --max-tokens 20 --loads m.json >one.txt
place m.json --ranks 2 --slots 5 --out m.p.json >/dev/null
"$SWITCHYARD" run "$tiny/mixtral" -q -n 2 --ids "$ids" --max-tokens 20 --placement m.p.json >got.txt
same "mixtral" one.txt got.txt
run_on 3 got.npy qwen3_moe_fused --placement ours.json
same "stacked experts" one.npy got.npy
"$SWITCHYARD" bench "$tiny/qwen3_moe" -q -n 3 --dummy-weights -p 16 -g 4 -r 1 \
    --placement ours.json --json >/dev/null
check "bench with a placement" 0 $?

# 1440 bytes an expert: all of both layers on rank 0, none on rank 1, one of each on rank 2.
all='[[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [], [5]]'
cat >uneven.json <<END
{"kind": "placement", "version": 1, "ranks": 3, "layers": [
 {"layer": 0, "experts": 11, "slots": $all}, {"layer": 2, "experts": 11, "slots": $all}]}
END
text=$("$SWITCHYARD" inspect "$tiny/qwen3_moe" --ranks 3 --placement uneven.json)
check "inspect with a placement" 0 $?
holds "all experts" '^  rank 0 +74\.1 kB$' "$text"
holds "no expert" '^  rank 1 +42\.5 kB$' "$text"
holds "two experts" '^  rank 2 +45\.3 kB$' "$text"
run_on 3 got.npy qwen3_moe --placement uneven.json
same "logits with an empty rank" one.npy got.npy

# What is refused.
refused 2 'no loads given' place
refused 2 '\-\-from needs --out' place --from ours.json
refused 2 'takes a placement, and no loads' place a.json --from ours.json --out x.json
refused 2 'p.yaml does not tell the number of ranks' place --from p.yaml --out x.json
refused 4 'layer 0: 15 slots cannot be shared out to 4 ranks' place --from p.yaml --ranks 4 \
    --out x.json
refused 3 'missing.json: No such file' place missing.json
refused 4 'ours.json: layers\[0\]: "top_k" is missing' place ours.json
refused 4 'b.json: not a placement' "$SWITCHYARD" run "$tiny/qwen3_moe" -n 2 --ids "1 2" \
    --placement b.json
refused 4 'm.json: loads of a model "mixtral", those of a.json are of "qwen3_moe"' \
    place a.json m.json
refused 2 'layer 0: 11 experts do not fit into 2 slots on each of 3 ranks: at least 4' \
    place a.json --ranks 3 --slots 2
refused 2 'does not sum to 3 ranks' place a.json --ranks 3 --ranks-per-host 1,1
refused 2 'expected 3 numbers from 0.001 to 1000, number 2 is "0' place a.json --ranks 3 \
    --speeds 1,0,1
refused 2 'a number for each of 3 ranks' place a.json --ranks 3 --speeds 1,1
refused 2 'equally many slots on every rank and layer' place a.json --ranks 3 --max-copies 1 \
    --format trtllm --out x.yaml
place a.json --ranks 3 --format sglang --out even.json >/dev/null
check "copies fill the slots of a foreign form" 0 $?
place --from even.json --ranks 3 --format trtllm --out even.yaml
check "equally many on every rank" 0 $?
refused 2 '\-\-slots has no effect with --from' place --from ours.json --slots 5 --out x.json
refused 2 '\-\-json has no effect with --from' place --from ours.json --json --out x.json
refused 2 '\-\-format says how to write' place a.json --format sglang
cp ours.json inout.json
refused 2 'out inout.json is a file that is read' place --from inout.json --out inout.json
ln inout.json linked.json
refused 2 'out linked.json is a file' place a.json --ranks 3 --against inout.json --out linked.json
same "what is read is left alone" ours.json inout.json
printf '{"kind": "\\u001b[31m"}' >colour.json
refused 4 'found control characters' place --from colour.json --ranks 3 --out x.json

# A search that would take long is interrupted; what was at --out stays.
{
    printf '{"version": 1, "model": "m", "ranks": 1, "tokens": 100, "layers": ['
    for l in $(seq 0 199); do
        [ "$l" = 0 ] || printf ', '
        printf '{"layer": %d, "experts": 2000, "top_k": 1, "counts": [[1]' "$l"
        printf ', [%d]' $(for e in $(seq 2 2000); do echo $((e < 100 ? 1 : e == 100)); done)
        printf ']}'
    done
    printf ']}\n'
} >long.json
echo mine >stays
"$SWITCHYARD" place long.json -q --ranks 64 --slots 2000 --out stays 2>interrupted >/dev/null &
pid=$!
sleep 1
kill -TERM $pid
wait $pid
check "exit code after SIGTERM" 130 $?
holds "what it says" '^switchyard: error: interrupted$' "$(cat interrupted)"
check "what was there" mine "$(cat stays)"
refused 4 'ours.json: the placement is for 3 ranks, here are 4' place a.json --ranks 4 \
    --against ours.json
refused 4 'ours.json: the placement is for 3 ranks, here are 2' "$SWITCHYARD" run \
    "$tiny/qwen3_moe" -n 2 --ids "1 2" --placement ours.json
refused 4 'for a model "qwen3_moe", this is "mixtral"' "$SWITCHYARD" run "$tiny/mixtral" -n 3 \
    --ids "1 2" --placement ours.json
refused 3 'nowhere.json: No such file' "$SWITCHYARD" run "$tiny/mixtral" -n 2 --ids "1 2" \
    --placement nowhere.json
refused 2 'takes no --placement' "$SWITCHYARD" bench --exchange --placement ours.json
sed 's/"tokens": 65/"tokens": 66/' a.json >wrong.json
refused 4 'layer 0: the counts sum to 195, expected 198 \(66 tokens x top_k 3\)' place wrong.json
sed 's/"ranks": 3/"ranks": 3, "ranks": 3/' ours.json >wrong.json
refused 4 'wrong.json: line 1.*duplicate' place --from wrong.json --out x.json
refused 3 '/dev/full: No space left' place a.json --out /dev/full
exit $failed
