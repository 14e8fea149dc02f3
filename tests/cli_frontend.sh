# The front end: results, stdin, a broken stdout, Ctrl-C, Ctrl-Z, and its own death.
# timeout: 600
. "$(dirname "$0")/shell_helpers.sh"

# Text passes unchanged, in pieces and at length, as without a front end.
seq 20000 >numbers
for ranks in "" "-n 1" "-n 3"; do
    "$program" echo $ranks <numbers >out 2>err || fail "echo $ranks fails"
    sed 's/.*/<&>/' numbers | cmp -s - out || fail "echo $ranks changes the text"
done
printf 'a\n\nlast' | "$program" echo -n 2 >out 2>err
[ "$(cat out)" = "$(printf '<a>\n<>\n<last>')" ] || fail "empty and unfinished lines"
[ -s err ] && fail "a bar is drawn where there is no terminal"
head -c 2000 /dev/zero | tr '\0' x | expect 3 'rank 0: a line of stdin is longer' "$program" echo -n 2

# Arguments reach the ranks as they are, also such as mpirun would take for its own.
(mkdir -p -- '-np' && cd -- '-np' && "$program" write 1 -n 2 --isa auto) >out 2>err ||
    fail "odd arguments"

# A stdout that is closed, gone or full is an error that names it.
for ranks in "" "-n 2"; do
    sh -c '("$0" write 100000 $1 2>err; echo $? >code) | head -1 >out' "$program" "$ranks"
    code=$(cat code)
    expect 3 '(rank 0: )?writing to stdout: Broken pipe'
    expect 3 '(rank 0: )?writing to stdout: No space' sh -c '"$0" write 9 $1 >/dev/full' "$program" "$ranks"
    expect 3 '(rank 0: )?writing to stdout: Bad file' sh -c '"$0" write 9 $1 >&-' "$program" "$ranks"
done

# A reader that is slow holds the results back and loses none.
[ "$("$program" write 30000 -n 2 | (sleep 1; wc -l))" = 30000 ] || fail "a slow reader loses lines"

expect 7 'mpirun is not in PATH' env PATH=/nonexistent "$program" loop 1 -n 2
expect 7 'the ranks did not start within 0.5 s' "$program" late 20 -n 2 --start-limit 0.5
expect 4 'rank 1: weights are upside down' "$program" fail 1 -n 3
expect 8 'rank 1( on host [^ ]+)? (ended with exit code 42|died|ended without)' "$program" leave 1 -n 3 --deadline 0

# Ctrl-C, and requests to end. (Background jobs of a script ignore SIGINT: set -m.)
set -m
for signal in INT TERM HUP; do
    start 3 loop 60 -n 3
    kill -$signal $front
    ranks_gone 3
    finish 7
    expect 130 'interrupted'
    nothing_left
done
"$program" late 30 -n 2 >out 2>err &
front=$!
sleep 0.5
kill -INT $front
finish 5
expect 130 'interrupted'

# A rank that does not react: the second Ctrl-C does not wait for it.
start 2 stuck 1 -n 2 --deadline 0
kill -INT $front
sleep 0.3
kill -INT $front
finish 4
expect 130 'interrupted'
nothing_left

# Ctrl-Z stops all ranks for longer than the deadline, `fg` continues them.
start 3 loop 3 -n 3 --deadline 1
kill -TSTP $front
sleep 0.5
for pid in $front $pids; do [ "$(state_of $pid)" = T ] || fail "$pid does not stop"; done
sleep 2
kill -CONT $front
finish 10
[ $code = 0 ] && grep -q '^done$' out || fail "Ctrl-Z is taken for a failure: $code"
[ -s err ] && fail "Ctrl-Z leaves a message"
nothing_left

# The front end is killed: nobody owns the ranks, so they end too.
start 3 loop 60 -n 3
kill -KILL $front
wait $front 2>/dev/null
nothing_left

exit $((failures > 0))
