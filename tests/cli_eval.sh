# switchyard eval: the numbers against a count by hand, windows, ranks, and what it refuses.
. "$(dirname "$0")/shell_helpers.sh"
program=${SWITCHYARD:?}
demo=$SY_TEST_DATA/demo

field() { sed -n "s/.*\"$1\": \([^,}]*\).*/\1/p" out; }
near() { # near WHAT FOUND EXPECTED: to seven digits
    awk -v a="$2" -v b="$3" 'BEGIN { d = a - b; exit !(d * d <= 1e-14 * (a * a + b * b)) }' ||
        fail "$1: $2, expected $3"
}

printf 'Cause the byte string char to be loaded.' >text
ids=$(printf '"%s"\n' "$(cat text)" | "$program" tokenize "$demo")
ids=$(echo "$ids" | tr -d '[] ')
n=$(echo "$ids" | tr ',' '\n' | wc -l)
# The mean over all tokens but the first, from the logits as they are.
"$program" logits "$demo" --ids "$ids" -o rows.npy -q 2>err || fail "logits"
header=$((10 + $(od -An -tu1 -j8 -N1 rows.npy)))
V=$((($(wc -c <rows.npy) - header) / 4 / n))
expected=$(tail -c +$((header + 1)) rows.npy | od -An -v -tf4 -w4 | awk -v V=$V -v ids="$ids" '
    BEGIN { n = split(ids, id, ",") }
    { column = (NR - 1) % V; x[column] = $1; if (column == 0 || $1 > most) most = $1 }
    column == V - 1 {
        row++
        if (row == n) exit
        sum = 0
        for (i = 0; i < V; i++) sum += exp(x[i] - most)
        nll += most + log(sum) - x[id[row + 1]]
    }
    END { printf "%.12g", nll / (n - 1) }')
"$program" eval "$demo" --text text -q --json >out 2>err || fail "eval"
near "negative log-likelihood" "$(field nll)" "$expected"
near "perplexity" "$(field perplexity)" "$(awk -v x="$expected" 'BEGIN { printf "%.12g", exp(x) }')"
[ "$(field tokens),$(field scored_tokens)" = "$n,$((n - 1))" ] || fail "tokens"

# Windows: each loses one token; one of a single token scores none.
head -c 2500 "$SY_SOURCE_DIR/LICENSE" >text
"$program" eval "$demo" --text text -q --json --ctx 50 >out 2>err || fail "eval --ctx"
tokens=$(field tokens)
[ "$(field scored_tokens)" = $((tokens - (tokens + 49) / 50)) ] || fail "scored tokens"
short=$(field nll)
"$program" eval "$demo" --text text -q --json >out 2>err || fail "eval"
awk -v a=$short -v b="$(field nll)" 'BEGIN { exit !(a > b) }' || fail "less context is no worse"

# The same digits on any number of ranks and in any chunks.
"$program" eval "$demo" --against "$demo" --text text -q --json >out 2>err || fail "eval --against"
for how in "-n 2" "-n 3 --chunk 7"; do
    "$program" eval "$demo" --against "$demo" --text text -q --json $how >more 2>err ||
        fail "eval $how"
    cmp -s out more || fail "another result with $how"
done
[ "$(field kl),$(field same_top_1)" = "0,1" ] || fail "a model differs from itself"
near "own perplexity" "$(field perplexity)" "$(field against_perplexity)"

# Models of other shapes do not meet in each other's memory: one that asks fewer experts.
alone=$(field nll)
cp -r "$demo" fewer && sed -i 's/"num_experts_per_tok": 4/"num_experts_per_tok": 1/' fewer/config.json
"$program" eval "$demo" --against fewer --text text -q --json -n 2 >out 2>err || fail "eval of two"
[ "$(field nll)" = "$alone" ] || fail "a second model changes the first"
other=$(field against_nll)
"$program" eval fewer --against "$demo" --text text -q --json >out 2>err || fail "eval turned round"
[ "$(field against_nll),$(field nll)" = "$alone,$other" ] || fail "turned round, other numbers"
awk -v kl="$(field kl)" 'BEGIN { exit !(kl > 0.01) }' || fail "other models, no divergence"

# Text for people: one line, with --against four.
"$program" eval "$demo" --against "$demo" --text text -q >out 2>err || fail "eval without --json"
[ "$(wc -l <out)" = 4 ] || fail "lines of text"
grep -q '^perplexity [0-9.]* ([0-9]* of [0-9]* tokens scored, windows of 512)$' out ||
    fail "the first line"

# What cannot be.
expect 2 'eval needs --text FILE' "$program" eval "$demo"
expect 3 'missing: No such file' "$program" eval "$demo" --text missing
: >empty
expect 2 'empty has 0 tokens' "$program" eval "$demo" --text empty
expect 2 '--ctx: 5000 tokens are beyond the model.s context of 1024' \
    "$program" eval "$demo" --text text --ctx 5000
expect 2 '.*mixtral has no tokenizer' "$program" eval "$SY_TEST_DATA/tiny/mixtral" --text text
expect 2 '.*vocabulary of 3072 and .* cannot be compared' \
    "$program" eval "$demo" --against "$SY_TEST_DATA/tiny/mixtral" --text text -n 2
# Without its merges a tokenizer cuts every text into more tokens.
cp -r "$demo" other
tr '\n' ' ' <"$demo/tokenizer.json" | sed 's/"merges": *\[.*\]/"merges": []/' >other/tokenizer.json
expect 2 '.*tokenizers cut the text differently' \
    "$program" eval "$demo" --against other --text text -n 2
# Logits that are no numbers: the last tensor of the file is filled with NaN.
cp -r "$demo" broken
printf '\377\177%.0s' $(seq 160) | dd of=broken/model.safetensors bs=1 conv=notrunc 2>/dev/null \
    seek=$(($(wc -c <broken/model.safetensors) - 320))
expect 4 '.*token [0-9]+ of the text: logits of broken are no numbers' \
    "$program" eval broken --text text -n 2
exit $((failures > 0))
