#!/usr/bin/env bash
# Builds the fuzz targets with clang and runs each for a while over its seeds.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

seconds=20
usage() {
    cat << END
usage: scripts/fuzz.sh [--seconds N] [--help] [TARGET ...]

Runs the libFuzzer targets (all, or those named) for N seconds each, 20 by default, starting from
tests/fuzz/seeds/TARGET. What a target finds is left in build/fuzz/findings.
END
}

while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --seconds) [ $# -gt 1 ] || die "--seconds needs a number"; seconds=$2; shift 2 ;;
        -*) usage >&2; die "unknown argument: $1" ;;
        *) break ;;
    esac
done

# shellcheck disable=SC2086
need_packages $build_packages clang
version=$(clang -dumpversion | cut -d. -f1)
need_packages "libclang-rt-$version-dev"
build fuzz | tail -n 1 >&2
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for source in "$root"/tests/fuzz/fuzz_*.c; do
        name=${source##*/}
        targets+=("${name%.c}")
    done
fi
for target in "${targets[@]}"; do
    work=$root/build/fuzz/corpus/$target
    mkdir -p "$work" "$root/build/fuzz/findings"
    say "fuzzing $target for $seconds s"
    dictionary=()
    if [ -f "$root/tests/fuzz/$target.dict" ]; then
        dictionary=("-dict=$root/tests/fuzz/$target.dict")
    fi
    "$root/build/fuzz/tests/$target" "${dictionary[@]}" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="$root/build/fuzz/findings/$target-" "$work" \
        "$root/tests/fuzz/seeds/$target" 2> "$work.log" ||
        { tail -n 40 "$work.log" >&2; die "$target failed"; }
    grep -E 'stat::number_of_executed_units' "$work.log" >&2
done
say "${#targets[@]} fuzz targets passed"
