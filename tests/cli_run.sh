# run on real checkpoints: equal text on any number of ranks, every source of prompts, files that
# cannot be read or written, and the installed program.
# Nothing here depends on what the demo model says. timeout: 180
. "$(dirname "$0")/shell_helpers.sh"
program=${SWITCHYARD:?}
demo=$SY_TEST_DATA/demo
tiny=$SY_TEST_DATA/tiny
run() { timeout 60 "$program" run "$@"; }

# has FILE PATTERN...: every pattern occurs in the file.
has() {
    local file=$1
    shift
    for pattern in "$@"; do
        grep -Eq -- "$pattern" "$file" || fail "no \"$pattern\" in $file: $(head -c 300 "$file")"
    done
}

# Equal text on any number of ranks, greedy and sampled; another seed gives another text.
for sampling in "" "--temperature 1 --top-p 0.9 --seed 3"; do
    run "$demo" -q -p 'The quick brown' --max-tokens 30 $sampling >expected 2>err ||
        fail "run $sampling"
    [ -s err ] && fail "-q is not quiet"
    for ranks in 2 4; do
        run "$demo" -q -p 'The quick brown' --max-tokens 30 $sampling -n $ranks >out 2>err ||
            fail "run $sampling -n $ranks"
        cmp -s expected out || fail "$ranks ranks give another text: $sampling"
    done
done
run "$demo" -q -p 'The quick brown' --max-tokens 30 --temperature 1 --top-p 0.9 --seed 4 >out
cmp -s expected out && fail "the seed does not matter"
run "$demo" -q -p 'The quick brown' --max-tokens 30 --numerics fast -n 2 >out 2>err ||
    fail "--numerics fast"
run "$demo" -q -p 'The quick brown' --max-tokens 12 --sampling model >out 2>err ||
    fail "--sampling model"
for ranks in 1 2; do # what is given counts, what is not is the model's
    run "$demo" -q -p 'The quick brown' --max-tokens 12 --sampling model --temperature 0 \
        -n $ranks >out 2>err || fail "--sampling model --temperature 0"
    run "$demo" -q -p 'The quick brown' --max-tokens 12 | cmp -s - out ||
        fail "--sampling model overrides --temperature"
done

# One JSON object a line.
run "$demo" -q -p 'int main' --max-tokens 9 --json -n 2 >out 2>err || fail "--json"
[ "$(wc -l <out)" = 1 ] || fail "--json prints more than one line for one prompt"
has out '^\{"prompt":0,' '"prompt_ids":\[[0-9]+(,[0-9]+)*\]' '"ids":\[[0-9]+(,[0-9]+)*\]' \
    '"text":"' '"finish_reason":"(length|end_token)"' '"first_token_s":[0-9]' '"last_token_s":[0-9]'

# The same prompt as option, file, stdin, list and ids.
run "$demo" -q -p 'int main' --max-tokens 9 >expected
ids=$(sed 's/.*"prompt_ids":\[\([^]]*\)\].*/\1/' out)
printf 'int main' >file
printf 'int main\n' >line
echo '"int main"' >list
run "$demo" -q -f file --max-tokens 9 | cmp -s expected - || fail "-f"
run "$demo" -q --max-tokens 9 <line | cmp -s expected - || fail "stdin"
run "$demo" -q -f - --max-tokens 9 -n 2 <line | cmp -s expected - || fail "-f - on 2 ranks"
run "$demo" -q --prompts list --max-tokens 9 | cmp -s expected - || fail "a list of one"
run "$demo" -q --prompts - --max-tokens 9 -n 2 <list | cmp -s expected - || fail "--prompts -"
run "$demo" -q --ids "$ids" --max-tokens 9 -n 2 | cmp -s expected - || fail "--ids"

# Many prompts come in their order, each as alone, whatever runs together.
long=$(printf 'word %.0s' $(seq 150))
printf '"%s"\n\n"short"\n"%s"\n"x"\n"y"\n' "$long" "$long" >list
for ranks in 1 3; do
    run "$demo" -q --prompts list --max-tokens 7 -n $ranks --chunk 16 >out 2>err ||
        fail "--prompts -n $ranks"
    i=0
    for prompt in "$long" short "$long" x y; do
        i=$((i + 1))
        echo "--- prompt $i ---"
        run "$demo" -q -p "$prompt" --max-tokens 7
    done >expected
    cmp -s expected out || fail "the list on $ranks ranks"
done
run "$demo" -q --prompts list --max-tokens 3 -n 2 --json >out
[ "$(grep -o '^{"prompt":[0-9]*' out | tr -dc '0-9\n' | tr '\n' ' ')" = "0 1 2 3 4 " ] ||
    fail "--json of a list is out of order"

# A stop string is cut off, and what follows it is not generated.
text=$(run "$demo" -q -p 'The first' --max-tokens 40; echo x)
text=${text%?x}
[ ${#text} -ge 16 ] || fail "the demo model says too little for this test"
stop=${text:8:4}
printf '%s\n' "${text%%"$stop"*}" >expected
run "$demo" -q -p 'The first' --max-tokens 40 --stop 'never said' --stop "$stop" -n 2 >out
cmp -s expected out || fail "--stop"
run "$demo" -q -p 'The first' --max-tokens 40 --stop "$stop" --json >out
has out '"finish_reason":"stop_string"'

# Expert loads are conserved: tokens x top-k in every layer.
for ranks in 1 3; do
    run "$demo" -q --prompts list --max-tokens 5 -n $ranks --loads loads.json >out 2>err ||
        fail "--loads on $ranks ranks"
    awk -v ranks=$ranks '
        /"version": 1/ { match($0, /"tokens": [0-9]+/); tokens = substr($0, RSTART + 10, RLENGTH - 10)
                         if ($0 !~ "\"ranks\": " ranks ",") exit bad = 1 }
        /"counts"/ { match($0, /"top_k": [0-9]+/); k = substr($0, RSTART + 9, RLENGTH - 9)
                     sub(/.*"counts": /, ""); gsub(/[^0-9]+/, " "); n = split($0, c, " "); sum = 0
                     for (i = 1; i <= n; i++) sum += c[i]
                     if (tokens == 0 || sum != tokens * k) bad = 1
                     layers++ }
        END { exit bad || layers == 0 }' loads.json || fail "loads on $ranks ranks are not conserved"
done

# Refusals: one line, and the documented exit code.
expect 2 'prompt 1 has [0-9]+ tokens; with --max-tokens 100000 .*beyond the model.s context of [0-9]+' \
    "$program" run "$demo" -p hello --max-tokens 100000
expect 2 '(rank 0: )?prompt 1 has 3 tokens; with --max-tokens 8 that makes 11, beyond --ctx of 10' \
    "$program" run "$demo" --ids '1 2 3' --max-tokens 8 --ctx 10 -n 2
expect 2 'prompt 2 is empty' sh -c 'printf "\"a\"\n\"\"\n" | "$0" run "$1" --prompts -' "$program" "$demo"
printf '"good"\n\n{}\n' >list
expect 4 '(rank 0: )?list, line 3: expected a JSON string, found object' \
    "$program" run "$demo" --prompts list -n 2
expect 2 '--ids: 3072000 is outside 0 to [0-9]+' "$program" run "$demo" --ids '1 3072000'
expect 3 '/nonexistent/p: No such file' "$program" run "$demo" -f /nonexistent/p
expect 3 '.*: expected a regular file' "$program" run "$demo" -f .
expect 3 '(rank 0: )?/nonexistent.*: No such file' "$program" run /nonexistent -p x -n 2
expect 3 '.*expected a config.json or a params.json' "$program" run . -p x
mkdir empty && cp "$tiny/mixtral/config.json" empty
expect 3 '.*empty.*: No such file|.*empty.*model.safetensors' "$program" run empty --ids 1
cp "$tiny/mixtral/model.safetensors" empty && truncate -s -1 empty/model.safetensors
expect 4 '(rank 0: )?empty: model.safetensors: .* bytes' "$program" run empty --ids 1 -n 2
expect 3 'writing to stdout: No space' sh -c '"$0" run "$1" -p x --max-tokens 5 >/dev/full' "$program" "$demo"
expect 3 '(rank 0: )?writing to stdout: No space' sh -c '"$0" run "$1" -p x --max-tokens 5 -n 2 >/dev/full' "$program" "$demo"
expect 3 '(rank 0: )?/nonexistent/l.json: No such file' \
    "$program" run "$demo" -q -p x --max-tokens 2 --loads /nonexistent/l.json -n 2
expect 3 '/dev/full: .*No space' "$program" run "$demo" -q -p x --max-tokens 2 --loads /dev/full
expect 2 'run has no option --routes' "$program" run "$demo" --ids 1 --routes x

# Without a tokenizer: ids in, ids out; text is refused.
expect 2 '.*has no tokenizer: give the prompt as --ids' "$program" run "$tiny/mixtral" -p x
run "$tiny/qwen3_moe" -q --ids '1 2 3' --max-tokens 6 --activations f32 >out || fail "ids in, ids out"
grep -Eqx '[0-9]+( [0-9]+){0,5}' out || fail "the answer is no list of ids: $(cat out)"
"$program" inspect "$tiny/mixtral" >out 2>err || fail "inspect without a tokenizer"
"$program" bench "$tiny/mixtral" -q -p 4 -g 2 -r 1 >out 2>err || fail "bench without a tokenizer"
has out '^\| mixtral .*prefill 4' '^\| mixtral .*decode 2'

# The installed program runs, on one rank and several.
build=$(dirname "$SY_TEST_PROGRAMS")
cmake --install "$build" --prefix "$scratch/prefix" >out 2>err || fail "cmake --install"
run "$demo" -q -p x --max-tokens 4 -n 2 >expected
(cd / && timeout 60 "$scratch/prefix/bin/switchyard" run "$demo" -q -p x --max-tokens 4 -n 2) >out 2>err
cmp -s expected out || fail "the installed program gives another text"

exit $((failures > 0))
