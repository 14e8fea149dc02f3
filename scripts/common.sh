# Shared by the scripts of this folder; sourced, not run. Sets `root`, the project's folder.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

build_packages="build-essential cmake ninja-build pkg-config openmpi-bin libopenmpi-dev
libhwloc-dev libjansson-dev libpcre2-dev libutf8proc-dev"
test_packages="iproute2 libcmocka-dev procps xz-utils"

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# Prints the packages of the list that are not installed.
missing_packages() {
    local p
    for p in "$@"; do
        dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || printf '%s ' "$p"
    done
}

# Installs what is missing of the list, saying what; touches nothing when all is there.
need_packages() {
    local missing as_root=()
    command -v dpkg-query > /dev/null ||
        { say "not a Debian or Ubuntu system: please install the counterparts of: $*"; return; }
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    say "installing: $missing"
    "${as_root[@]}" apt-get update -qq || say "apt-get update failed; trying with the old lists"
    # shellcheck disable=SC2086
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends $missing > /dev/null || die "could not install: $missing"
}

# build PRESET [cmake options]: configures and builds into build/PRESET.
build() {
    local preset=$1
    shift
    say "building ($preset)"
    (cd "$root" && cmake --preset "$preset" "$@" > /dev/null && cmake --build "build/$preset")
}
