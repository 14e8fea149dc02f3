#!/usr/bin/env bash
# Installs what is missing, builds, and runs all tests.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

preset=release
cmake_options=()
usage() {
    cat << END
usage: scripts/test.sh [--preset NAME] [--werror] [--help] [-- CTEST OPTIONS]

Installs the packages that are missing (with sudo, unless run as root), builds and runs all tests
through ctest. For example: scripts/test.sh -- -R tokenizer
Presets: release (default), debug, asan, tsan; emulated, emulated-asan and emulated-check run the
CUDA backend on an emulated device.
END
}

while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --preset) [ $# -gt 1 ] || die "--preset needs a name"; preset=$2; shift 2 ;;
        --werror) cmake_options+=(-DSY_WERROR=ON); shift ;;
        --) shift; break ;;
        *) usage >&2; die "unknown argument: $1" ;;
    esac
done

# shellcheck disable=SC2086
need_packages $build_packages $test_packages
build "$preset" -DSY_TESTS=ON "${cmake_options[@]}"
cd "$root/build/$preset"
exec ctest --output-on-failure -j 2 "$@"
