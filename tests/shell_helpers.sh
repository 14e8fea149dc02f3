# Sourced by the cli tests of the front end.
set -u
program=${RANK_PROGRAM:?}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
failures=0

fail() {
    echo "FAILED: $*" >&2
    for f in out err; do [ -s $f ] && sed "s/^/  $f: /" $f | head -20 >&2; done
    failures=$((failures + 1))
}

# expect CODE 'PATTERN OF THE ONE ERROR LINE' [COMMAND...]: runs it; stdout and stderr in out, err.
# Without a command, judges what is there already, with the exit code in $code.
expect() {
    local want=$1 pattern=$2 lines
    shift 2
    if [ $# -gt 0 ]; then
        timeout 30 "$@" >out 2>err
        code=$?
    fi
    lines=$(grep -c '^switchyard: error: ' err)
    [ $code = "$want" ] || fail "exit code $code, expected $want: $*"
    if [ -z "$pattern" ]; then
        [ -s err ] && fail "stderr is not empty: $*"
    else
        [ "$lines" = 1 ] || fail "$lines error lines, expected one: $*"
        grep -Eq "^switchyard: error: $pattern" err || fail "no \"$pattern\": $*"
        grep -q -e '^-----' -e '^mpirun' err && fail "mpirun's own text is shown: $*"
    fi
}

# start ARGUMENTS...: runs the program in the background; waits until it has printed n pids.
start() {
    local n=$1
    shift
    : >out # the pids of the last start must not be taken for this one's
    "$program" "$@" >out 2>err &
    front=$!
    for _ in $(seq 200); do
        [ "$(grep -c '^pid ' out)" = "$n" ] && break
        sleep 0.05
    done
    [ "$(grep -c '^pid ' out)" = "$n" ] || fail "the ranks did not start: $*"
    pids=$(awk '/^pid /{print $3}' out)
    # What must be gone in the end: the front end's socket and the files in /dev/shm.
    name=$(tr '\0' '\n' <"/proc/${pids%%$'\n'*}/environ" |
        sed -n 's/^SWITCHYARD_FRONTEND=\([^.]*\).*/\1/p')
    shared=$(for p in $pids; do grep -o '/dev/shm/[^ ]*' "/proc/$p/maps"; done | sort -u)
}

pid_of() { awk -v r="$1" '/^pid /&&$2==r{print $3}' out; }

now_ms() { date +%s%3N; }

# finish SECONDS: waits for the program and checks the time it takes.
finish() {
    local begin
    begin=$(now_ms)
    wait $front 2>/dev/null
    code=$?
    took=$(($(now_ms) - begin))
    [ $took -le $(($1 * 1000)) ] || fail "took $took ms to end, more than $1 s"
}

# ranks_gone SECONDS: all ranks have ended by then, counted from now. What mpirun takes to notice
# and to end itself, one or two seconds at times, comes on top and is not counted.
ranks_gone() {
    local begin pid alive took
    begin=$(now_ms)
    while :; do
        alive=
        for pid in $pids; do
            case $(state_of "$pid") in '' | Z | X) ;; *) alive="$alive $pid" ;; esac
        done
        took=$(($(now_ms) - begin))
        [ -z "$alive" ] && return 0
        [ $took -gt $(($1 * 1000)) ] && { fail "after $took ms there are ranks:$alive"; return 0; }
        sleep 0.05
    done
}

state_of() { sed 's/.*) \(.\).*/\1/' "/proc/$1/stat" 2>/dev/null; }

# No rank and no mpirun of the last start is left (zombies wait for init), and no file.
nothing_left() {
    local pid
    for _ in $(seq 40); do
        left=
        for pid in $pids; do
            case $(state_of "$pid") in '' | Z | X) ;; *) left="$left $pid" ;; esac
        done
        [ -z "$left" ] && break
        sleep 0.1
    done
    [ -z "$left" ] || { fail "processes left:$left"; kill -9 $left; }
    [ -n "$name" ] && grep -q "@switchyard-$name" /proc/net/unix && fail "the socket is left"
    for f in $shared; do [ -e "$f" ] && fail "$f is left"; done
    return 0
}
