#!/usr/bin/env bash
# run over several hosts: network namespaces joined by a bridge, each with its own host name,
# shared memory and System V IPC. The text is that of one rank; a rank lost on the other host, a
# cut cable and Ctrl-C end all ranks, with one line.
# Everything lives in namespaces below one of processes, which end with this script.
# timeout: 120
set -uo pipefail
skip() { echo "skipped: $*"; exit 77; }

if [ "${SY_TEST_HOSTS:-}" != inside ]; then
    [ "$(id -u)" = 0 ] || skip "only root may create network namespaces"
    for tool in ip unshare nsenter pgrep; do
        command -v $tool >/dev/null || skip "$tool is not installed"
    done
    own=(unshare --mount --pid --fork --kill-child --mount-proc --net --uts --ipc)
    "${own[@]}" ip link add name switch type bridge 2>/dev/null ||
        skip "no right to create namespaces, or a kernel without bridges"
    "${own[@]}" ip link add name a type veth peer name b 2>/dev/null || skip "no veth devices"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    SY_TEST_HOSTS=inside work=$work "${own[@]}" bash "$0"
    exit
fi

demo=$SY_TEST_DATA/demo
failures=0
mkdir "$work/tmp"
export TMPDIR=$work/tmp
fail() {
    echo "FAILED: $*" >&2
    sed 's/^/  err: /' "$work/err" | tail -n 12 >&2
    failures=$((failures + 1))
}

# ---- the hosts ----

names="hosta hostb hostc"
enter() { # HOST COMMAND...: becomes the command on the host
    local holder
    holder=$(cat "$work/$1.pid")
    shift
    exec nsenter -t "$holder" -n -u -i -m -- "$@"
}

add_host() { # NAME NUMBER
    unshare --net --uts --ipc --mount sh -c \
        'hostname "$0" && mount -t tmpfs none /dev/shm && exec sleep 1000' "$1" &
    local holder=$!
    echo $holder >"$work/$1.pid"
    for _ in $(seq 200); do
        [ "$(cat /proc/$holder/comm)" = sleep ] && break
        sleep 0.02
    done
    ip link add name "port$2" type veth peer name eth0 netns $holder
    ip link set "port$2" master switch up
    nsenter -t $holder -n sh -c "ip link set lo up; ip addr add 10.99.0.$2/24 dev eth0;
        ip link set eth0 up"
    echo "10.99.0.$2 $1" >>"$work/hosts"
}

echo "127.0.0.1 localhost" >"$work/hosts"
mount --bind "$work/hosts" /etc/hosts
mount -t sysfs none /sys
ip link add name switch type bridge
ip link set switch up
i=0
for host in $names; do add_host $host $((++i)); done

# What ssh does: a shell on the host, with little of this environment.
cat >"$work/rsh" <<END
#!/bin/sh
host=\$1
shift
exec nsenter -t "\$(cat "$work/\$host.pid")" -n -u -i -m \
    env -i PATH="\$PATH" TMPDIR="$TMPDIR" \
    ASAN_OPTIONS="\${ASAN_OPTIONS:-}" LSAN_OPTIONS="\${LSAN_OPTIONS:-}" sh -c "\$*"
END
chmod +x "$work/rsh"
export OMPI_MCA_plm_rsh_agent=$work/rsh

# ---- the text ----

bytes_of() { cat "/sys/class/net/port$1/statistics/rx_bytes"; }

"$SWITCHYARD" run "$demo" -q -p The --max-tokens 30 >"$work/want" 2>"$work/err" || fail "1 rank"
for front in hosta hostc; do # a host of ranks, and one without
    before=$(bytes_of 2)
    (enter $front timeout 30 "$SWITCHYARD" run "$demo" -v -p The --max-tokens 30 -n 4 \
        --hosts hosta:2,hostb:2) >"$work/out" 2>"$work/err" || fail "exit code $? from $front"
    cmp -s "$work/want" "$work/out" || fail "from $front: another text"
    [ "$(grep -c '4 ranks on 2 hosts' "$work/err")" = 4 ] || fail "from $front: not two hosts"
    grep -Eq 'exchange [1-9][0-9.]* k?B inside hosts, [1-9][0-9.]* k?B between' "$work/err" ||
        fail "from $front: no exchange of both kinds"
    [ $(($(bytes_of 2) - before)) -gt 90000 ] || fail "from $front: nothing went over the cable"
done

# ---- the machines ----

(enter hostc timeout 30 "$SWITCHYARD" topo -n 3 --hosts hosta:2,hostb:1) >"$work/out" 2>"$work/err" ||
    fail "topo: exit code $?"
grep -q '^hosta, hostb (2 alike' "$work/out" || fail "topo: not two machines"
[ "$(grep -cE '^ +[01]  hosta |^ +2  hostb ' "$work/out")" = 3 ] || fail "topo: not their ranks"

# ---- the ends ----

for _ in $(seq 400); do echo '"The first"'; done >"$work/list"

ranks() {
    local pid
    for pid in $(pgrep -f -- "-- $demo\$"); do
        tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" |
            sed -n "s/^OMPI_COMM_WORLD_RANK=\([0-9]*\)\$/\1 $pid/p"
    done | sort -n
}
pid_of() { ranks | awk -v r="$1" '$1 == r {print $2}'; }

start() { # FRONT: a long run; waits until the ranks generate
    set -m # else a background job ignores SIGINT
    (enter "$1" "$SWITCHYARD" run "$demo" --prompts "$work/list" --max-tokens 1000 -n 4 \
        --hosts hosta:2,hostb:2 --deadline 2) >"$work/out" 2>"$work/err" &
    job=$!
    set +m
    for _ in $(seq 200); do
        grep -q '^weights ' "$work/err" && break
        sleep 0.05
    done
    grep -q '^weights ' "$work/err" || fail "the ranks did not start from $1"
    sleep 0.3
}

judge() { # CODE PATTERN SECONDS: how it ends, and that no rank is left
    local begin code took
    begin=$(date +%s%3N)
    wait $job
    code=$?
    took=$(($(date +%s%3N) - begin))
    echo "$2: ended after $took ms"
    [ $code = "$1" ] || fail "exit code $code, expected $1"
    [ $took -le $(($3 * 1000)) ] || fail "took $took ms to end"
    [ "$(grep -c '^switchyard: error: ' "$work/err")" = 1 ] || fail "expected one error line"
    grep -Eq "^switchyard: error: $2" "$work/err" || fail "no line like: $2"
    grep -q '^$' "$work/err" && fail "an empty line"
    for _ in $(seq 20); do
        [ -z "$(ranks)" ] && return
        sleep 0.1
    done
    fail "ranks left: $(ranks)"
}

start hosta
kill -KILL "$(pid_of 3)"
judge 8 'rank 3 on host hostb died' 8
start hosta
kill -STOP "$(pid_of 3)"
judge 8 'rank 3 on host hostb has not answered for 2.0 s' 10
start hostc
kill -STOP "$(pid_of 0)"
judge 8 'rank 0 on host hosta has not answered for 2.0 s' 10
start hosta
kill -INT $job
judge 130 interrupted 8
start hostc # rank 0 cannot be asked over the socket: mpirun ends it at once
kill -INT $job
judge 130 interrupted 5
for _ in $(seq 50); do # the daemons of the runs so far have gone
    pgrep -x 'orted|mpirun' >/dev/null || break
    sleep 0.1
done
pgrep -x 'orted|mpirun' >/dev/null && fail "daemons left: $(pgrep -x -a 'orted|mpirun')"
[ -z "$(find "$TMPDIR" -type f)" ] || fail "files left: $(find "$TMPDIR" -type f)"
start hosta
ip link set port2 down
judge 8 'rank [23] on host hostb has not answered for 2.0 s' 10

exit $((failures > 0))
