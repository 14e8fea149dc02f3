#!/usr/bin/env bash
# Fails if an inner loop of a matrix tile stores a vector register to memory: gcc 12 does so for
# accumulators it cannot keep in registers, which costs up to half the speed.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
    '') die "usage: scripts/check_spills.sh BUILD_DIR" ;;
    -h | --help) echo "usage: scripts/check_spills.sh BUILD_DIR"; exit 0 ;;
esac
build=$1
[ -d "$build" ] || die "$build is not a folder"
found=0
for table in avx2 avx512 avx512bf16; do
    object=$(find "$build" -name "isa_$table.c.o" -o -name "isa_$table.o" | head -n 1)
    [ -n "$object" ] || continue
    # A loop body is what lies between the target of a backward jump and the jump; the innermost
    # one that multiplies is the loop over K.
    report=$(objdump -d --no-show-raw-insn "$object" | awk -v table="$table" '
        function report_loops(   i, j, from, multiplies, stores, inner) {
            for (i = 1; i <= n; i++) {
                if (text[i] !~ /^j/ || !match(text[i], /[0-9a-f]+ </)) continue
                from = line_of[substr(text[i], RSTART, RLENGTH - 2)]
                if (!from || from > i) continue
                multiplies = stores = 0; inner = 1
                for (j = from; j <= i; j++) {
                    if (text[j] ~ /^v(fmadd|dpbf16)/) multiplies++
                    if (text[j] ~ /^vmov[a-z0-9]* +%[yz]mm[0-9]+,.*\(/) stores++
                    if (j < i && text[j] ~ /^j/ && match(text[j], /[0-9a-f]+ </) &&
                        line_of[substr(text[j], RSTART, RLENGTH - 2)] >= from &&
                        line_of[substr(text[j], RSTART, RLENGTH - 2)] <= j) inner = 0
                }
                if (inner && multiplies) { loops++; if (stores) print table ": " name " stores " stores " vectors in its loop" }
            }
        }
        /^[0-9a-f]+ <.*>:/ { if (name ~ /tile/) report_loops(); name = $2; n = 0; delete line_of; next }
        /^ +[0-9a-f]+:/ { n++; a = $1; sub(":", "", a); line_of[a] = n; $1 = ""; sub(/^ +/, ""); text[n] = $0 }
        END { if (name ~ /tile/) report_loops(); print table ": " loops + 0 " loops looked at" }')
    echo "$report"
    if grep -q "stores" <<<"$report"; then found=1; fi
    if ! grep -q " [1-9][0-9]* loops" <<<"$report"; then echo "$table: no loop found"; found=1; fi
done
exit "$found"
