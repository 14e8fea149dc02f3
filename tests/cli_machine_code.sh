# The machine code of the CUDA kernels is as tests/machine_code.rules asks; and a made-up listing
# with every fault is judged by scripts/machine_code.py as it should be, with or without CUDA.
# timeout: 600
set -u
check=$SY_SOURCE_DIR/scripts/machine_code.py
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failures=0
fail() {
    echo "FAILED: $*" >&2
    sed 's/^/  /' "$scratch/out" >&2
    failures=$((failures + 1))
}
command -v python3 >/dev/null || { echo "skipped: no python3"; exit 77; }

# A stand-in for cuobjdump: two kernels for one target. `good` has two weight loads of 16 bytes
# under way; `bad<3,true>` has one at a time, one of 8 bytes, a spill, a double, float atomics.
mkdir "$scratch/bin"
cat >"$scratch/bin/cuobjdump" <<'END'
#!/bin/sh
head_of() { printf 'member lib.a:%s.cu.o:\n\nFatbin elf code:\n================\narch = sm_90\n' "$1"; }
head_of part
case $1 in
-sass)
    cat <<'CODE'
		Function : _Z4goodPK5uint4
        /*0000*/                   LDG.E.NA.128.CONSTANT R4, desc[UR6][R2.64] ;   /* 0x00 */
                                                                                  /* 0x00 */
        /*0010*/              @!P0 LDG.E.NA.128.CONSTANT R8, desc[UR6][R2.64+0x200] ; /* 0x00 */
        /*0020*/                   IADD3 R12, R7, R3, RZ ;                        /* 0x00 */
        /*0030*/                   HMMA.16816.F32.BF16 R16, R8, R20, R16 ;        /* 0x00 */
		Function : _Z3badILi3ELb1EEvPKf
        /*0000*/                   LDG.E.NA.128.CONSTANT R4, desc[UR6][R2.64] ;   /* 0x00 */
        /*0010*/                   FADD R12, R7, R3 ;                             /* 0x00 */
        /*0018*/                   LDG.E.128 R20, desc[UR6][R2.64] ;             /* 0x00 */
        /*0020*/                   LDG.E.NA.64.CONSTANT R4, desc[UR6][R2.64] ;    /* 0x00 */
        /*0030*/                   STL [R1], R4 ;                                 /* 0x00 */
        /*0040*/                   LDL R4, [R1] ;                                 /* 0x00 */
        /*0050*/                   F2F.F64.F32 R6, R4 ;                           /* 0x00 */
        /*0060*/                   REDG.E.ADD.F32.FTZ.RN.STRONG.GPU desc[UR4][R2.64], R3 ; /* 0x */
        /*0070*/                   ATOMS.CAST.SPIN P0, [R2], R4, R5 ;             /* 0x00 */
        /*0080*/                   REDG.E.ADD.STRONG.GPU desc[UR4][R2.64], R3 ;   /* 0x00 */
CODE
    ;;
-res-usage)
    printf ' Function _Z4goodPK5uint4:\n  REG:64 STACK:0 SHARED:0 LOCAL:0\n'
    printf ' Function _Z3badILi3ELb1EEvPKf:\n  REG:255 STACK:16 SHARED:0 LOCAL:0\n'
    ;;
-elf)
    for name in _Z4goodPK5uint4 _Z3badILi3ELb1EEvPKf; do
        printf '.nv.info.%s\n\t<0x9>\n\tAttribute:\tEIATTR_MAX_THREADS\n' "$name"
        printf '\tFormat:\tEIFMT_SVAL\n\tValue:\t0x30 0x4 0x1 \n'
    done
    ;;
esac
END
chmod +x "$scratch/bin/cuobjdump"

# judge CODE 'PATTERN' RULES...: what the stand-in's kernels come to under these rules.
judge() {
    local want=$1 pattern=$2
    shift 2
    printf '%s\n' "$@" >"$scratch/rules"
    PATH=$scratch/bin:$PATH python3 "$check" lib.a --quiet --rules "$scratch/rules" \
        >"$scratch/out" 2>&1
    code=$?
    [ $code = "$want" ] || fail "exit code $code, expected $want, under: $*"
    grep -Eq -- "$pattern" "$scratch/out" || fail "no \"$pattern\" under: $*"
}
judge 0 '^2 kernels for sm_90: 9 rules, 0 broken$' 'part/good * LDW == 2' \
    'part/good sm_9* LDW128 == LDW' 'part/good * LDW_IN_FLIGHT == 2' 'part/good * HMMA == 1' \
    'part/good * WARPS == 30 # of 64 registers: room for 32, in blocks of 6' 'part/good * STACK == 0' \
    'part/bad* * IN_FLIGHT == 1' 'part/bad* * THREADS == 192' '* sm_80 REG < 1'
judge 1 'bad<3,true> on sm_90: LDL is 1; .*rules:1 asks for LDL == 0' '* * LDL == 0'
for metric in STL STACK F64 FATOM CAS; do
    judge 1 "1 rules, 1 broken$" "* * $metric == 0"
done
judge 1 'LDW is 2, LDW128 is 1' '* * LDW == LDW128'
judge 1 'WARPS is 6;' '* * WARPS >= 16'
judge 1 'no kernel is named part/gone' 'part/gone * REG > 0'
judge 2 'rules:1: expected' '* * LDL = 0'
judge 2 'rules:1: expected' '* * SPILLS == 0'
judge 2 'no rule' '# nothing'
[ $failures = 0 ] || exit 1

# The kernels of this build.
library=$(dirname "$SWITCHYARD")/../kernels/libsy_kernels.a
[ -f "$library" ] || { echo "FAILED: no $library" >&2; exit 1; }
grep -q 'SY_CUDA:[A-Z]*=EMULATED' "$(dirname "$SWITCHYARD")/../CMakeCache.txt" &&
    { echo "skipped: the kernels of this build are for the emulation"; exit 77; }
ar t "$library" | grep -q '\.cu\.o$' || { echo "skipped: this build has no CUDA kernels"; exit 77; }
PATH=$PATH:/usr/local/cuda/bin
for tool in cuobjdump nvdisasm; do
    command -v $tool >/dev/null || { echo "skipped: no $tool in the PATH or CUDA toolkit"; exit 77; }
done
python3 "$check" "$library" --rules "$SY_SOURCE_DIR/tests/machine_code.rules" >"$scratch/out" 2>&1
code=$?
if [ $code = 2 ] && grep -q 'Cannot decode architecture\|is not defined for option' "$scratch/out"; then
    echo "skipped: this cuobjdump is older than a target of the build"
    exit 77
fi
cat "$scratch/out"
exit $code
