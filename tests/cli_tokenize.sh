# tokenize on directories with each kind of tokenizer file: texts come back, BOS is added on request,
# and faults are told with file or line.
. "$(dirname "$0")/shell_helpers.sh"
program=${SWITCHYARD:?}
data=$SY_TEST_DATA/tokenizers
tokenize() { timeout 60 "$program" tokenize "$@"; }

# Texts that no normal form changes; what printf writes is JSON.
printf '%s\n' '""' '"a"' '"Hello,  world\n"' '" two spaces"' '"Gr\u00f6\u00dfe \u6f22\u5b57 \u0000"' \
    '"[INST] <|im_user|>"' '"don'"'"'t"' >texts
for kind in qwen3 olmoe o200k mixtral sarvam tekken kimi; do
    tokenize "$data/$kind" <texts >ids 2>err || fail "$kind: encode"
    grep -qvE '^\[([0-9]+(, [0-9]+)*)?\]$' ids && fail "$kind: lines that are no lists of ids"
    tokenize "$data/$kind" --decode --special <ids >back 2>err || fail "$kind: decode"
    # jansson and printf spell the same strings differently; ids are the common form.
    tokenize "$data/$kind" <back >again 2>err || fail "$kind: encode what was decoded"
    cmp -s ids again || fail "$kind: the texts do not come back"
    [ "$(sed -n 2p back)" = '"a"' ] || fail "$kind: a becomes $(sed -n 2p back)"
done

# added KIND: how many ids --special puts in front of "a", and what they say.
added() {
    echo '"a"' | tokenize "$data/$1" --special >whole || fail "$1: --special"
    echo '"a"' | tokenize "$data/$1" >plain || fail "$1: encode"
    tr -cd '0-9, \n' <whole | awk -v n="$(awk -F, '{print NF}' plain)" -F, '{print NF - n}' >out
    tokenize "$data/$1" --decode --special <whole >text
}
for kind in mixtral tekken; do
    added $kind
    [ "$(cat out)" = 1 ] || fail "$kind: no BOS"
    grep -q '^"<s>' text || fail "$kind: BOS is $(cat text)"
done
for kind in qwen3 sarvam kimi; do
    added $kind
    [ "$(cat out)" = 0 ] || fail "$kind: something is added"
done

mkdir none
expect 3 '.*none: there is no tokenizer.json, tekken.json or tiktoken.model' \
    "$program" tokenize none
echo '{"config":{},"vocab":[]}' >none/tekken.json
expect 4 '.*none/tekken.json: config: there is no "pattern"' "$program" tokenize none
rm none/tekken.json
printf 'AA== 0\nAQ==\n' >none/tiktoken.model
expect 4 '.*none/tiktoken.model: line 2: expected a token in base64' "$program" tokenize none
printf '"a"\nb\n' >lines
expect 4 '.*line 2: expected a JSON string' "$program" tokenize "$data/tekken" <lines
printf '[1]\n[968]\n' >lines
expect 4 '.*line 2: entry 0: expected an id from 0 to' \
    "$program" tokenize "$data/tekken" --decode <lines

exit $((failures > 0))
