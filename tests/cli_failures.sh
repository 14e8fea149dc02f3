# A rank that dies, stops or hangs ends the others within the deadline and two seconds, with one
# line that names it, exit code 8, and nothing left behind.
# timeout: 600
. "$(dirname "$0")/shell_helpers.sh"

deadline=1
limit=3       # seconds until all ranks are gone
front_limit=7 # seconds until mpirun and the front end are, too

# lost SIGNAL RANK 'PATTERN' OPTIONS...: sends a rank a signal while it steps.
lost() {
    local signal=$1 rank=$2 pattern=$3
    shift 3
    start 3 loop 60 -n 3 --deadline $deadline "$@"
    kill -"$signal" "$(pid_of "$rank")"
    ranks_gone $limit
    finish $front_limit
    expect 8 "rank $rank on host [^ ]+ $pattern"
    nothing_left
}

for hosts in "" "--virtual-hosts 2" "--virtual-hosts 3" "--no-shared-memory"; do
    lost KILL 0 '(died|has not answered|was ended)' $hosts
    lost KILL 2 '(died|has not answered|was ended)' $hosts
    lost STOP 0 'has not answered for 1.0 s' $hosts
    lost STOP 1 'has not answered for 1.0 s' $hosts
    start 3 stuck 1 -n 3 --deadline $deadline $hosts
    ranks_gone $limit
    finish $front_limit
    expect 8 'rank 1 on host [^ ]+ made no progress in phase "prefill" for 0.5 s'
    nothing_left
done

# Without a front end the line comes from the watchdog itself, once in the whole job.
plain() {
    local signal=$1
    shift
    : >out
    mpirun -n 3 "$program" loop 60 --deadline $deadline "$@" >out 2>err &
    front=$!
    for _ in $(seq 200); do
        [ "$(grep -c '^pid ' out)" = 3 ] && break
        sleep 0.05
    done
    pids=$(awk '/^pid /{print $3}' out) name='' shared=''
    [ -n "$pids" ] || { fail "the ranks did not start"; wait $front; return; }
    kill -"$signal" "$(pid_of 1)"
    ranks_gone $limit
    finish $front_limit
    [ $code != 0 ] || fail "mpirun ends with 0"
    [ "$(grep -c '^switchyard: error: ' err)" -le 1 ] || fail "more than one line"
    grep -q '^switchyard: error: rank 1 on host' err || grep -q 'process rank 1 .* exited on signal' err ||
        fail "the rank is not named"
    nothing_left
}
plain KILL
plain STOP
plain STOP --virtual-hosts 3

exit $((failures > 0))
