#!/usr/bin/env python3
"""What the compiler made of each CUDA kernel: registers, memory and instructions, per target, and
whether that is as tests/machine_code.rules asks. Needs cuobjdump and nvdisasm, which come with the
CUDA toolkit (or as the PyPI packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm), and no GPU.

Metrics, each a number per kernel and target:
  REG STACK SHARED  registers per thread, bytes of stack, bytes of static shared memory (of which
                    1 KiB is the system's own from sm_90 on)
  THREADS           threads of a block at most, the first argument of __launch_bounds__
  WARPS             warps that the registers let a multiprocessor hold, in whole blocks of THREADS
  INSTR             instructions
  LDG LDG128 LDG256 loads from global memory; those of 16 bytes a lane; of 32 bytes
  LDW LDW128        those of weights (they pass by L1: .NA); of them, those of 16 bytes or more
  IN_FLIGHT         loads of 16 bytes a lane that are issued before the first instruction which
                    reads what one of them brings, in the order of the code; a .256 counts as two
  LDW_IN_FLIGHT     the same of weights alone
  STG LDS STS LDGSTS LDSM HMMA IMMA FFMA SHFL BAR     instructions of these kinds
  LDL STL           loads and stores of local memory: spills, arrays that are no registers
  F64               arithmetic or conversions in double
  FATOM CAS         atomic additions of floating point; compare-and-swaps
"""
import argparse
import collections
import fnmatch
import operator
import re
import subprocess
import sys
import tempfile

KINDS = [(name, re.compile(pattern)) for name, pattern in [
    ("LDG", r"LDG\b"), ("LDG128", r"LDG\b.*\.128\b"), ("LDG256", r"LDG\b.*\.256\b"),
    ("LDW", r"LDG\b.*\.NA\b"), ("LDW128", r"LDG\b(?=.*\.NA\b).*\.(128|256)\b"),
    ("STG", r"STG\b"), ("LDS", r"LDS\b"), ("STS", r"STS\b"), ("LDGSTS", r"LDGSTS\b"),
    ("LDSM", r"LDSM\b"), ("HMMA", r"HMMA\b"), ("IMMA", r"IMMA\b"), ("FFMA", r"FFMA2?\b"),
    ("SHFL", r"SHFL\b"), ("BAR", r"BAR\b"), ("LDL", r"LDL\b"), ("STL", r"STL\b"),
    ("F64", r"D(ADD|MUL|FMA|SETP|MNMX|MMA)\b|(F2F|I2F|F2I|FRND|MUFU)\b.*(F64|64H)"),
    ("FATOM", r"(ATOM|RED)[GS]?\..*\.B?F(16|32|64)"), ("CAS", r"ATOM[GS]?\b.*\.CAS"),
]]
METRICS = ["REG", "STACK", "SHARED", "THREADS", "WARPS", "INSTR", "IN_FLIGHT", "LDW_IN_FLIGHT"] + \
    [name for name, _ in KINDS]
COLUMNS = ["REG", "SHARED", "WARPS", "INSTR", "LDG", "LDG128", "LDW", "LDW128", "IN_FLIGHT",
           "LDGSTS", "LDSM", "HMMA", "FFMA", "SHFL", "BAR"]
OPERATORS = {"==": operator.eq, "<=": operator.le, ">=": operator.ge, "<": operator.lt,
             ">": operator.gt}

# "        /*01e0*/              @!P0 LDG.E.128 R4, desc[UR6][R2.64] ;      /* 0x... */"
INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;&?]*)")
REGISTER = re.compile(r"\bR(\d+)\b")
MAX_THREADS = re.compile(r"\s+Value:\s+(0x[0-9a-f]+) (0x[0-9a-f]+) (0x[0-9a-f]+)")


class Failure(Exception):
    """What ends the program with exit code 2."""


def plain_name(mangled):
    """`gemm<2,true>` of _Z4gemmILi2ELb1EEvPKf; a name that is not of that form as it is."""
    head = re.match(r"_ZL?(\d+)", mangled)
    if not head:
        return mangled
    end = head.end() + int(head[1])
    name, rest = mangled[head.end():end], mangled[end:]
    if not rest.startswith("I"):
        return name
    values, rest = [], rest[1:]
    literal = re.compile(r"L(?:[a-z]|\d+[A-Za-z_]\w*?)(n?\d+)E")
    while (m := literal.match(rest)) is not None:
        boolean = rest.startswith("Lb")
        values.append(["false", "true"][int(m[1])] if boolean else m[1].replace("n", "-"))
        rest = rest[m.end():]
    return f"{name}<{','.join(values)}>" if rest.startswith("E") else mangled


class Flight:
    """Counts 16-byte loads under way while a kernel's code is read from top to bottom."""

    def __init__(self):
        self.first_registers, self.most = [], 0

    def step(self, opcode, operands, wanted):
        registers = [int(r) for r in REGISTER.findall(operands)]
        writes_first = re.match(r"R\d", operands) is not None
        reads = registers[1:] if writes_first else registers
        if any(f <= r < f + w for f, w in self.first_registers for r in reads):
            self.first_registers = []
        if wanted and writes_first:
            wide = 8 if ".256" in opcode else 4
            self.first_registers.append((registers[0], wide))
            self.most = max(self.most, sum(w // 4 for _, w in self.first_registers))


def cuobjdump(arguments, path):
    """The lines of its output, each with the member of the archive and the target it belongs to."""
    member, target = path, None
    with tempfile.TemporaryFile("w+") as errors:
        try:
            child = subprocess.Popen(["cuobjdump", *arguments, path], stdout=subprocess.PIPE,
                                     stderr=errors, text=True)
        except OSError as error:
            raise Failure(f"cuobjdump: {error.strerror}") from error
        with child:
            for line in child.stdout:
                if line.startswith("member "):
                    member = line.rstrip().rstrip(":").rpartition(":")[2]
                elif line.startswith("arch = "):
                    target = line.split()[2]
                else:
                    yield re.sub(r"(\.cu)?\.o$", "", member.rpartition("/")[2]), target, line
        errors.seek(0)
        error = errors.read().strip()
    # A file without device code is no failure of cuobjdump's that it would tell by its exit code.
    if child.returncode != 0 and "does not contain device code" not in error:
        raise Failure(f"cuobjdump {' '.join(arguments)} {path}: {error}")


def read_code(path, kernels):
    kernel = None
    for member, target, line in cuobjdump(["-sass"], path):
        if (m := re.search(r"Function : (\S+)", line)) is not None:
            kernel = kernels[member, m[1], target]
            every, weights = Flight(), Flight()
        elif kernel is not None and (m := INSTRUCTION.match(line)) is not None:
            opcode, operands = m[1], m[2]
            kernel["INSTR"] += 1
            for name, pattern in KINDS:
                kernel[name] += pattern.match(opcode) is not None
            wide = re.match(r"LDG\b.*\.(128|256)\b", opcode) is not None
            every.step(opcode, operands, wide)
            weights.step(opcode, operands, wide and ".NA" in opcode)
            kernel["IN_FLIGHT"], kernel["LDW_IN_FLIGHT"] = every.most, weights.most


def read_resources(path, kernels):
    name = None
    for member, target, line in cuobjdump(["-res-usage"], path):
        if (m := re.match(r"\s*Function (\S+):", line)) is not None:
            name = m[1]
        elif (m := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", line)) is not None:
            kernels[member, name, target].update(REG=int(m[1]), STACK=int(m[2]), SHARED=int(m[3]))


def read_bounds(path, kernels):
    name, wanted = None, False
    for member, target, line in cuobjdump(["-elf"], path):
        if (m := re.match(r"\.nv\.info(?:\.(\S+))?", line)) is not None:
            name, wanted = m[1], False
        elif "EIATTR_MAX_THREADS" in line:
            wanted = True
        elif wanted and (m := MAX_THREADS.match(line)) is not None:
            x, y, z = (int(v, 16) for v in m.groups())
            kernels[member, name, target]["THREADS"] = x * y * z
            wanted = False


def resident_warps(kernel, target):
    """64 Ki registers a multiprocessor, given to warps in units of 256."""
    of_block = -(-kernel["THREADS"] // 32)
    of_warp = -(-kernel["REG"] * 32 // 256) * 256
    most = 48 if target.startswith(("sm_86", "sm_89", "sm_12")) else 64
    if of_block == 0 or of_warp == 0:
        return 0
    return min(65536 // of_warp, most) // of_block * of_block


def read_kernels(paths):
    """{(file, plain name, target): metrics}"""
    kernels = collections.defaultdict(collections.Counter)
    for path in paths:
        for read in (read_code, read_resources, read_bounds):
            read(path, kernels)
    out = {}
    for (member, mangled, target), kernel in kernels.items():
        target = re.sub(r"[af]$", "", target)
        kernel["WARPS"] = resident_warps(kernel, target)
        key = f"{member}/{plain_name(mangled)}", target
        if key in out: # overloads: keep the mangled names
            key = f"{member}/{mangled}", target
        out[key] = kernel
    return out


def read_rules(path):
    """[(line number, kernel glob, target glob, left, operator, right)]"""
    rules = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            if len(words) != 5 or words[3] not in OPERATORS or words[2] not in METRICS or \
                    not (words[4].isdigit() or words[4] in METRICS):
                raise Failure(f"{path}:{number}: expected KERNEL TARGET METRIC OPERATOR "
                              "NUMBER-OR-METRIC")
            rules.append((number, *words))
    if not rules:
        raise Failure(f"{path}: no rule")
    return rules


def check(kernels, rules, rules_path):
    """The texts of what is not as the rules ask."""
    faults = []
    for number, kernel_glob, target_glob, left, sign, right in rules:
        matches = 0
        for (name, target), kernel in sorted(kernels.items()):
            if not fnmatch.fnmatchcase(name, kernel_glob) or \
                    not fnmatch.fnmatchcase(target, target_glob):
                continue
            matches += 1
            limit = int(right) if right.isdigit() else kernel[right]
            if not OPERATORS[sign](kernel[left], limit):
                found = f"{left} is {kernel[left]}"
                if not right.isdigit():
                    found += f", {right} is {limit}"
                faults.append(f"{name} on {target}: {found}; {rules_path}:{number} asks for "
                              f"{left} {sign} {right}")
        # A rule for a target that was not built is no fault; one for a kernel that is gone is.
        if matches == 0 and any(fnmatch.fnmatchcase(t, target_glob) for _, t in kernels):
            faults.append(f"{rules_path}:{number}: no kernel is named {kernel_glob}")
    return faults


def print_table(kernels, metrics, markdown):
    rows = [["kernel", "target", *metrics]]
    for (name, target), kernel in sorted(kernels.items()):
        rows.append([name, target, *(str(kernel[m]) for m in metrics)])
    if markdown:
        rows.insert(1, ["---", "---", *["---:"] * len(metrics)])
        for row in rows:
            print("| " + " | ".join(row) + " |")
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w)
                 for i, (cell, w) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="objects or static libraries")
    parser.add_argument("--rules", metavar="FILE", help="check these rules")
    parser.add_argument("--kernels", metavar="GLOB", default="*", help="show these: FILE/KERNEL")
    parser.add_argument("--targets", metavar="GLOB", default="*", help="show these, as sm_90")
    parser.add_argument("--metrics", metavar="A,B", default=",".join(COLUMNS),
                        help="the columns; %(default)s")
    parser.add_argument("--markdown", action="store_true", help="the table as markdown")
    parser.add_argument("--quiet", action="store_true", help="no table")
    options = parser.parse_args()
    metrics = options.metrics.split(",")
    for metric in metrics:
        if metric not in METRICS:
            raise Failure(f"no metric {metric}; there are {' '.join(METRICS)}")
    rules = read_rules(options.rules) if options.rules else []
    kernels = read_kernels(options.files)
    if not kernels:
        raise Failure(f"no device code in {', '.join(options.files)}")
    if not options.quiet:
        shown = {key: kernel for key, kernel in kernels.items()
                 if fnmatch.fnmatchcase(key[0], options.kernels)
                 and fnmatch.fnmatchcase(key[1], options.targets)}
        print_table(shown, metrics, options.markdown)
    faults = check(kernels, rules, options.rules)
    for fault in faults:
        print(f"FAILED: {fault}")
    if rules:
        targets = sorted({target for _, target in kernels})
        print(f"{len({name for name, _ in kernels})} kernels for {', '.join(targets)}: "
              f"{len(rules)} rules, {len(faults)} broken")
    return 1 if faults else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, OSError) as error:
        print(f"machine_code.py: {error}", file=sys.stderr)
        sys.exit(2)
