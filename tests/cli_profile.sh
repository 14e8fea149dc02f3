# Profiles by the program: counts conserved in every kind of run, files, labels, colours, refusals.
# timeout: 180
. "$(dirname "$0")/shell_helpers.sh"
program=${SWITCHYARD:?}
demo=$SY_TEST_DATA/demo
profile() { timeout 60 "$program" profile "$demo" -q "$@"; }

# conserved DIR: in each layer tokens x 4 pairs, by loads.csv; and by loads.json without its shape.
conserved() {
    local tokens
    tokens=$(sed -n 's/.*"synchronised": [a-z]*, "tokens": \([0-9]*\),.*/\1/p' "$1/profile.json")
    [ "${tokens:-0}" -gt 0 ] || fail "$1: no tokens"
    tail -n +2 "$1/loads.csv" | awk -F, -v want=$((tokens * 4)) '
        { sum[$(NF - 4)] += $(NF - 1) }
        END { for (l in sum) { n++; if (sum[l] != want) exit 1 } exit n != 4 }' ||
        fail "$1: loads.csv does not add up to $((tokens * 4)) in each of 4 layers"
    [ "$(grep -c '"layer":' "$1/loads.json")" = 4 ] || fail "$1: layers of loads.json"
    grep '"layer":' "$1/loads.json" | sed 's/.*"counts"://' | tr -cs '0-9\n' ' ' |
        awk -v want=$((tokens * 4)) '
            { sum = 0; for (i = 1; i <= NF; i++) sum += $i; if (sum != want) exit 1 }' ||
        fail "$1: loads.json does not add up"
}

# Tokens per layer and expert, whatever the ranks: by name of label, layer and expert.
by_expert() {
    tail -n +2 "$1/loads.csv" | awk -F, '{ n[$1 "," $2 "," $3] += $5 }
        END { for (k in n) print k, n[k] }' | sort
}

head -c 3000 "$SY_SOURCE_DIR/LICENSE" >text
head -c 2000 "$SY_SOURCE_DIR/runtime/forward.c" >code
printf '"Hello"\n"A longer line, of more words."\n' >prompts
for n in 1 2 3 4; do
    profile --label prose=text --label code=code --ctx 64 -n $n --out texts-$n >out 2>err ||
        fail "profile of two texts on $n ranks"
    conserved texts-$n
    by_expert texts-$n >experts-$n
    cmp -s experts-1 experts-$n || fail "$n ranks count otherwise"
done
grep -q '^prose and code' out || fail "no comparison is shown"
profile --prompts prompts --max-tokens 9 -n 2 --virtual-hosts 2 --out prompts-2 >out 2>err ||
    fail "profile of prompts"
conserved prompts-2
grep -q '"hosts": \["[^"]*#0", "[^"]*#1"\]' prompts-2/profile.json || fail "two hosts"

# What is counted becomes a placement with copies; under it the same tokens take the same experts.
"$program" place texts-3/loads.json --slots 7 --out placement.json >out 2>err || fail "place"
profile --label prose=text --label code=code --ctx 64 -n 3 --placement placement.json --out placed \
    >out 2>err || fail "profile of a placement"
conserved placed
by_expert placed | cmp -s - experts-1 || fail "a placement counts otherwise"
[ "$(wc -l <placed/loads.csv)" -gt "$(wc -l <texts-3/loads.csv)" ] || fail "there are no copies"

# run and bench; a profile changes no text, and its loads are those of --loads.
"$program" run "$demo" -q -p 'The quick' --max-tokens 12 >expected || fail "run"
"$program" run "$demo" -q -p 'The quick' --max-tokens 12 -n 3 --profile run-3 --loads loads >out \
    2>err || fail "run --profile"
cmp -s expected out || fail "a profile changes the text"
[ -s err ] && fail "-q is not quiet"
conserved run-3
grep -v '"label"' run-3/loads.json | cmp -s - loads || fail "--loads has other numbers"
"$program" bench "$demo" -q -p 20 -g 5 -b 1,3 -r 2 -n 2 --profile bench-2 >out 2>err ||
    fail "bench --profile"
conserved bench-2
[ "$(tail -n +2 bench-2/loads.csv | cut -d, -f1 | uniq | tr '\n' ,)" = \
    "pp20 b1,tg5 b1,pp20 b3,tg5 b3," ] || fail "labels of bench"
# Two repetitions of 20 and 1 + 5 tokens, with 1 and with 3 sequences; not the warm-up's.
grep -q '"synchronised": false, "tokens": 208,' bench-2/profile.json || fail "tokens of bench"

# What is asked for on top, and what is in the directory already.
mkdir mixed && echo mine >mixed/notes && echo old >mixed/profile.json
profile --text text --out mixed --profile-routes 2 --profile-pairs >out 2>err || fail "mixed"
[ "$(ls -A mixed | tr '\n' ' ')" = "coactivation.npy loads.csv loads.json notes profile.json \
report.html routes-0.json routes-1.json trace.json " ] || fail "files: $(ls -A mixed)"
[ "$(cat mixed/notes)" = mine ] || fail "another file was touched"
grep -q '"routes": 2, "coactivation": true' mixed/profile.json || fail "what belongs to it"
[ "$(wc -c <mixed/coactivation.npy)" = $((128 + 4 * 16 * 16 * 8)) ] || fail "coactivation.npy"
ids=$(sed -n 's/.*"ids": \[\(.*\)\],/\1/p' mixed/routes-0.json)
"$program" logits "$demo" -q --ids "$ids" -o free.npy || fail "logits"
"$program" logits "$demo" -q --ids "$ids" --routes mixed/routes-0.json -o forced.npy -n 2 ||
    fail "logits --routes"
cmp -s free.npy forced.npy || fail "replayed choices give other logits"

# Colours only where they are wanted.
profile --text text >out || fail "profile into a file"
grep -q $'\033' out && fail "colours in a file"
profile --text text --color always >out && grep -q $'\033' out || fail "--color always"
NO_COLOR=1 profile --text text --color always -n 2 >out && grep -q $'\033' out ||
    fail "what is given counts more than NO_COLOR"
profile --text text --json >out && head -c 13 out | grep -q '^{"version": 1' || fail "--json"

# Refusals, before anything is written.
echo >file
rank='(rank [0-9]+: )?'
expect 2 "${rank}profile needs --text FILE" "$program" profile "$demo" -q
expect 2 "--(label and --text|text and --label) exclude each other" "$program" profile "$demo" -q --text text --label a=text
expect 2 "${rank}--label: expected NAME=FILE, found \"text\"" "$program" profile "$demo" -q --label text
expect 2 "${rank}--label: expected NAME=FILE, found \"a=\"" "$program" profile "$demo" -q --label a= -n 2
expect 2 "${rank}--label: a name has 1 to" "$program" profile "$demo" -q --label =text
expect 2 "${rank}--label: the name a is given twice" "$program" profile "$demo" -q --label a=text --label a=code -n 2
expect 3 "${rank}missing: No such file" "$program" profile "$demo" -q --text missing -n 2
: >empty
expect 2 "${rank}empty is empty" "$program" profile "$demo" -q --text empty
expect 2 "--profile-routes: 5000 is outside 0 to 4096" "$program" profile "$demo" -q --text text --profile-routes 5000
expect 2 "--profile-events: -1 is outside" "$program" profile "$demo" -q --text text --profile-events -1
expect 2 "--color: \"red\" is not one of" "$program" profile "$demo" -q --text text --color red
expect 2 ".*beyond the model's context of" "$program" profile "$demo" -q --text "$SY_SOURCE_DIR/LICENSE" --ctx 100000
expect 3 "${rank}file: expected a directory" "$program" profile "$demo" -q --text text --out file -n 2
expect 3 "${rank}no/such/place: No such file" "$program" run "$demo" -q -p x --profile no/such/place
expect 3 "${rank}/proc/" "$program" bench "$demo" -q --profile /proc
expect 2 "${rank}--profile-routes: where to. It needs --out" \
    "$program" profile "$demo" -q --text text --profile-routes 1 -n 2
expect 2 "${rank}--profile-pairs: where to. It needs --profile" \
    "$program" run "$demo" -q -p x --profile-pairs
expect 2 ".*bench --exchange takes no --profile" "$program" bench --exchange --profile x
mkdir -p blocked/loads.csv
expect 3 "${rank}blocked/loads.csv: Is a directory" "$program" profile "$demo" -q --text text --out blocked -n 2
profile --text text >shown || fail "profile without files"
"$program" profile "$demo" -q --text text --out blocked >unwritten 2>err
[ $? = 3 ] || fail "exit code where a file cannot be written"
[ "$(wc -l <unwritten)" = "$(wc -l <shown)" ] || fail "what was measured is shown all the same"
: >empty
expect 2 "${rank}empty is empty" "$program" profile "$demo" -q --text empty --out refused
"$program" run "$demo" -q --ids 99999999 --profile refused >out 2>err && fail "an id beyond all"
[ -e refused ] && fail "what is refused leaves a directory"
[ "$(ls -A blocked | tr '\n' ' ')" = "loads.csv loads.json " ] || fail "left: $(ls -A blocked)"
exit $((failures > 0))
