# Help, version and wrong command lines, as a user sees them.
. "$(dirname "$0")/shell_helpers.sh"

"$SWITCHYARD" --help >out 2>err || fail "--help fails"
for word in run bench logits tokenize inspect "Exit codes" "a rank died, hung or failed"; do
    grep -q "$word" out || fail "--help does not name: $word"
done
"$SWITCHYARD" bench --help >out 2>err || fail "bench --help fails"
grep -q -- '-p, --prompt-tokens N' out || fail "bench --help: -p is the prompt's length"
grep -q -- '--max-tokens' out && fail "bench --help shows an option of run"
"$SWITCHYARD" run nothing -h >out 2>err || fail "run -h fails"
grep -q -- '-p, --prompt TEXT' out || fail "run --help: -p is the prompt"
awk 'length > 100 { bad = 1 } END { exit bad }' out || fail "--help has long lines"
"$SWITCHYARD" --version >out 2>err || fail "--version fails"
for word in '^switchyard [0-9]' '^commit ' '^compiler ' '^MPI .*[0-9]' '^ISA '; do
    grep -q "$word" out || fail "--version does not show $word"
done

"$SWITCHYARD" run --version | cmp -s - out || fail "run --version is another text"

expect 2 'no command given' "$SWITCHYARD"
expect 2 'no command "bnech"; did you mean bench\?' "$SWITCHYARD" bnech
expect 2 'loop has no option --dead-line; did you mean --deadline\?' "$program" loop --dead-line 3
expect 2 '--deadline: "soon" is not a number' "$program" loop --deadline soon
expect 2 '--hosts: "a:b"' "$program" loop --hosts a:b
expect 2 '-n 3: --hosts has room for 2 ranks' "$program" loop -n 3 --hosts localhost:2
expect 2 '--hosts and --hostfile exclude|--hostfile and --hosts exclude' \
    "$program" loop --hosts a --hostfile f
expect 3 '--hostfile nowhere: No such file' "$program" loop -n 2 --hostfile nowhere
expect 3 '--hostfile .: Is a directory' "$program" loop -n 2 --hostfile .
expect 3 'writing to stdout: No space left' sh -c '"$0" --help >/dev/full' "$program"

# -v shows the effective values once, also with ranks.
"$program" loop 0 -n 2 -v --deadline 3 >out 2>err || fail "-v fails"
[ "$(grep -c -- '^switchyard loop 0 .*--ranks 2 .*--deadline 3 ' err)" = 1 ] || fail "-v: no line"

exit $((failures > 0))
