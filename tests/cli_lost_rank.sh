#!/usr/bin/env bash
# The real program loses a rank while it makes weights, while it reads a prompt and while it
# generates: one line that names the rank, exit code 8, nothing left. Ctrl-C while it generates
# ends cleanly with 130.
# timeout: 600
set -uo pipefail
set -m # else background jobs ignore SIGINT
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

fail() {
    echo "FAILED: $*" >&2
    sed 's/^/  err: /' "$work/err" | tail -n 12 >&2
    failures=$((failures + 1))
}

cat > "$work/config.json" << END
{"model_type": "qwen3_moe", "hidden_size": 512, "num_hidden_layers": 8,
 "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "num_experts": 32,
 "num_experts_per_tok": 4, "moe_intermediate_size": 512, "intermediate_size": 512,
 "vocab_size": 4096, "max_position_embeddings": 65536, "rms_norm_eps": 1e-6,
 "rope_theta": 10000, "norm_topk_prob": true, "hidden_act": "silu",
 "tie_word_embeddings": false}
END

# The ranks of the program that the last start made: its grandchildren with our scratch path.
ranks() {
    local pid
    for pid in $(pgrep -f -- "-- $work/config.json"); do
        tr '\0' '\n' < "/proc/$pid/environ" 2> /dev/null |
            sed -n "s/^OMPI_COMM_WORLD_RANK=\([0-9]*\)\$/\1 $pid/p"
    done | sort -n
}

# start PHASE OPTIONS...: runs bench on 3 ranks until stderr (with -v) or time says PHASE.
start() {
    local phase=$1 i
    shift
    "$SWITCHYARD" bench "$work/config.json" --dummy-weights -n 3 --deadline 1.5 "$@" \
        > "$work/out" 2> "$work/err" &
    front=$!
    for i in $(seq 300); do
        [ "$(ranks | wc -l)" = 3 ] && break
        sleep 0.05
    done
    [ "$(ranks | wc -l)" = 3 ] || fail "the ranks did not start"
    pids=$(ranks | awk '{print $2}')
    sleep "$phase"
}

judge() {
    local want=$1 pattern=$2 begin took code left=
    begin=$(date +%s%3N)
    wait "$front"
    code=$?
    took=$(($(date +%s%3N) - begin))
    [ "$code" = "$want" ] || fail "exit code $code, expected $want"
    [ "$took" -le 6000 ] || fail "took $took ms to end"
    [ "$(grep -c '^switchyard: error: ' "$work/err")" = 1 ] || fail "expected one error line"
    grep -Eq "^switchyard: error: $pattern" "$work/err" || fail "no line like: $pattern"
    sleep 0.3
    for pid in $pids; do
        case $(sed 's/.*) \(.\).*/\1/' "/proc/$pid/stat" 2> /dev/null) in
            '' | Z | X) ;;
            *) left="$left $pid" ;;
        esac
    done
    [ -z "$left" ] || { fail "processes left:$left"; kill -9 $left; }
    ls /dev/shm | grep -i switchyard && fail "files left in /dev/shm"
    return 0
}

pid_of() { ranks | awk -v r="$1" '$1 == r {print $2}'; }

# While weights are made (1.6 thousand million of them take a while).
start 0.3 --experts 256 -p 16 -g 0
kill -KILL "$(pid_of 1)"
judge 8 'rank 1 on host'

# While a long prompt is read.
start 2 -p 60000 -g 0 -r 1 --chunk 256
kill -KILL "$(pid_of 2)"
judge 8 'rank 2 on host'

# While it generates; a stopped rank, the first one, takes the deadline.
start 2 -p 0 -g 60000 -r 1
kill -STOP "$(pid_of 1)"
judge 8 'rank 1 on host [^ ]+ has not answered'
start 2 -p 0 -g 60000 -r 1 --virtual-hosts 3
kill -KILL "$(pid_of 0)"
judge 8 'rank 0 on host'

# Ctrl-C.
start 2 -p 0 -g 60000 -r 1
kill -INT "$front"
judge 130 'interrupted'

exit $((failures > 0))
