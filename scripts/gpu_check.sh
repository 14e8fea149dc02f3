#!/usr/bin/env bash
# Checks the CUDA backend on the GPU of this machine, from configuring to timings, and writes what
# came out into one file. --emulated runs the same list on an emulated device, in small.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat << END
usage: scripts/gpu_check.sh [OPTIONS]

Builds Switchyard for the GPU of this machine, runs every check that needs one, in an order in which
a fault shows where it begins, and writes a results file. A failed step does not stop the others.
Needs no network and installs nothing. Of several GPUs it takes the first, or the one that
CUDA_VISIBLE_DEVICES names. Exit code: 0, 1 if a step failed, 77 without a GPU.

  --emulated        build for the emulated device: no GPU, small sizes, no figures of speed
  --mpi PREFIX      Open MPI in PREFIX/bin; default: mpirun and mpicc of the PATH
  --deps PREFIX     programs and libraries that are not installed (below); with it, the libraries
                    in PREFIX/usr/lib are the only ones that are looked for
  --build DIR       build there; default: build/gpu-check or build/gpu-check-emulated
  --results FILE    default: gpu_check_results.md in the current folder
  --steps A,B       only these steps, and the build
  --jobs N          compile N files at once; default: the number of cores
  --list            print the names of the steps
  --help

Where packages cannot be installed, unpack them on a machine with the same release of Debian (these
are the names of 12) or Ubuntu, and take the folder along:

  mkdir debs deps && cd debs
  apt-get download cmake cmake-data ninja-build pkgconf-bin libpkgconf3 libjansson4 \\
      libjansson-dev libpcre2-8-0 libpcre2-dev libutf8proc2 libutf8proc-dev libhwloc15 \\
      libhwloc-dev libcmocka0 libcmocka-dev \\
      openmpi-bin openmpi-common libopenmpi3 libopenmpi-dev libpmix2 libevent-core-2.1-7 \\
      libevent-pthreads-2.1-7
  for f in *.deb; do dpkg -x "\$f" ../deps; done
  scripts/gpu_check.sh --deps deps --mpi deps/usr

cmake itself needs libarchive, libcurl, libexpat, libjsoncpp, librhash and libuv, unless it is there.
END
}

steps=(facts ptx mma_rows kernels machine_code memcheck racecheck models nccl ranks others decode
    prefill)
emulated=false
mpi_prefix=
deps=
build=
results=$PWD/gpu_check_results.md
only=
jobs=$(nproc)

need_value() { [ "$1" -gt 1 ] || die "$2 needs a value"; }
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --list) printf '%s\n' "${steps[@]}"; exit 0 ;;
        --emulated) emulated=true; shift; continue ;;
        --mpi | --deps | --build | --results | --steps | --jobs) need_value $# "$1" ;;
        *) usage >&2; die "unknown argument: $1" ;;
    esac
    case $1 in
        --mpi) mpi_prefix=$(realpath -e "$2") || die "no folder $2" ;;
        --deps) deps=$(realpath -e "$2") || die "no folder $2" ;;
        --build) build=$(realpath -m "$2") ;;
        --results) results=$(realpath -m "$2") ;;
        --steps) only=$(tr , ' ' <<< "$2") ;;
        --jobs) jobs=$2 ;;
    esac
    shift 2
done
[[ $jobs =~ ^[1-9][0-9]*$ ]] || die "--jobs $jobs: expected a number"
for step in $only; do
    [[ " ${steps[*]} " == *" $step "* ]] || die "no step $step; --list names them"
done
if $emulated; then suffix=-emulated; else suffix=; fi
build=${build:-$root/build/gpu-check$suffix}
logs=$build/gpu_check_logs

# ---- where things are ----

# Programs and libraries of --deps and --mpi, for the build and for what it makes.
use_prefixes() {
    local machine
    machine=$(uname -m)-linux-gnu
    PATH=$PATH:/usr/local/cuda/bin
    if [ -n "$deps" ]; then
        PATH=$deps/usr/bin:$PATH
        export LD_LIBRARY_PATH=$deps/usr/lib/$machine:$deps/usr/lib:$deps/lib/$machine${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
        # The .pc files say /usr: they are read as if the prefix were the root.
        export PKG_CONFIG_SYSROOT_DIR=$deps
        export PKG_CONFIG_LIBDIR=$deps/usr/lib/$machine/pkgconfig:$deps/usr/lib/pkgconfig:$deps/usr/share/pkgconfig
        command -v pkg-config > /dev/null || export PKG_CONFIG=pkgconf
    fi
    if [ -n "$mpi_prefix" ]; then use_mpi "$mpi_prefix" "$machine"; fi
    export PATH
    # What the tests set for themselves; the steps below start mpirun too.
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
    export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
    export CUDA_MODULE_LOADING=EAGER
}

# Open MPI wherever it lies; in Debian's packages its programs are named mpirun.openmpi and so on.
use_mpi() {
    local prefix=$1 lib=$1/lib/$2 program links=$build/gpu_check_bin
    mkdir -p "$links"
    for program in mpirun mpicc; do
        if [ -x "$prefix/bin/$program" ]; then
            ln -sfn "$prefix/bin/$program" "$links/$program"
        elif [ -x "$prefix/bin/$program.openmpi" ]; then
            ln -sfn "$prefix/bin/$program.openmpi" "$links/$program"
        else
            die "--mpi $prefix: no bin/$program"
        fi
    done
    PATH=$links:$PATH
    export OPAL_PREFIX=$prefix
    export LD_LIBRARY_PATH=$lib/openmpi/lib:$lib:$prefix/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    if [ -d "$lib/pmix2" ]; then export PMIX_INSTALL_PREFIX=$lib/pmix2; fi
}

# Several ranks on one device: NCCL takes them for hosts of their own if each has another
# NCCL_HOSTID, which Open MPI's fork agent gives them, and must then be kept to sockets and to a few
# multiprocessors, since its kernels wait for each other. Without MPS the ranks take turns, so this
# is slow.
share_one_gpu() {
    local agent=$build/gpu_check_bin/rank_alone
    mkdir -p "${agent%/*}"
    printf '#!/bin/sh\nNCCL_HOSTID=gpu-check-$OMPI_COMM_WORLD_RANK exec "$@"\n' > "$agent"
    chmod +x "$agent"
    export OMPI_MCA_orte_fork_agent=$agent PRTE_MCA_prte_fork_agent=$agent
    export NCCL_NET=Socket NCCL_SOCKET_IFNAME=lo NCCL_MNNVL_ENABLE=0 NCCL_RAS_ENABLE=0
    export NCCL_MAX_CTAS=2 NCCL_BUFFSIZE=1048576
}

# Name, compute capability and memory of the GPU that is used: "NVIDIA H100 ...", 9.0, MiB.
find_gpu() {
    local line=
    if $emulated; then
        gpu="emulated device" capability=0.0 memory_mib=0
        return
    fi
    if command -v nvidia-smi > /dev/null; then
        line=$(timeout 60 nvidia-smi --id="${CUDA_VISIBLE_DEVICES%%,*}" --format=csv,noheader,nounits \
            --query-gpu=name,compute_cap,memory.total 2> /dev/null | head -n 1) || true
    fi
    if ! [[ $line =~ ^(.+),\ ([0-9]+\.[0-9]+),\ (.+)$ ]]; then
        say "no GPU: nvidia-smi shows none; with --emulated the steps run without one"
        exit 77
    fi
    gpu=${BASH_REMATCH[1]} capability=${BASH_REMATCH[2]} memory_mib=${BASH_REMATCH[3]}
    # Where the GPU uses the machine's own memory, nvidia-smi does not say how much.
    [[ $memory_mib =~ ^[0-9]+$ ]] ||
        memory_mib=$(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
}

# The value of SY_CUDA_ARCHS for that capability: 120f serves 12.0 and 12.1.
architecture() {
    case $capability in
        12.*) echo 120f ;;
        *) tr -d . <<< "$capability" ;;
    esac
}

# nvcc's -gencode for it, as the build has it.
gencode() {
    case $capability in
        12.*) echo "arch=compute_120f,code=sm_${capability//./}" ;;
        *) echo "arch=compute_80,code=sm_${capability//./}" ;;
    esac
}

# ---- building ----

configure_and_build() {
    local options=(-DCMAKE_BUILD_TYPE=Release -DSY_TESTS=ON)
    if command -v ninja > /dev/null; then options+=(-G Ninja); fi
    if [ -n "$mpi_prefix" ]; then options+=("-DMPI_C_COMPILER=$build/gpu_check_bin/mpicc"); fi
    if $emulated; then
        options+=(-DSY_CUDA=EMULATED)
    else
        options+=(-DSY_CUDA=ON "-DSY_CUDA_ARCHS=$(architecture)")
    fi
    cmake -S "$root" -B "$build" "${options[@]}"
    cmake --build "$build" -j "$jobs"
}

# compile_cuda SOURCE PROGRAM: a program of one .cu file that links nothing of ours.
compile_cuda() {
    if $emulated; then
        g++ -std=c++17 -O2 -march=native -ffp-contract=off -DSY_CUDA_EMULATED=1 -x c++ \
            -I "$root/tests/emulation" -I "$root" "$1" -x none \
            "$(find "$build/tests/emulation" -name 'libsy_emulation.a')" -lpthread -lrt -o "$2"
    else
        compile_for_gpu "$1" -o "$2"
    fi
}

# nvcc with the build's own flags, for this GPU.
compile_for_gpu() {
    nvcc -std=c++17 -O3 -fmad=false -I "$root" -gencode "$(gencode)" "$@"
}

# ---- steps: exit code 0 passed, 77 skipped, else failed. figure: what the results file shows ----

figure() { printf '%s\n' "$*" | tee -a "$figures"; }
skip() { figure "$*"; exit 77; }

# ctest_named PATTERN [OPTIONS]: those tests of the build; how many there were and passed is a figure.
ctest_named() {
    local log code=0
    log=$(mktemp)
    (cd "$build" && ctest --output-on-failure -R "$@" 2>&1) | tee "$log" || code=$?
    if grep -q 'No tests were found' "$log"; then rm -f "$log"; skip "the build has no such test"; fi
    grep -E '^ *[0-9]+/[0-9]+ Test' "$log" | sed -E 's/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: //; s/ *\.\.+ */: /' |
        tee -a "$figures" > /dev/null
    if ! grep -Eq '^ *[0-9]+/[0-9]+ Test .*(Passed|Failed|Timeout|Not Run|Exception)' "$log"; then
        rm -f "$log"
        skip "all of them were skipped"
    fi
    rm -f "$log"
    return "$code"
}

step_facts() {
    $emulated || nvidia-smi
    compile_cuda "$root/tests/cuda/device_facts.cu" "$build/device_facts"
    "$build/device_facts" | tee -a "$figures" || die "the CUDA runtime cannot use this device"
    "$switchyard" --version | tee -a "$figures"
}

# The emulation's own test of its models, with the device in the emulation's place.
step_ptx() {
    local from=$root/tests/emulation cmocka
    if $emulated; then ctest_named '^test_emulated_ptx$'; return; fi
    cmocka=$("${PKG_CONFIG:-pkg-config}" --cflags --libs cmocka)
    compile_for_gpu -c "$from/ptx.cu" -o "$build/ptx.cu.o"
    # shellcheck disable=SC2086
    nvcc -I "$root" -c "$from/test_ptx.c" -o "$build/test_ptx.o" $cmocka
    # shellcheck disable=SC2086
    nvcc "$build/ptx.cu.o" "$build/test_ptx.o" -o "$build/test_ptx" $cmocka -lm
    "$build/test_ptx" 2>&1 | tee "$scratch/ptx.out"
    figure "$(grep -c '^\[       OK' "$scratch/ptx.out") tests passed"
}

step_mma_rows() {
    local tiles=100000
    $emulated && tiles=300
    compile_cuda "$root/tests/cuda/mma_rows.cu" "$build/mma_rows"
    "$build/mma_rows" "$tiles" | tee -a "$figures"
}

step_kernels() { ctest_named '^test_cuda_kernels'; }

step_machine_code() { ctest_named '^cli_machine_code$'; }

# sanitize TOOL: the kernel tests under compute-sanitizer, each program once.
sanitize() {
    local program output code=0 found=false
    $emulated && skip "no compute-sanitizer for an emulated device; see the preset emulated-check"
    command -v compute-sanitizer > /dev/null || skip "no compute-sanitizer in the PATH"
    output=$scratch/$1.out
    for program in "$build"/tests/test_cuda_kernels*; do
        if ! [ -f "$program" ]; then continue; fi
        found=true
        SY_TEST_DATA=$root/tests/data SY_SOURCE_DIR=$root SY_CUDA_TEST_AGAIN=1 \
            compute-sanitizer --tool "$1" --error-exitcode 99 "$program" > "$output" 2>&1 || code=$?
        cat "$output"
        figure "${program##*/}: $(grep -E 'SUMMARY' "$output" | tail -n 1)"
    done
    $found || skip "the build has no such programs"
    return "$code"
}
step_memcheck() { sanitize memcheck; }
step_racecheck() { sanitize racecheck; }

step_models() { ctest_named '^(test_cuda_model|cli_cuda_)'; }

step_nccl() { ctest_named 'nccl|device_wire'; }

step_others() {
    local ran='^test_emulated_ptx|^test_cuda_kernels|^cli_machine_code|^test_cuda_model|^cli_cuda_|nccl|device_wire'
    ctest_named . -L cuda -E "$ran"
}

# Logits of a small model on 1, 2 and 4 ranks that share the device: equal files.
step_ranks() {
    local ranks model=$root/tests/data/tiny/qwen3_moe
    for ranks in 1 2 4; do
        timeout 180 mpirun -n "$ranks" "$switchyard" logits "$model" -q --device cuda \
            --deadline 60 --ids 1,7,3,9,2,11,5,8,4,6,10,12,1,2,3 --out "$scratch/$ranks.npy"
        cmp "$scratch/1.npy" "$scratch/$ranks.npy"
        figure "ranks on one device: $ranks, checksum of the logits: $(cksum < "$scratch/$ranks.npy" | cut -d' ' -f1)"
    done
}

bench() {
    "$switchyard" bench "$root/tests/data/configs/qwen3-30b-a3b-v4.json" --dummy-weights \
        --device cuda "$@" | tee -a "$figures"
}

# Layers of Qwen3-30B-A3B that leave room for KV pages and scratch: 1.27 GB of weights each, 1.3 GB
# outside of them.
layers_that_fit() {
    local layers=$(((memory_mib - 8192) / 1220))
    echo $((layers < 1 ? 1 : layers > 48 ? 48 : layers))
}

step_decode() {
    if $emulated; then
        bench --layers 1 --vocab 500 --experts 8 -p 0 -g 2 -b 1,2 -r 1
    else
        bench --layers "$(layers_that_fit)" -p 0 -g 512 -b 1,32 -r 3
    fi
}

step_prefill() {
    if $emulated; then
        bench --layers 1 --vocab 500 --experts 8 -p 9 -g 0 -r 1
    else
        bench --layers "$(layers_that_fit)" -p 4096 -g 0 -b 1 -r 3
    fi
}

# Seconds that a step may take.
limit_of() {
    case $1 in
        build) echo 3600 ;;
        decode | prefill | memcheck | racecheck | models) echo 1800 ;;
        *) echo 600 ;;
    esac
}

# ---- running them ----

failed=0
n_steps=0

# run_step NAME COMMAND...: under its limit, in a shell of its own; a line of the table and, below,
# what it wants to show.
run_step() {
    local name=$1 code=0 begin verdict
    shift
    figures=$scratch/$name.figures
    export figures
    : > "$figures"
    begin=$(date +%s)
    timeout -k 10 "$(limit_of "$name")" bash -euo pipefail -c "$*" > "$logs/$name.log" 2>&1 < /dev/null ||
        code=$?
    case $code in
        0) verdict=PASS ;;
        77) verdict=SKIPPED ;;
        124 | 137) verdict="FAIL (time limit)" ;;
        *) verdict="FAIL (exit code $code)" ;;
    esac
    case $verdict in FAIL*) failed=1 ;; esac
    n_steps=$((n_steps + 1))
    printf '%-13s %s\n' "$name" "$verdict" >&2
    printf '| %s | %s | %d s |\n' "$name" "$verdict" $(($(date +%s) - begin)) >> "$scratch/table"
    {
        printf '\n## %s: %s\n\n' "$name" "$verdict"
        sed 's/^/    /' "$figures"
        if [[ $verdict == FAIL* ]]; then
            printf '\nThe end of its log:\n\n'
            tail -n 25 "$logs/$name.log" | sed 's/^/    /'
        fi
    } >> "$scratch/details"
}

write_results() {
    {
        printf '# Switchyard on %s\n\n' "$gpu"
        printf '%s, commit %s, %s, CUDA compiler %s.\n' "$(date -u '+%Y-%m-%d %H:%M UTC')" \
            "$(git -C "$root" describe --always --dirty 2> /dev/null || echo unknown)" \
            "$(if $emulated; then echo 'emulated: no figure says anything about a GPU'; else
                echo "compute capability $capability, $memory_mib MiB"; fi)" \
            "$(nvcc --version 2> /dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p' | grep . || echo none)"
        printf '\n| step | result | time |\n|---|---|---:|\n'
        cat "$scratch/table" "$scratch/details"
    } > "$results"
}

use_prefixes
find_gpu
mkdir -p "$logs"
share_one_gpu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
: > "$scratch/table"
: > "$scratch/details"
switchyard=$build/launcher/switchyard
export root build deps mpi_prefix emulated gpu capability memory_mib jobs switchyard scratch
# shellcheck disable=SC2046
export -f $(compgen -A function)

say "on $gpu; logs in $logs"
run_step build configure_and_build
if [ $failed = 0 ]; then
    for step in "${steps[@]}"; do
        [ -z "$only" ] || [[ " $only " == *" $step "* ]] || continue
        run_step "$step" "step_$step"
    done
fi
write_results
say "wrote $results"
exit $failed
