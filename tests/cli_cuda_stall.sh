#!/usr/bin/env bash
# An exchange between devices that never ends on one of them, while every process is well: the
# ranks give up after 12 deadlines, with one line that names whose device is behind, and exit
# code 8. At the start, within a prompt and within recorded steps.
# timeout: 180
. "$(dirname "$0")/cuda_shell_helpers.sh"
need_device emulated

# stall NAME EXCHANGE OPTIONS...: the device of rank 1 never ends its n-th exchange. In the
# background, all at once: they do little but wait.
names=
stall() {
    local name=$1 exchange=$2
    shift 2
    names="$names $name"
    (
        begin=$(date +%s%3N)
        SY_EMU_NCCL_STALL=1,$exchange timeout -k 5 80 "$SWITCHYARD" run "$work/demo" \
            -p 'The file' --max-tokens 60 --device cuda -n 3 --deadline 1 "$@" \
            > "$work/$name.out" 2> "$work/$name.err"
        echo $? $(($(date +%s%3N) - begin)) > "$work/$name.code"
    ) &
}

stall start 2
stall launches 60 --no-graphs
stall recorded 90
stall apart 60 --no-graphs --virtual-hosts 3
wait
for name in $names; do
    read -r code took < "$work/$name.code"
    cp "$work/$name.err" "$work/err"
    expect "$code" 8 '.*the device of rank 1 on host [^ ]+ is behind: '
    [ "$took" -ge 11000 ] || fail "$name: gave up after $took ms, too early"
    [ "$took" -le 30000 ] || fail "$name: took $took ms to give up"
done
pgrep -f -- "-- $work/demo" > /dev/null && fail "processes left"

exit $((failures > 0))
