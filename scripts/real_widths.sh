#!/usr/bin/env bash
# Runs layers of the published models at full width with made-up weights, to see that they run at
# all, in how much memory, and that what comes out is sane.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat << END
usage: scripts/real_widths.sh [--program FILE] [--ranks N] [MODEL...]

For each model: one dense layer where it has such, one layer of experts, weights made up in the
published precision, the config of tests/data/configs. A prompt of 17 tokens goes through in steps
of 8, 8 and 1 row. Each row of the table says what was cut, the bytes of all ranks at their peak,
and mean and deviation of the last row of logits, which has to be finite and not constant.

  --program FILE  default: build/release/launcher/switchyard
  --ranks N       default: 2
  MODEL...        names as printed; default: all
  --help
END
}

# name, config, options. What is cut is what one layer does not leave room for in 20 GB.
models='
deepseek-r1       deepseek-v3-v4              --layers dense:1,moe:1 --vocab 65536
sarvam-105b       sarvam-105b-v4              --layers dense:1,moe:1
sarvam-30b        sarvam-30b-v4               --layers dense:1,moe:1
mistral-large-3   mistral-large-3-params      --layers dense:1,moe:1 --vocab 65536
gpt-oss-120b      gpt-oss-120b-v4             --layers moe:2
qwen3-235b        qwen3-235b-a22b-v4          --layers moe:1
glm-4.5-air       glm-4.5-air-v4              --layers dense:1,moe:1
kimi-k2           kimi-k2-v4                  --layers dense:1,moe:1 --experts 192 --vocab 65536
minimax-m2        minimax-m2-v4               --layers moe:1
'

program=$root/build/release/launcher/switchyard
ranks=2
wanted=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --program | --ranks)
            [ $# -gt 1 ] || die "$1 needs a value"
            if [ "$1" = --program ]; then program=$2; else ranks=$2; fi
            shift 2
            ;;
        -*) usage >&2; die "unknown option: $1" ;;
        *) wanted="$wanted $1"; shift ;;
    esac
done
[ -x "$program" ] || die "no program $program; build it, or name another with --program"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Peak kB of all processes of this program that run now, once a second, until the file goes.
watch_memory() {
    local most=0 now
    while [ -e "$scratch/running" ]; do
        now=$({ ps -C "$(basename "$program")" -o rss= || true; } | awk '{ sum += $1 } END { printf "%d\n", sum }')
        if [ "${now:-0}" -gt "$most" ]; then most=$now; fi
        echo "$most" > "$scratch/peak"
        sleep 1
    done
}

# Mean and deviation of the last row of a .npy of float32, or "not finite".
last_row() {
    local columns
    columns=$(head -c 128 "$1" | tr -cd '[:print:]' | sed -n "s/.*'shape': ([0-9]*, \([0-9]*\)).*/\1/p" | head -n 1)
    tail -c $((4 * columns)) "$1" | od -An -v -tf4 -w4 | awk '
        /nan|inf/ { bad = 1 }
        { n++; sum += $1; squares += $1 * $1 }
        END {
            if (bad) { print "not finite"; exit }
            mean = sum / n
            printf "%.3f %.3f\n", mean, sqrt(squares / n - mean * mean)
        }'
}

failed=0
run_model() {
    local name=$1 config=$2 code=0 begin took mean deviation
    shift 2
    : > "$scratch/running"
    watch_memory &
    begin=$(date +%s)
    "$program" logits "$root/tests/data/configs/$config.json" --dummy-weights "$@" -n "$ranks" \
        --chunk 8 --ids "1 5 9 2 8 4 7 3 11 6 12 10 1 2 3 4 5" --out "$scratch/out.npy" -q \
        2> "$scratch/err" || code=$?
    took=$(($(date +%s) - begin))
    rm "$scratch/running"
    wait
    read -r mean deviation <<< "$(if [ $code = 0 ]; then last_row "$scratch/out.npy"; fi)"
    if [ $code != 0 ] || [ "$mean" = not ] || [ "$deviation" = 0.000 ]; then
        failed=1
        printf '| %s | %s | failed: %s |\n' "$name" "$*" "$(tail -n 1 "$scratch/err")"
        return
    fi
    printf '| %s | %s | %.1f GB | %s | %s | %s s |\n' "$name" "$*" \
        "$(awk '{ print $1 * 1024 / 1e9 }' "$scratch/peak")" "$mean" "$deviation" "$took"
    rm -f "$scratch/out.npy"
}

printf '| model | cut to | memory of %s ranks | mean | deviation | time |\n|---|---|---:|---:|---:|---:|\n' "$ranks"
while read -r name config options; do
    [ -n "$name" ] || continue
    [ -z "$wanted" ] || [[ " $wanted " == *" $name "* ]] || continue
    # shellcheck disable=SC2086
    run_model "$name" "$config" $options < /dev/null
done <<< "$models"
exit $failed
