#!/usr/bin/env bash
# Sweeps the exchange benchmark over ranks: one table of all runs.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

ranks="2 3 4 8"
usage() {
    cat << END
usage: scripts/bench_exchange.sh [--ranks "2 4 8"] [--help] [-- OPTIONS OF switchyard bench]

Runs \`switchyard bench --exchange\` once per number of ranks ($ranks) and prints one CSV table:
latency and GB/s of dispatch + combine from 1 token per rank up, beside MPI_Alltoallv with the same
bytes. For example: scripts/bench_exchange.sh --ranks "2 4" -- --tokens 64 --virtual-hosts 2
END
}

while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --ranks) [ $# -gt 1 ] || die "--ranks needs a list"; ranks=$2; shift 2 ;;
        --) shift; break ;;
        *) usage >&2; die "unknown argument: $1" ;;
    esac
done

switchyard=$root/build/release/launcher/switchyard
[ -x "$switchyard" ] || die "not built: run scripts/demo.sh or scripts/test.sh first"
head=1
for n in $ranks; do
    "$switchyard" bench --exchange -n "$n" --format csv "$@" | tail -n +"$head"
    head=2
done
