#!/usr/bin/env bash
# Formats all C sources in place, or with --check only reports which are not formatted.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options=(-i)
case ${1:-} in
    '') ;;
    --check) options=(--dry-run -Werror) ;;
    -h | --help) echo "usage: scripts/format.sh [--check]"; exit 0 ;;
    *) die "unknown argument: $1" ;;
esac
command -v clang-format > /dev/null || die "clang-format is not installed"
cd "$root"
git ls-files '*.c' '*.h' | xargs clang-format "${options[@]}"
