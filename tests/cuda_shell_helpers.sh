# Sourced by the cli tests of what goes wrong on a device. They run `switchyard run` on the demo
# model, under a path of their own, by which its processes are found.
set -u
set -m # else background jobs ignore SIGINT
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ln -s "$SY_TEST_DATA/demo" "$work/demo"
failures=0

fail() {
    echo "FAILED: $*" >&2
    sed 's/^/  err: /' "$work/err" | tail -n 12 >&2
    failures=$((failures + 1))
}

# need_device emulated|RANKS: leaves with 77 where there is no such device: the emulated one, or
# (NCCL takes a device once) a real one for each rank.
need_device() {
    if ! timeout 60 "$SWITCHYARD" run "$work/demo" -p x --max-tokens 1 --device cuda \
        > "$work/out" 2> "$work/err"; then
        if grep -qE 'built without CUDA|no CUDA device' "$work/err"; then
            echo "skipped: $(head -n 1 "$work/err")"
            exit 77
        fi
        fail "one rank, without any fault"
        exit 1
    fi
    grep -q '^device *emulated' "$work/err" && return
    if [ "$1" = emulated ]; then
        echo "skipped: only the emulated device fails on demand"
        exit 77
    fi
    if [ "$(nvidia-smi -L | wc -l)" -lt "$1" ]; then
        echo "skipped: fewer than $1 devices"
        exit 77
    fi
}

# The ranks of the program that was started last: "rank pid" lines.
ranks() {
    local pid
    for pid in $(pgrep -f -- "-- $work/demo"); do
        tr '\0' '\n' < "/proc/$pid/environ" 2> /dev/null |
            sed -n "s/^OMPI_COMM_WORLD_RANK=\([0-9]*\)\$/\1 $pid/p"
    done | sort -n
}

pid_of() { ranks | awk -v r="$1" '$1 == r {print $2}'; }

# start RANKS BYTES OPTIONS...: generates in the background until that much text has come.
start() {
    local n=$1 bytes=$2 i
    shift 2
    : > "$work/out"
    timeout --foreground -k 5 100 "$SWITCHYARD" run "$work/demo" -p 'The file' \
        --max-tokens 900 --device cuda -n "$n" "$@" > "$work/out" 2> "$work/err" &
    job=$!
    for i in $(seq 1200); do
        [ "$(ranks | wc -l)" = "$n" ] && [ "$(stat -c %s "$work/out")" -ge "$bytes" ] && break
        kill -0 $job 2> /dev/null || break
        sleep 0.03
    done
    [ "$(ranks | wc -l)" = "$n" ] || fail "the ranks did not start: $*"
    [ "$(stat -c %s "$work/out")" -ge "$bytes" ] || fail "no text: $*"
    front=$(pgrep -P $job)
    pids=$(ranks | awk '{print $2}')
    shared=$(for pid in $pids; do grep -o '/dev/shm/[^ ]*' "/proc/$pid/maps"; done | sort -u)
}

alive() {
    local pid
    for pid in $pids; do
        case $(sed 's/.*) \(.\).*/\1/' "/proc/$pid/stat" 2> /dev/null) in
            '' | Z | X) ;;
            *) echo "$pid" ;;
        esac
    done
}

# judge CODE 'PATTERN' MILLISECONDS: how the program of the last start ends, from now on.
judge() {
    local want=$1 pattern=$2 limit=$3 begin took code left
    begin=$(date +%s%3N)
    wait "$job"
    code=$?
    took=$(($(date +%s%3N) - begin))
    [ "$took" -le "$limit" ] || fail "took $took ms to end, more than $limit"
    expect "$code" "$want" "$pattern"
    sleep 0.2
    left=$(alive)
    [ -z "$left" ] || { fail "processes left: $left"; kill -9 $left; }
    for file in $shared; do
        [ -e "$file" ] && fail "$file is left"
    done
    return 0
}

# expect CODE WANTED 'PATTERN': the exit code, and the one line of error in $work/err. The
# emulation's word on memory that was never freed, or on a misuse, is a failure too.
expect() {
    [ "$1" = "$2" ] || fail "exit code $1, expected $2"
    [ "$(grep -c '^switchyard: error: ' "$work/err")" = 1 ] || fail "expected one error line"
    grep -Eq "^switchyard: error: $3" "$work/err" || fail "no line like: $3"
    grep '^emu: ' "$work/err" | grep -v 'as SY_EMU_FAIL_LAUNCH wants it$' &&
        fail "the emulation has something to report"
    grep -q -e '^-----' -e '^mpirun' "$work/err" && fail "mpirun's own text is shown"
    grep -qE 'AddressSanitizer|runtime error|LeakSanitizer' "$work/err" && fail "sanitizer"
    return 0
}
