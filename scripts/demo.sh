#!/usr/bin/env bash
# From a fresh clone to text: installs what is missing, builds, and runs the demo model.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

ranks=4
usage() {
    cat << END
usage: scripts/demo.sh [-n RANKS] [--help] [-- OPTIONS OF switchyard run]

Installs the packages that are missing (with sudo, unless run as root), builds Switchyard and lets
the demo model continue a few prompts on $ranks ranks: an English one, a C one and a Hindi one.
Anything after -- is passed to \`switchyard run\` in place of these prompts, for example
    scripts/demo.sh -n 2 -- -p "The file" --max-tokens 50 --temperature 0.7
END
}

while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        -n) [ $# -gt 1 ] || die "-n needs a number"; ranks=$2; shift 2 ;;
        --) shift; break ;;
        *) usage >&2; die "unknown argument: $1" ;;
    esac
done

# shellcheck disable=SC2086
need_packages $build_packages
build release -DSY_TESTS=OFF | tail -n 1 >&2
switchyard=$root/build/release/launcher/switchyard
model=$root/tests/data/demo

if [ $# -gt 0 ]; then
    exec "$switchyard" run "$model" -n "$ranks" "$@"
fi
for prompt in \
    "The following options are" \
    $'static int read_block(struct buffer *b, size_t n)\n{\n' \
    "इस फ़ाइल को"; do
    printf '\n=== %s\n' "$prompt"
    "$switchyard" run "$model" -n "$ranks" -p "$prompt" --max-tokens 96 --temperature 0.7 --top-p 0.9 --seed 1
done
