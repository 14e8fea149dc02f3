#!/usr/bin/env python3
"""Writes docs/tokenizer_differences.md: the characters on which this runtime's tokenizer and the
Hugging Face `tokenizers` library disagree, because their Unicode tables are of other versions.

    list_unicode_differences.py [--ucd DIR] [--cc COMPILER] [OUT]

Our side is asked through a small program that is compiled here together with the tokenizer's
own sources, so that the translation of patterns and the normalisation are the real ones; their
side through the Python package. Every code point is tried against every property and escape
that our tokenizer accepts. For NFC, every code point stands beside marks of known combining
class, and every canonical decomposition that either side or the Unicode data knows is composed.

It fails, and writes nothing, if a difference concerns a character that should not differ: for
NFC one of Unicode 9, for properties one of Unicode 14 (but see check_ages). Strings drawn at
random from the characters that are not listed then have to come out of NFC the same.

Needs the packages tokenizers (Python) and, from Debian, unicode-data (15.0), libpcre2-dev,
libutf8proc-dev and libjansson-dev. Takes about a minute.
"""
import argparse
import bisect
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

ROOT = Path(__file__).resolve().parent.parent
N_CODES = 0x110000
CODES = [c for c in range(N_CODES) if not 0xD800 <= c < 0xE000]

# The two-letter categories; every code point has one of them. Cs is left out: surrogates do
# not occur in text.
CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp "
              "Cc Cf Co Cn").split()
PROPERTIES = ["L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "N", "P", "S", "Z", "C"]
SCRIPTS = ("Han Hiragana Katakana Hangul Bopomofo Latin Greek Cyrillic Armenian Georgian Arabic "
           "Hebrew Thai Lao Khmer Myanmar Tibetan Bengali Devanagari Gujarati Gurmukhi Kannada "
           "Malayalam Oriya Sinhala Tamil Telugu Ethiopic Mongolian Common Inherited").split()
# Contractions are the only letters that published patterns match without regard to case.
ESCAPES = [r"\s", r"\S", r"[\s]", r"[^\S]", r"\d", r"(?i:s|t|r|e|v|m|l|d)"]

# The tables that both sides have at least: their characters must not differ.
COMMON_PROPERTIES, COMMON_NFC = (14, 0), (9, 0)

# What came after the data of Debian's unicode-data, which is 15.0: all characters of 15.1, and
# the blocks of 15.1 and 16.0.
VERSION_15_1 = [(0x2FFC, 0x2FFF), (0x31EF, 0x31EF), (0x2EBF0, 0x2EE5D)]
LATER_BLOCKS = [
    (0x2EBF0, 0x2EE5F, "CJK Unified Ideographs Extension I"), (0x105C0, 0x105FF, "Todhri"),
    (0x10D40, 0x10D8F, "Garay"), (0x11380, 0x113FF, "Tulu-Tigalari"),
    (0x116D0, 0x116FF, "Myanmar Extended-C"), (0x11BC0, 0x11BFF, "Sunuwar"),
    (0x13460, 0x143FF, "Egyptian Hieroglyphs Extended-A"), (0x16100, 0x1613F, "Gurung Khema"),
    (0x16D40, 0x16D7F, "Kirat Rai"), (0x1E5D0, 0x1E5FF, "Ol Onal"),
    (0x1CC00, 0x1CEBF, "Symbols for Legacy Computing Supplement")]

OUR_SIDE = r"""
#include "runtime/tokenizer_parts.h"
#include "runtime/utf8.h"
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

/* One character '0' or '1' for each code point: does the pattern match it? */
static int print_matches(const char *pattern) {
    sy_pattern compiled;
    if (sy_pattern_compile(pattern, strlen(pattern), false, &compiled) != SY_OK) return 1;
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    if (data == NULL) return 1;
    for (int32_t c = 0; c < 0x110000; c++) {
        char text[4];
        bool hit = (c < 0xd800 || c > 0xdfff) &&
                   pcre2_match(compiled.code, (PCRE2_SPTR)text, sy_utf8_encode(c, text), 0,
                               PCRE2_NO_UTF_CHECK, data, NULL) > 0;
        putchar(hit ? '1' : '0');
    }
    pcre2_match_data_free(data);
    sy_pattern_free(&compiled);
    return 0;
}

static int normalize_input(void) {
    static char part[65536];
    sy_text text = {0}, buffer = {0};
    sy_nfc nfc;
    sy_nfc_scratch scratch = {0};
    const char *out;
    size_t n;
    while ((n = fread(part, 1, sizeof part, stdin)) > 0)
        if (sy_text_append(&text, part, n) != SY_OK) return 1;
    if (sy_nfc_init(&nfc) != SY_OK ||
        sy_nfc_normalize(&nfc, &scratch, text.data, text.n, &buffer, &out, &n) != SY_OK)
        return 1;
    return fwrite(out, 1, n, stdout) != n;
}

int main(int argc, char **argv) {
    char pcre2[64];
    if (argc == 2 && strcmp(argv[1], "classes") == 0) {
        for (int32_t c = 0; c < 0x110000; c++)
            putchar(utf8proc_get_property(c)->combining_class);
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "nfc") == 0) return normalize_input();
    if (argc > 2 && strcmp(argv[1], "match") == 0) {
        int bad = 0;
        for (int i = 2; i < argc; i++)
            bad |= print_matches(argv[i]);
        return bad;
    }
    pcre2_config(PCRE2_CONFIG_VERSION, pcre2);
    printf("%.5s\n", pcre2);
    pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, pcre2);
    printf("%s\n%s\n%s\n", pcre2, utf8proc_version(), utf8proc_unicode_version());
    return 0;
}
"""


class Ours:
    """This runtime's tokenizer parts, behind a program that is built in `folder`."""

    def __init__(self, compiler, folder):
        source = Path(folder) / "our_side.c"
        self.program = str(Path(folder) / "our_side")
        source.write_text(OUR_SIDE)
        parts = sorted(ROOT.glob("runtime/tokenizer*.c")) + sorted(ROOT.glob("base/*.c"))
        parts += [ROOT / "runtime" / f for f in ("added_tokens.c", "json_scan.c", "split_pattern.c",
                                             "utf8.c")]
        subprocess.run([compiler, "-std=c11", "-O2", "-D_POSIX_C_SOURCE=200809L",
                        "-D_DEFAULT_SOURCE", f"-I{ROOT}", source, *parts, "-o", self.program,
                        "-lpcre2-8", "-lutf8proc", "-ljansson", "-lpthread", "-lm"], check=True)
        (self.pcre2, self.pcre2_unicode, self.utf8proc,
         self.utf8proc_unicode) = self.run(b"").decode().split()

    def run(self, text, *arguments):
        return subprocess.run([self.program, *arguments], input=text, check=True,
                              stdout=subprocess.PIPE).stdout

    def matches(self, patterns):
        bits = self.run(b"", "match", *patterns)
        assert len(bits) == N_CODES * len(patterns)
        for i, pattern in enumerate(patterns):
            row = bits[i * N_CODES:(i + 1) * N_CODES]
            yield pattern, {c for c in CODES if row[c] == 0x31}

    def nfc(self, strings):
        # A newline is a starter that composes with nothing: it keeps the strings apart.
        return self.run("\n".join(strings).encode(), "nfc").decode().split("\n")

    def classes(self):
        """The canonical combining class of every code point."""
        return self.run(b"", "classes")


class Theirs:
    """The Hugging Face library."""

    def matches(self, pattern):
        split = pre_tokenizers.Split(Regex(pattern), "removed")
        unmatched = set()
        for part in range(0, len(CODES), 65536):
            codes = CODES[part:part + 65536]
            for _, (start, end) in split.pre_tokenize_str("".join(map(chr, codes))):
                unmatched.update(codes[start:end])
        return set(CODES) - unmatched

    def nfc(self, strings):
        form, out = normalizers.NFC(), []
        for part in range(0, len(strings), 4096):
            out += form.normalize_str("\n".join(strings[part:part + 4096])).split("\n")
        return out

    def nfd(self, code):
        return normalizers.NFD().normalize_str(chr(code))


class UnicodeData:
    """Versions, blocks and canonical decompositions, from the files of the Unicode database."""

    def __init__(self, folder):
        self.version = {}
        for first, last, version in self.rows(folder / "DerivedAge.txt"):
            self.version.update((c, tuple(map(int, version.split("."))))
                                for c in range(first, last + 1))
        self.known = max(self.version.values())
        self.blocks = sorted(set(self.rows(folder / "Blocks.txt")) | set(LATER_BLOCKS))
        self.starts = [first for first, _, _ in self.blocks]
        self.decomposition = {}
        for line in (folder / "UnicodeData.txt").read_text().splitlines():
            field = line.split(";")
            if field[5] and not field[5].startswith("<"):
                parts = "".join(chr(int(c, 16)) for c in field[5].split())
                self.decomposition[int(field[0], 16)] = parts

    @staticmethod
    def rows(path):
        for line in path.read_text().splitlines():
            line = line.split("#")[0].strip()
            if line:
                codes, value = (s.strip() for s in line.split(";"))
                first, _, last = codes.partition("..")
                yield int(first, 16), int(last or first, 16), value

    def age(self, code):
        """(major, minor); for what is not in the files, the first version after them."""
        if code in self.version:
            return self.version[code]
        if any(first <= code <= last for first, last in VERSION_15_1):
            return (15, 1)
        return (16, 0)

    def block(self, code):
        i = bisect.bisect_right(self.starts, code) - 1
        return self.blocks[i][2] if i >= 0 and code <= self.blocks[i][1] else "no block"


def compare_properties(ours, theirs):
    """Differing code points of every pattern, and the category of each code point on which the
    two sides disagree: {code: (ours, theirs)}."""
    names = {r"\p{%s}" % name: name for name in CATEGORIES + PROPERTIES + SCRIPTS}
    differing, category = {}, [{}, {}]
    for pattern, mine in ours.matches(list(names) + ESCAPES):
        other = theirs.matches(pattern)
        differing[names.get(pattern, pattern)] = mine ^ other
        if names.get(pattern) in CATEGORIES:
            for side, codes in zip(category, (mine, other)):
                assert not any(c in side for c in codes), "a code point of two categories"
                side.update(dict.fromkeys(codes, names[pattern]))
    assert len(category[0]) == len(category[1]) == len(CODES)
    pairs = {c: (category[0][c], category[1][c]) for c in CODES
             if category[0][c] != category[1][c]}
    return differing, pairs


def differ(ours, theirs, strings):
    mine, other = ours.nfc(strings), theirs.nfc(strings)
    assert len(mine) == len(other) == len(strings)
    return [(s, a, b) for s, a, b in zip(strings, mine, other) if a != b]


# Marks of Unicode 1 to 4 on whose combining class both sides agree, from 1 to 240.
SCALE = [chr(c) for c in (0x334, 0x93C, 0x3099, 0x94D, 0x5B0, 0x64B, 0xE38, 0xF71, 0x327, 0x31B,
                          0x323, 0x59A, 0x302E, 0x1D16D, 0x5AE, 0x301, 0x315, 0x35C, 0x35D, 0x345)]


def beside(mark, scale=SCALE):
    """Strings that change under NFC if the mark has a class above 0: it changes places with a
    mark of a larger class in front and of a smaller one behind, and class 0 with none."""
    return ["5" + pair for other in scale for pair in (mark + other, other + mark)]


def compare_nfc(ours, theirs, data):
    """({mark: its class here} of marks that have class 0 there,
    {code point: parts} of compositions that are made here only)"""
    plain = [c for c in CODES if c != 0x0A]
    ends = [SCALE[0], SCALE[-1]]  # these two alone tell class 0 from the others
    probes = [(c, s) for c in plain for s in beside(chr(c), ends)]
    other = theirs.nfc([s for _, s in probes])
    mine = ours.nfc([s for _, s in probes])
    suspects = {c for (c, _), a, b in zip(probes, mine, other) if a != b}
    classes = ours.classes()
    assert classes[ord(ends[0])] == 1 and classes[ord(ends[1])] == max(classes)
    for c in suspects:
        assert classes[c] != 0, f"U+{c:04X} is ordered there, not here"
        assert theirs.nfc(beside(chr(c))) == beside(chr(c)), f"U+{c:04X} has two classes"

    # Beyond those marks, nothing may differ: neither single code points, nor the order of two
    # marks, nor how jamo join.
    rest = [chr(c) for c in plain]
    rest += [s for c in plain if classes[c] and c not in suspects for s in beside(chr(c))]
    rest += [a + chr(b) for a in "\u1100\u1112\u1113\uac00\uac01\ud788"
             for b in range(0x1160, 0x1200)]
    assert not differ(ours, theirs, rest), "an unexplained difference in NFC"

    pairs = [(c, parts) for c, parts in data.decomposition.items()]
    pairs += [(c, theirs.nfd(c)) for c in plain]
    pairs = [(c, parts) for c, parts in pairs if len(parts) > 1]
    other, mine = theirs.nfc([p for _, p in pairs]), ours.nfc([p for _, p in pairs])
    compositions = {}
    for (c, parts), a, b in zip(pairs, mine, other):
        if a != b:
            assert a == chr(c) and b == parts, f"U+{c:04X}: not a composition that is missing there"
            compositions[c] = parts
    return {c: classes[c] for c in sorted(suspects)}, compositions


def check_random_strings(ours, theirs, data, left_out, n=200000):
    """Text of characters that are not listed has one normal form. Returns how many strings."""
    rng = random.Random(1)
    classes = ours.classes()
    usable = [c for c in CODES if c in data.version and c not in left_out and c != 0x0A]
    marks = [c for c in usable if classes[c]]
    composing = [c for c in usable if c in data.decomposition]
    parts = sorted({ord(p) for c in composing for p in data.decomposition[c]} - left_out)
    pools = [usable, marks, marks, composing, parts, parts]
    strings = ["".join(chr(rng.choice(rng.choice(pools))) for _ in range(rng.randint(2, 8)))
               for _ in range(n)]
    bad = differ(ours, theirs, strings)
    assert not bad, f"NFC differs on characters that are not listed: {bad[0]!r}"
    return n


def show(version):
    return "%d.%d" % version


def ranges(codes, key):
    """Runs of adjacent code points with the same key: (first, last, key)."""
    run = None
    for c in sorted(codes):
        if run and c == run[1] + 1 and key(c) == run[2]:
            run[1] = c
            continue
        if run:
            yield tuple(run)
        run = [c, c, key(c)]
    if run:
        yield tuple(run)


def span(first, last):
    return f"{first:04X}" if first == last else f"{first:04X}-{last:04X}"


INTRODUCTION = """\
# Characters on which the tokenizer differs from the Hugging Face library

Made by `scripts/list_unicode_differences.py`; do not edit.

Token ids of this runtime equal those of the Hugging Face `tokenizers` library except for texts
with the characters below. The cause is that the two carry tables of different Unicode versions:

| | here | `tokenizers` {tokenizers} |
|---|---|---|
| classes of regular expressions | PCRE2 {pcre2}: Unicode {pcre2_unicode} | Oniguruma, bundled: Unicode 16 |
| normal form C (NFC) | utf8proc {utf8proc}: Unicode {utf8proc_unicode} | Rust crate unicode-normalization: Unicode 9 |

PCRE2 and utf8proc are the system's, so another system may have other versions and then another
list: this one was made with the versions above. Characters were dated by Unicode's data files
of version {known}, and those newer than that by the list of 15.1.

**What it means.** Such a character is, say, a letter on one side and unassigned on the other.
The borders of pre-tokens beside it move: `a` and a new letter are one piece in the library and
two here. The text that the tokens decode to is the same, but its bytes are grouped into other
tokens around the character (digits that are taken in threes are counted off anew from a new
digit to the end of the number). Under NFC, which Qwen models use, a text with the marks or the
pair of the last two tables may also become another, canonically equivalent text. Texts without
these characters do not meet the difference.

**What was compared.** All {n_codes} code points that text can hold, against each property,
script and escape that the tokenizer accepts, and beside marks and in compositions for NFC.
A code point that differs in a class was assigned after Unicode {common_properties}, a mark or pair
that differs under NFC after Unicode {common_nfc}: no character of Unicode {common_nfc} is in these tables, and
the script fails if one ever is. (What only moved between two categories of one class has a
table of its own.) {n_random} random strings of other characters, rich in marks and
compositions, had the same normal form on both sides.
"""


def write_counts(out, differing):
    out.append("\n## Code points that differ, per class\n")
    out.append("| class | differ |\n|---|---:|")
    for name in PROPERTIES + ESCAPES:
        pattern = name.replace("|", r"\|") if name in ESCAPES else r"\p{%s}" % name
        out.append(f"| `{pattern}` | {len(differing[name])} |")
    scripts = [f"{name} {len(differing[name])}" for name in SCRIPTS if differing[name]]
    out.append(f"\nScripts, `\\p{{Han}}` and kin: {', '.join(scripts)}; "
               f"the other {len(SCRIPTS) - len(scripts)} that are accepted do not differ.")


def write_properties(out, pairs, data):
    out.append(f"\n## Properties: {len(pairs)} code points\n")
    out.append("Category is the library's general category; here all of them are unassigned "
               "(Cn) unless\nthe column gives two, ours first. Numbers are hexadecimal.")
    for version in sorted({data.age(c) for c in pairs}):
        codes = [c for c in pairs if data.age(c) == version]
        out.append(f"\n### Assigned in Unicode {show(version)}: {len(codes)}\n")
        out.append("| block | code points | n | category |\n|---|---|---:|---|")
        for first, last, (block, (mine, other)) in ranges(
                codes, lambda c: (data.block(c), pairs[c])):
            category = other if mine == "Cn" else f"{mine}, {other}"
            out.append(f"| {block} | {span(first, last)} | {last - first + 1} | {category} |")


def write_moved(out, moved, pairs, data):
    if not moved:
        return
    out.append(f"\n## Moved between categories: {len(moved)}\n")
    out.append("Older characters that belong to the same class on both sides, so that only a "
               "pattern with one\nof these two-letter categories sees a difference. Published "
               "patterns have `\\p{M}`.\n")
    out.append("| code point | block | here | library | Unicode |\n|---|---|---|---|---|")
    for c in sorted(moved):
        out.append(f"| {c:04X} | {data.block(c)} | {pairs[c][0]} | {pairs[c][1]} "
                   f"| {show(data.age(c))} |")


def write_nfc(out, marks, compositions, data):
    out.append(f"\n## NFC: {len(marks)} marks without a combining class in the library\n")
    out.append("The library does not move these among other marks. Class is the one they have "
               "here.\n")
    out.append("| block | code points | n | class | Unicode |\n|---|---|---:|---:|---|")
    for first, last, (block, order, version) in ranges(
            marks, lambda c: (data.block(c), marks[c], data.age(c))):
        out.append(f"| {block} | {span(first, last)} | {last - first + 1} | {order} "
                   f"| {show(version)} |")
    out.append(f"\n## NFC: pairs that are composed here only: {len(compositions)}\n")
    out.append("| pair | becomes | Unicode |\n|---|---|---|")
    for c, parts in sorted(compositions.items()):
        pair = " ".join(f"{ord(p):04X}" for p in parts)
        out.append(f"| {pair} | {c:04X} | {show(data.age(c))} |")


def check_ages(data, differing, pairs, marks, compositions):
    """No old character may differ, but for those that only moved between categories which
    share their first letter. Returns these."""
    moved = {c for c in pairs if data.age(c) <= COMMON_PROPERTIES and
             all(c not in differing[name] for name in PROPERTIES + ESCAPES + SCRIPTS)}
    listed = set(pairs).union(*differing.values()) - moved
    old = [c for c in listed if data.age(c) <= COMMON_PROPERTIES]
    old += [c for c in (*marks, *compositions) if data.age(c) <= COMMON_NFC]
    if old:
        sys.exit("differences on old characters: " + ", ".join(f"U+{c:04X}" for c in old))
    return moved


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", nargs="?", default=ROOT / "docs" / "tokenizer_differences.md")
    parser.add_argument("--ucd", type=Path, default=Path("/usr/share/unicode"))
    parser.add_argument("--cc", default=os.environ.get("CC", "cc"))
    arguments = parser.parse_args()
    data, theirs = UnicodeData(arguments.ucd), Theirs()
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(arguments.cc, folder)
        differing, pairs = compare_properties(ours, theirs)
        marks, compositions = compare_nfc(ours, theirs, data)
        moved = check_ages(data, differing, pairs, marks, compositions)
        left_out = set(marks) | set(compositions) | set(map(ord, "".join(compositions.values())))
        n_random = check_random_strings(ours, theirs, data, left_out)
    out = [INTRODUCTION.rstrip().format(
        tokenizers=tokenizers.__version__, pcre2=ours.pcre2, pcre2_unicode=ours.pcre2_unicode,
        utf8proc=ours.utf8proc, utf8proc_unicode=ours.utf8proc_unicode,
        known=show(data.known), common_properties=show(COMMON_PROPERTIES),
        common_nfc=show(COMMON_NFC), n_codes=len(CODES), n_random=n_random)]
    write_counts(out, differing)
    write_properties(out, {c: pairs[c] for c in pairs if c not in moved}, data)
    write_moved(out, moved, pairs, data)
    write_nfc(out, marks, compositions, data)
    Path(arguments.out).write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
