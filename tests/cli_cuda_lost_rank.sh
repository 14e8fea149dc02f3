#!/usr/bin/env bash
# A rank that computes on a device dies or stops while it generates, its device and those of the
# others in the middle of an exchange: all end within the deadline, with one line that names it,
# exit code 8, and nothing left. In recorded steps and in plain launches. Ctrl-C ends them with 130.
# timeout: 300
. "$(dirname "$0")/cuda_shell_helpers.sh"
need_device 3

deadline=1.5
limit=$((1500 + 4500)) # ms: the deadline, and what mpirun takes to end

# lost SIGNAL RANK BYTES 'PATTERN' OPTIONS...: after so much text.
lost() {
    local signal=$1 rank=$2 bytes=$3 pattern=$4
    shift 4
    start 3 "$bytes" --deadline $deadline "$@"
    sleep 0.0$((RANDOM % 90 + 10)) # anywhere in a step
    kill -"$signal" "$(pid_of "$rank")"
    judge 8 "rank $rank on host [^ ]+ $pattern" $limit
}

for form in '' --no-graphs; do
    lost KILL 0 1 '(died|has not answered|was ended)' $form
    lost KILL 1 20 '(died|has not answered|was ended)' $form
    lost KILL 2 60 '(died|has not answered|was ended)' $form
    lost STOP 1 1 'has not answered for 1.5 s' $form
    lost STOP 0 40 'has not answered for 1.5 s' $form
done
# Two ranks of two hosts, as far as the program knows: no page tells who died, datagrams do.
lost KILL 1 1 '(died|has not answered|was ended)' --virtual-hosts 3
lost STOP 2 1 'has not answered for 1.5 s' --virtual-hosts 3 --no-graphs

for form in '' --no-graphs; do
    start 2 20 $form
    kill -INT "$front"
    judge 130 'interrupted' 5000
done

exit $((failures > 0))
