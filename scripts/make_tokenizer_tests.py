#!/usr/bin/env python3
"""Makes tests/data/tokenizers: strings, small tokenizers of every format, and the ids that the
reference libraries give. Needs the packages tokenizers, tiktoken and mistral-common; the tests
themselves do not. The small tokenizers are trained here, with fixed seeds.

    make_tokenizer_tests.py OUT [--published DIR]

DIR holds NAME/tokenizer.json for qwen3, deepseek_v3, gptoss and mixtral and
mistral_tekken/tekken.json (all unpacked); without it the expected values of the published files
are left as they are.

strings.jsonl      one case a line: a JSON string, or [piece, count] for a long run
KIND/...           tokenizer.json, tekken.json or tiktoken.model; and expected.txt
published/NAME.txt as expected.txt, for tokenizer files that are not part of this repository
variants.json      two base tokenizers, and changes to them with full ids: the components one by one

Line i of expected.txt is the lower 16 bits of a 64-bit FNV-1a hash, which tells where a difference
is; the last line is the hash of all the full hashes, which tells that there is none. Hashed are,
with the number of ids in front of each list: the ids; the ids with special tokens taken as text;
the ids with what is put around them; and the text that the first of these decode to, with and
without special tokens. Numbers count as 4 bytes, lowest first.
"""
import argparse
import json
import os

from tokenizer_tests import kinds, variants
from tokenizer_tests.reference import open_reference
from tokenizer_tests.strings import RUNS, expand, make_strings

FNV_START = 0xcbf29ce484222325


def fnv(data, state):
    for byte in data:
        state = (state ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return state


def fnv_ids(ids, state):
    words = [len(ids)] + list(ids)
    return fnv(b"".join(i.to_bytes(4, "little") for i in words), state)


def write_expected(path, reference, cases):
    total = FNV_START
    with open(path, "w", encoding="ascii") as f:
        for case in cases:
            text = expand(case)
            ids = reference.encode(text)
            state = fnv_ids(ids, FNV_START)
            state = fnv_ids(reference.encode_as_text(text), state)
            state = fnv_ids(reference.encode_whole(text), state)
            state = fnv(reference.decode(ids, False).encode(), state)
            state = fnv(reference.decode(ids, True).encode(), state)
            total = fnv(state.to_bytes(8, "little"), total)
            f.write(f"{state & 0xffff:04x}\n")
        f.write(f"{total:016x}\n")


def write_strings(path, cases):
    with open(path, "w", encoding="utf-8") as f:
        for case in cases:
            f.write(json.dumps(case, ensure_ascii=False).replace("\x7f", "\\u007f") + "\n")


def write_kind(folder, kind, strings, cases):
    os.makedirs(folder, exist_ok=True)
    for name, content in kinds.make(kind, strings).items():
        with open(f"{folder}/{name}", "w", encoding="utf-8") as f:
            f.write(content)
    write_expected(f"{folder}/expected.txt", open_reference(folder), cases)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--published")
    options = parser.parse_args()
    strings = make_strings(1, 40, 800)
    cases = strings + RUNS
    os.makedirs(options.out, exist_ok=True)
    write_strings(f"{options.out}/strings.jsonl", cases)
    for kind in kinds.KINDS:
        write_kind(f"{options.out}/{kind}", kind, strings, cases)
    with open(f"{options.out}/variants.json", "w", encoding="utf-8") as f:
        json.dump(variants.make_variants(2), f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")
    if options.published:
        os.makedirs(f"{options.out}/published", exist_ok=True)
        for name in ["qwen3", "deepseek_v3", "gptoss", "mixtral", "mistral_tekken"]:
            reference = open_reference(f"{options.published}/{name}")
            write_expected(f"{options.out}/published/{name}.txt", reference, cases)


if __name__ == "__main__":
    main()
