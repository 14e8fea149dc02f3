# logits and bench: their files and tables, on one rank and several. timeout: 120
. "$(dirname "$0")/shell_helpers.sh"
program=${SWITCHYARD:?}
tiny=$SY_TEST_DATA/tiny
configs=$SY_TEST_DATA/configs

# has FILE PATTERN...: every pattern occurs in the file.
has() {
    local file=$1
    shift
    for pattern in "$@"; do
        grep -Eq -- "$pattern" "$file" || fail "no \"$pattern\" in $file: $(head -c 300 "$file")"
    done
}

# logits: a .npy of the right size; replayed routes; a full disk leaves no file.
ids=$(head -c 4000 "$tiny/expected/mixtral/ids.json" | tr -d '[ \n' | sed 's/\].*//')
n=$(echo "$ids" | tr ',' '\n' | wc -l)
for ranks in 1 2; do
    "$program" logits "$tiny/mixtral" -q --ids "$ids" -o logits$ranks.npy -n $ranks 2>err ||
        fail "logits on $ranks ranks"
done
cmp -s logits1.npy logits2.npy || fail "logits differ between 1 and 2 ranks"
[ "$(wc -c <logits1.npy)" = $((128 + n * 113 * 4)) ] || fail "size of the .npy"
head -c 128 logits1.npy | tr '\n' ' ' >head
has head 'NUMPY' "'descr': '<f4', 'fortran_order': False, 'shape': \($n, 113\)"
"$program" logits "$tiny/mixtral" -q --ids "$ids" -o routed.npy --activations f32 \
    --routes "$tiny/expected/mixtral/routes_0.json" 2>err || fail "logits --routes"
"$program" logits "$tiny/mixtral" -q --ids "$ids" -o own.npy --activations f32
cmp -s routed.npy own.npy || fail "replaying the router's own choices changes the logits"
sed 's/\[\[[0-9]*, *[0-9]*\]/[[0, 0]/' "$tiny/expected/mixtral/routes_0.json" >twice.json
expect 4 '(rank 0: )?twice.json: layer 0, token 0: expert 0 occurs twice' \
    "$program" logits "$tiny/mixtral" --ids "$ids" -o x.npy --routes twice.json -n 2
expect 4 '.*routes_0.json: layer 0: expected [0-9]+ rows' "$program" logits "$tiny/mixtral" \
    --ids "$ids,1,1" -o x.npy --routes "$tiny/expected/mixtral/routes_0.json"
expect 3 '/dev/full: No space' "$program" logits "$tiny/mixtral" -q --ids 1 -o /dev/full
[ -c /dev/full ] || fail "logits removed a device"
(ulimit -f 1; trap '' XFSZ; "$program" logits "$tiny/mixtral" -q --ids "$ids" -o big.npy) 2>err
code=$?
expect 3 'big.npy: File too large'
[ -e big.npy ] && fail "half a .npy is left"
expect 2 'logits needs --out' "$program" logits "$tiny/mixtral" --ids 1

# bench on made-up weights, in all formats.
made_up="$configs/olmoe-1b-7b-v4.json --dummy-weights --layers 2 --vocab 500 --experts 8 -q"
timeout 60 "$program" bench $made_up -p 4 -g 3 -r 1 -n 2 >markdown 2>err || fail "bench"
[ "$(grep -c '^| olmoe .* 2 x ' markdown)" = 2 ] || fail "rows of markdown"
timeout 60 "$program" bench $made_up -p 0 -g 3 -b 1,3 -r 2 --format csv -n 2 >csv 2>err ||
    fail "bench --format csv"
[ "$(grep -c '^olmoe,' csv)" = 2 ] || fail "rows of csv"
awk -F, 'NR == 1 { n = NF; next } NF != n || $8 <= 0 || $8 < $9 || $8 > $10 { exit 1 }' csv ||
    fail "a row of csv has other columns than the head, or no speed"
timeout 60 "$program" bench $made_up -p 4 -g 0 -r 1 --json >json 2>err || fail "bench --json"
[ "$(grep -c '^{"model": "olmoe", .*"tokens_per_s": {"median": [0-9.]*, .*}$' json)" = 1 ] ||
    fail "rows of json"
# Only generated tokens, and more of them than prompt tokens.
timeout 60 "$program" bench "$tiny/mixtral" -q -p 2 -g 9 -r 1 >out 2>err || fail "bench -p 2 -g 9"
expect 2 '.*--layers, --vocab and --experts need --dummy-weights' \
    "$program" bench "$tiny/mixtral" --layers 2
expect 2 '.*--layers: expected a number, moe:N, or dense:N,moe:N' \
    "$program" bench "$tiny/mixtral" --dummy-weights --layers dense:2
expect 2 '(rank 0: )?-p: 512 is outside 0 to 511' "$program" bench "$tiny/mixtral" -n 2
# Bytes read for a token: those of codes and scales. A token of demo reads 16 experts; in panels of
# 64 outputs one has 2 * 128 * 160 + 192 * 96 weights, of 2 bytes, or of 1 and a 32nd of 2.
"$program" convert "$SY_TEST_DATA/demo" q8 --to q8 -q >/dev/null 2>err || fail "convert --to q8"
for model in "$SY_TEST_DATA/demo" q8; do
    timeout 60 "$program" bench "$model" -p 0 -g 4 -r 1 -q --json >json 2>err || fail "bench $model"
    sed 's/.*"bytes_per_token": \([0-9]*\),.*/\1/' json
done >bytes
[ $(($(head -n 1 bytes) - $(tail -n 1 bytes))) = $((16 * 59392 * 15 / 16)) ] ||
    fail "bytes for a token in bf16 and in q8: $(tr '\n' ' ' <bytes)"
# The exchange alone: a row for 1, 2, 4 and 5 tokens on 2 and on 3 ranks.
timeout 60 "$program" bench --exchange --tokens 5 -n 3 --format csv >csv 2>err ||
    fail "bench --exchange"
[ "$(cut -d, -f1,2 csv | tail -n +2 | tr '\n' ' ')" = "2,1 2,2 2,4 2,5 3,1 3,2 3,4 3,5 " ] ||
    fail "rows of bench --exchange: $(cat csv)"
awk -F, 'NR > 1 && ($3 <= 0 || $4 <= 0 || $6 <= 0) { exit 1 }' csv || fail "no bytes or no time"
expect 2 'bench needs a MODEL' "$program" bench
expect 3 '(rank 0: )?writing to stdout: No space' \
    sh -c '"$0" bench "$1" -q -p 4 -g 2 -r 1 -n 2 >/dev/full' "$program" "$tiny/mixtral"

exit $((failures > 0))
