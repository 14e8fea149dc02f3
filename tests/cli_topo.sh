#!/usr/bin/env bash
# switchyard topo: this machine, alone and on ranks; saved machines as tree, JSON and picture; what
# it refuses.
set -u
failed=0
scratch=$(mktemp -d) || exit 1
trap 'rm -r "$scratch"' EXIT
saved=$SY_TEST_DATA/topologies
check() { # check TITLE EXPECTED FOUND
    if [ "$2" != "$3" ]; then
        echo "$1: expected \"$2\", found \"$3\"" >&2
        failed=1
    fi
}
holds() { # holds TITLE PATTERN TEXT
    if ! grep -qE -- "$2" <<<"$3"; then
        printf '%s: expected a line like "%s", found:\n%s\n' "$1" "$2" "$3" >&2
        failed=1
    fi
}
well_formed() { # well_formed FILE: XML, if anything here can tell
    if command -v xmllint >/dev/null; then
        xmllint --noout "$1"
    elif command -v python3 >/dev/null; then
        python3 -c 'import sys, xml.dom.minidom as d; d.parse(sys.argv[1])' "$1"
    fi
    check "$1 is well-formed" 0 $?
}
count() { grep -cE -- "$1" <<<"$2"; }

# ---- this machine ----

text=$("$SWITCHYARD" topo --svg "$scratch/here.svg" --save "$scratch/here.json")
check "exit code" 0 $?
holds "processor" '^\|-- processor  .*[0-9]+ cores?' "$text"
holds "memory" '^\|-- memory  .* available' "$text"
holds "a rank at least" '^ +0  ' "$text"
well_formed "$scratch/here.svg"
again=$("$SWITCHYARD" topo --load "$scratch/here.json")
# Whether a launcher or taskset has bound this process is not saved.
plain() { sed '/^  runs do not bind /d; /^      "bound": /d; /^      "obstacle": /d' <<<"$1"; }
check "what was saved shows the same" "$(plain "$text")" "$(plain "$again")"

text=$("$SWITCHYARD" topo -n 2 --json)
check "exit code on 2 ranks" 0 $?
check "two ranks" 2 "$(count '^      "rank": [01],$' "$text")"
check "of one machine" 2 "$(count '^      "machine": 0,$' "$text")"
check "described once" 1 "$(count '^      "cores": \[$' "$text")"
echo "$text" >"$scratch/report.json"
again=$("$SWITCHYARD" topo --load "$scratch/report.json" -n 2 --json)
check "the report can be loaded" "$(plain "$text")" "$(plain "$again")"
text=$("$SWITCHYARD" topo -n 4 --virtual-hosts 2 --json)
check "virtual hosts are one machine" 1 "$(count '^      "cores": \[$' "$text")"
text=$(mpirun -n 3 "$SWITCHYARD" topo)
check "exit code under mpirun" 0 $?
check "one report" 1 "$(count '^ranks, and where --bind cores puts each$' "$text")"
check "three ranks" 3 "$(count '^ +[012]  ' "$text")"

# ---- saved machines ----

for file in "$saved"/*.json; do
    name=$(basename "$file" .json)
    for n in 1 3 8; do
        text=$("$SWITCHYARD" topo --load "$file" -n $n)
        check "$name on $n ranks" 0 $?
        check "$name: rows of $n ranks" $n "$(count '^ +[0-9]+  [a-z]' "$text")"
    done
    "$SWITCHYARD" topo --load "$file" --json --svg "$scratch/$name.svg" >"$scratch/$name.json"
    check "$name as JSON" 0 $?
    well_formed "$scratch/$name.svg"
    if command -v python3 >/dev/null; then
        python3 -c 'import json, sys; d = json.load(open(sys.argv[1]))
assert d["version"] == 1 and d["ranks"] and all(r["reason"] for r in d["ranks"])' \
            "$scratch/$name.json"
        check "$name: the JSON is sound" 0 $?
    fi
done
text=$("$SWITCHYARD" topo --load "$saved/spark8.json")
check "alike machines are shown once" 1 "$(count 'NVIDIA GB10, the machine' "$text")"
holds "both twins" '^ +7  spark8 +0 +10  5-9,15-19 +enp1s0f0np0 \+ enP2p1s0f0np0$' "$text"
check "no warning" 0 "$(count 'warning' "$text")"
sed -i 's/"mtu": 9000/"mtu": 1500/' "$scratch/spark2.json"
text=$("$SWITCHYARD" topo --load "$scratch/spark2.json")
holds "MTU" '^  warning \(mtu\) on all 2 hosts: MTU 1500 on enp1s0f0np0, enP2p1s0f0np0' "$text"
holds "its cure" '^    cure: MTU 9000 ' "$text"
text=$("$SWITCHYARD" topo --load "$saved/h100x8.json" --device cpu -n 2)
holds "without devices" '^ +1  h100 +CPU +56  56-111,168-223$' "$text"

sed 's/"h100"/"a<b>\&\\"c"/' "$saved/h100x8.json" >"$scratch/odd.json"
"$SWITCHYARD" topo -q --load "$scratch/odd.json" --svg "$scratch/odd.svg" >/dev/null
check "a machine with an odd name" 0 $?
well_formed "$scratch/odd.svg"
check "its name is escaped" 1 "$(grep -c 'a&lt;b&gt;&amp;&quot;c<' "$scratch/odd.svg")"

# ---- whether runs bind ----

text=$("$SWITCHYARD" topo --load "$saved/h100x8.json")
check "several NUMA nodes are bound" 0 "$(count '^  runs do not bind' "$text")"
sed 's/"performance"/null/; s/"efficiency"/null/' "$saved/spark2.json" >"$scratch/uniform.json"
text=$("$SWITCHYARD" topo --load "$scratch/uniform.json")
holds "alike cores are not" \
    '^  runs do not bind here: one NUMA node and one kind of cores$' "$text"
text=$("$SWITCHYARD" topo --load "$scratch/uniform.json" --json)
check "nor in JSON" 0 "$(count '"bound": true' "$text")"
check "with the reason" 2 "$(count '"obstacle": "one NUMA node and one kind' "$text")"

# ---- ranks that are bound ----

said() { # said OPTIONS COMMAND...: what each rank says of its binding and threads
    local options=$1
    shift
    # shellcheck disable=SC2086
    "$@" run "$SY_TEST_DATA/demo" -p The --max-tokens 2 -v $options 2>&1 >/dev/null |
        grep -E 'bound to|ranks on|is undone'
}
cpus=$(nproc)
allowed=$(taskset -cp $$ | sed 's/.*: *//')
if [ "$cpus" -ge 2 ] && [ "$allowed" = "$(cat /sys/devices/system/cpu/online)" ] &&
    ! grep -q '^[0-9]' /sys/fs/cgroup/cpu.max 2>/dev/null; then
    text=$(said '-n 2 --bind cores' "$SWITCHYARD")
    check "both ranks are bound" 2 "$(count 'bound to CPUs' "$text")"
    check "to different cores" 2 "$(grep -o 'bound to CPUs [0-9,-]*' <<<"$text" | sort -u | wc -l)"
    text=$(said '--bind cores' taskset -c "${allowed%%[-,]*}" "$SWITCHYARD")
    holds "taskset is respected" 'not bound to cores: the launcher has bound them' "$text"
    holds "and its one CPU counted" ' 1 threads each' "$text"
    text=$(taskset -c "${allowed%%[-,]*}" "$SWITCHYARD" topo)
    holds "which topo says" '^  runs do not bind here: the launcher has bound them' "$text"
    text=$(said "-n 2 --bind cores -t $cpus" "$SWITCHYARD")
    check "more threads than cores" 2 "$(count 'not bound to cores: more threads' "$text")"
    # Open MPI 4 binds a single rank to one core, unasked.
    unasked=(env -u OMPI_MCA_hwloc_base_binding_policy -u OMPI_MCA_rmaps_base_oversubscribe
        mpirun -n 1)
    if mpirun --version | grep -q ' 4\.'; then
        text=$(said '' "${unasked[@]}" "$SWITCHYARD")
        holds "mpirun's own binding is undone" " $cpus threads each" "$text"
        check "and that is said" 1 "$(count "mpirun's own binding is undone" "$text")"
    fi
    text=$(said '' "${unasked[@]}" --bind-to core "$SWITCHYARD")
    holds "what it is asked for is kept" 'not bound to cores: the launcher has bound' "$text"
fi
text=$("$SWITCHYARD" run "$SY_TEST_DATA/demo" -n 2 --bind none -p The --max-tokens 2 -v 2>&1 \
    >/dev/null)
check "exit code with --bind none" 0 $?
holds "what each run says with -v" 'ranks on' "$text"
check "no rank is bound" 0 "$(count 'bound to' "$text")"

# ---- what is refused ----

refused() { # refused CODE PATTERN ARGUMENTS...
    local code=$1 pattern=$2 message
    shift 2
    message=$(timeout 20 "$SWITCHYARD" topo "$@" 2>&1 >/dev/null)
    check "exit code of topo $*" "$code" $?
    holds "topo $*" "^switchyard: error: .*$pattern" "$message"
    check "lines of topo $*" 1 "$(count '' "$message")"
}
refused 3 'No such file' --load "$scratch/none.json"
refused 3 '' --load "$scratch"
refused 3 '' --load /dev/zero
mkfifo "$scratch/fifo"
refused 3 '' --load "$scratch/fifo"
: >"$scratch/empty.json"
refused 4 '' --load "$scratch/empty.json"
printf '{"version": 1, "machines": [{"name": "a\x01"}]}' >"$scratch/raw.json"
refused 4 '' --load "$scratch/raw.json"
printf '{"version": 9, "machines": []}' >"$scratch/version.json"
refused 5 'version 1, found version 9' --load "$scratch/version.json"
printf '{"version": 1, "machines": [{"name": "a", "cores": [{"threads": ["0-4095"]}]}]}' \
    >"$scratch/cores.json"
refused 4 'at most 1024 CPUs' --load "$scratch/cores.json"
printf '%.0s[' $(seq 100000) >"$scratch/deep.json"
refused 4 '' --load "$scratch/deep.json"
head -c 5000000 /dev/zero | tr '\0' ' ' >"$scratch/large.json"
refused 4 '' --load "$scratch/large.json"
for at in 100 300 1000 3000; do
    head -c $at "$saved/spark2.json" >"$scratch/cut.json"
    refused 4 '' --load "$scratch/cut.json"
done
refused 3 'none/x.svg' --load "$saved/spark2.json" --svg "$scratch/none/x.svg"
refused 3 'none/x.json' --load "$saved/spark2.json" --save "$scratch/none/x.json"
[ -e /dev/full ] && refused 3 '' --load "$saved/spark2.json" --svg /dev/full
refused 2 'takes no argument, found "x.json"; --load FILE' x.json
refused 2 '--hosts and --hostfile have no effect' --load "$saved/spark2.json" --hosts a:2
mkdir "$scratch/kept" && cp "$saved/spark2.json" "$scratch/kept/s.json"
"$SWITCHYARD" topo -q --load "$scratch/kept/s.json" --save "$scratch/kept/s.json" >/dev/null
check "a file can be saved over itself" 0 $?
check "and nothing is left beside it" s.json "$(ls -A "$scratch/kept")"
refused 2 '0 is outside 1 to 4096' --load "$saved/spark2.json" -n 0
exit $failed
