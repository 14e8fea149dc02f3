#!/usr/bin/env bash
# `switchyard run --device cuda` with every kind of fault that a device may have: no memory, at
# each allocation; a kernel that fails, in loading, recording, prefill and decode; and command
# lines that the device does not serve. One line that says what and where, the exit code of the
# fault, nothing left, also of device memory.
# timeout: 300
. "$(dirname "$0")/cuda_shell_helpers.sh"
need_device emulated

# once RANKS OPTIONS...: a run of few tokens; its exit code in $code.
tokens=8
once() {
    local n=$1
    shift
    timeout -k 5 40 "$SWITCHYARD" run "$work/demo" -p 'The file' --max-tokens $tokens --device cuda \
        -n "$n" "$@" > "$work/out" 2> "$work/err"
    code=$?
}

# The n-th allocation fails, for all n until a run succeeds; `step` leaves some out.
memory() {
    local n ranks=$1 step=$2 where='' whose='device'
    shift 2
    [ "$ranks" -gt 1 ] && whose='(rank [0-9]+: |\[rank [0-9]+ on host [^ ]+\] ).*device'
    for ((n = 1; n < 200; n += step)); do
        SY_EMU_FAIL_MALLOC=$n once "$ranks" "$@"
        [ $code = 0 ] && break
        expect $code 6 "(.*: )?$whose"' 0 \(emulated\): cuda.*: out of memory'
        where="$where$(sed -n 's/.* for \(.*\): device.*/\1, /p' "$work/err")"
    done
    [ $code = 0 ] || fail "no end of allocations"
    # Loading, the steps' own memory and the exchange's have all been met.
    case $where in *weights*'KV cache'*'rows to other ranks'*'expert loads'*) ;; *)
        [ "$step" -gt 1 ] || fail "only met: $where" ;;
    esac
    [ $n -gt 15 ] || fail "only $n allocations"
}
memory 1 1
memory 2 3
memory 2 9 --no-graphs

# The n-th kernel fails, on every rank that gets so far: while weights are packed, in the step
# after recording, while the prompt is read, and while it generates (the last of all).
kernel() {
    local ranks=$1 n=$2 whose='device'
    shift 2
    [ "$ranks" -gt 1 ] && whose='(rank [0-9]+: |\[rank [0-9]+ on host [^ ]+\] )device'
    SY_EMU_FAIL_LAUNCH=$n once "$ranks" "$@"
    expect $code 9 "$whose"' 0 \(emulated\): cuda.*: an illegal memory access'
    where="$where $(sed -n 's/^emu: kernel \([a-z_]*\).* fails.*/\1/p' "$work/err" | sort -u)"
}
where=
tokens=60 # more kernels than any number here
for n in 1 100 240 300 400; do
    kernel 1 $n
done
for n in 1 150 200 300; do
    kernel 2 $n
done
kernel 1 300 --no-graphs
kernel 2 150 --no-graphs
kernel 2 300 --no-graphs
case $where in *pack_tiles*multiply*) ;; *) fail "only met: $where" ;; esac
tokens=8

# No memory for the graph of a larger bucket, on one rank or all: those steps go launch by launch,
# which is said, and the text is the same.
for n in 1 2; do
    once $n
    cp "$work/out" "$work/recorded.out"
    one_rank=
    [ $n -gt 1 ] && one_rank=3@1
    for graph in $n $((n + 1)) $((n + 3)) $one_rank; do # 1 of 2 ranks: a probe of NCCL
        SY_EMU_FAIL_GRAPH=$graph once $n
        [ $code = 0 ] || fail "graph $graph fails on $n ranks: exit code $code"
        cmp -s "$work/out" "$work/recorded.out" || fail "graph $graph fails: another text"
        grep -q 'no memory to record steps' "$work/err" ||
            fail "graph $graph fails: not said"
    done
done

# Too little memory ends in one line, however much it is; and where there is enough for the
# backend's own buffers, the budget notices before weights are read.
for n in 1 2; do
    refused=0
    for megabytes in 4 18 20 22 26 32 64 128; do
        SY_EMU_MEMORY=$((megabytes * 1000000)) once $n
        [ $code = 0 ] && break
        expect $code 6 '.*(needs .*available|out of memory)'
        if grep -q 'needs .* on rank 0 (weights .*), .* available; ' "$work/err"; then
            refused=$((refused + 1))
            grep -q '^weights' "$work/err" && fail "read weights before it refused"
        fi
    done
    [ $code = 0 ] || fail "$megabytes MB of device memory are not enough for $n ranks"
    [ $refused -gt 0 ] || fail "the budget never refused"
done

once 2 --numerics fast
[ $code = 0 ] && [ -s "$work/out" ] || fail "--numerics fast: exit code $code"
for n in 1 2; do
    once $n --numerics fast-bf16
    expect $code 5 '(rank 0: )?--numerics fast-bf16 is for --device cpu'
done
once 1 --activations f32
expect $code 5 '.*bf16 activations, not F32'
once 1 --device nonsense
expect $code 2 '.*--device.*nonsense'
once 1 --no-graphs=yes
expect $code 2 '.*--no-graphs'

exit $((failures > 0))
