# switchyard convert: what it prints and refuses, signals and going on, and that the result
# computes what the source does. timeout: 180
. "$(dirname "$0")/shell_helpers.sh"
program=${SWITCHYARD:?}
demo=$SY_TEST_DATA/demo

# A result and a summary on stdout, nothing else there; nothing at all from a dry run.
"$program" convert "$demo" dry --to fp8 --dry-run >out 2>err || fail "convert --dry-run"
grep -q '^dry: .* 192 matrices in fp8; .*; nothing was written$' out || fail "the dry run's line"
[ -e dry ] || [ -e dry.partial ] && fail "a dry run wrote something"
for format in bf16 fp8 q8 mxfp4 nvfp4; do
    "$program" convert "$demo" $format --to $format -q --json >out 2>err || fail "--to $format"
    [ "$(wc -l <out)" = 1 ] || fail "--json prints one line"
    grep -Eq '^\{"source_bytes": [0-9]+, .*"shards": 1, "encoded": 192, .*\}$' out ||
        fail "--json of $format"
    [ -s err ] && fail "-q is not quiet"
    cmp -s "$demo/tokenizer.json" $format/tokenizer.json || fail "no tokenizer in $format"
    cmp -s "$demo/generation_config.json" $format/generation_config.json ||
        fail "no generation_config.json in $format"
    [ "$(ls $format | wc -l)" = 6 ] || fail "files of $format: $(ls $format)"
done
"$program" convert mxfp4/ again/ --to bf16 --all -q >out 2>err || fail "mxfp4 back to bf16"
[ -d again ] || fail "a slash at the end of OUT"

# What cannot be.
expect 2 'convert needs --to FORMAT' "$program" convert "$demo" x
expect 2 'no OUT given' "$program" convert "$demo" --to fp8
expect 2 'unexpected argument "y"' "$program" convert "$demo" x y --to fp8
expect 2 '--to: "int3" is not one of' "$program" convert "$demo" x --to int3
expect 2 'fp8 exists already' "$program" convert "$demo" fp8 --to fp8
expect 3 'no/such/x.partial: No such file' "$program" convert "$demo" no/such/x --to fp8
expect 3 'nowhere: No such file' "$program" convert nowhere x --to fp8
# The demo's config alone is no checkpoint.
mkdir bare && cp "$demo/config.json" bare
expect 3 'bare: expected model.safetensors' "$program" convert bare x --to fp8
[ -e x ] || [ -e x.partial ] && fail "a refused conversion left something"

# Ended by signals at many moments; the same command goes on, to the same bytes. One that is done
# before its signal comes is of no use until others have been ended.
options="--to nvfp4 --all --shard-size 0.00005 -t 1"
"$program" convert "$demo" whole $options -q >/dev/null 2>err || fail "the whole conversion"
ended=0
for attempt in $(seq 60); do
    "$program" convert "$demo" parts $options >out 2>err &
    child=$!
    sleep 0.0$((RANDOM % 4))$((RANDOM % 10))
    # TERM does what Ctrl-C does, which a shell lets its background jobs ignore.
    kill -$([ $((RANDOM % 2)) = 0 ] && echo KILL || echo TERM) $child 2>/dev/null
    wait $child 2>/dev/null
    code=$?
    if [ $code = 0 ]; then
        [ $ended -gt 2 ] && break
        rm -r parts
        continue
    fi
    ended=$((ended + 1))
    [ -e parts ] && fail "ended with code $code, and there is an OUT"
    "$program" inspect parts.partial >out 2>&1 && fail "ended with code $code: there is a model"
    [ $code != 130 ] || grep -q 'error: interrupted; the same command goes on with what is in' err ||
        fail "the text of an interruption"
done
[ -d parts ] || "$program" convert "$demo" parts $options -q >out 2>err || fail "to the end"
[ $ended -gt 2 ] || fail "$ended conversions were ended early"
diff -r whole parts >/dev/null || fail "ended $ended times: other bytes than the whole"
[ -e parts.partial ] && fail "parts.partial is left"

# A file size limit stands for a full disk: a clear line, and going on later.
(ulimit -f 400; trap '' XFSZ; "$program" convert "$demo" full $options -q >out) 2>err
code=$?
expect 3 '.*model-00...-of-00...[.]safetensors: File too large; the same command goes on'
"$program" convert "$demo" full $options -q >out 2>err || fail "going on after a full disk"
diff -r whole full >/dev/null || fail "other bytes after a full disk"

# What comes out computes nearly what went in, on one rank and on two.
head -c 3000 "$SY_SOURCE_DIR/LICENSE" >text
kl() { # kl MODEL MOST...: the divergence from the demo model is above 0 and at most MOST
    "$program" eval $1 --against "$demo" --text text -q --json -n $3 >out 2>err || fail "eval $1"
    awk -v most=$2 '{ sub(/.*"kl": /, ""); kl = $1 + 0; exit !(kl > 0 && kl <= most) }' out ||
        fail "$1 is too far from what it was"
}
kl fp8 0.002 1
kl q8 0.0002 2
kl mxfp4 0.02 2
kl nvfp4 0.02 1
"$program" eval bf16 --against "$demo" --text text -q --json >out 2>err || fail "eval bf16"
grep -q '"kl": 0, "same_top_1": 1}' out || fail "bf16 of a bf16 model is not the same"
exit $((failures > 0))
