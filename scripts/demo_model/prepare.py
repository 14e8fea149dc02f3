#!/usr/bin/env python3
"""Collect the demo model's text from Debian packages and train its tokenizer.

Needs a Debian 12 system with apt (packages are downloaded and unpacked, never
installed) and the Python packages numpy and tokenizers.  Everything is written
below --work:

    debs/               the downloaded packages
    text/KIND.train     documents, separated by a NUL byte
    text/KIND.heldout   the same for documents the model never sees
    tokenizer/          tokenizer.json, tokenizer_config.json
    tokens/KIND.*.npy   the same documents as token numbers (uint16)
    sources.json        packages, versions, licences and sizes
    prompts.json        50 beginnings of held-out documents per kind (with --prompts)
"""
import argparse
import gzip
import hashlib
import html
import json
import os
import random
import re
import struct
import subprocess
import tarfile
import time
import unicodedata
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import sources

EOS = "<|endoftext|>"
DEVANAGARI = re.compile("[\u0900-\u097f]")


# ---------------------------------------------------------------- packages

def download(work, packages):
    debs = work / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    have = {p.name.split("_")[0] for p in debs.glob("*.deb")}
    want = [p for p in packages if p not in have]
    if want:
        print(f"downloading {len(want)} packages", flush=True)
        subprocess.run(["apt-get", "download", "-qq"] + want, cwd=debs, check=True)
    return {p.name.split("_")[0]: p for p in sorted(debs.glob("*.deb"))}


def members(deb):
    """Yields (path, bytes) of a package's files, opening an inner source tarball."""
    unpack = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with tarfile.open(fileobj=unpack.stdout, mode="r|") as outer:
        for m in outer:
            if not m.isfile():
                continue
            if re.search(r"/usr/src/.*\.tar\.xz$", m.name):
                inner = subprocess.Popen(["xz", "-dc", "-T0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                pid = os.fork()
                if pid == 0:                      # feeds xz while the parent reads it
                    inner.stdout.close()
                    source = outer.extractfile(m)
                    try:
                        while block := source.read(1 << 20):
                            inner.stdin.write(block)
                        inner.stdin.close()
                    finally:
                        os._exit(0)
                inner.stdin.close()
                with tarfile.open(fileobj=inner.stdout, mode="r|") as t:
                    for n in t:
                        if n.isfile():
                            yield n.name, t.extractfile(n)
                os.waitpid(pid, 0)
                inner.wait()
                unpack.kill()                     # nothing after the tarball is wanted
                break
            yield m.name, outer.extractfile(m)
    unpack.stdout.close()
    unpack.wait()


def licences(deb):
    """The licence names a package's copyright file gives, shortest sensible form."""
    for name, f in members_of_doc(deb):
        text = f.decode("utf-8", "replace")
        names = {n.strip().rstrip(",") for n in re.findall(r"(?m)^License: *(\S[^\n]*)$", text)}
        names = {n for line in names for n in re.split(r" and | or | with .*|, ?", line) if n}
        if not names:
            names = {n.rstrip(".") for n in re.findall(r"/usr/share/common-licenses/([A-Za-z0-9.\-]+)", text)}
        return sorted({n for n in names if re.match(r"^[A-Za-z0-9.+\-~]+$", n)}) or ["see the package's copyright file"]
    return ["see the package's copyright file"]


def members_of_doc(deb):
    package = Path(deb).name.split("_")[0]
    out = subprocess.run(["bash", "-c", f"dpkg-deb --fsys-tarfile '{deb}' | tar -xO --occurrence=1 "
                          f"./usr/share/doc/{package}/copyright"],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if out.stdout:
        yield "copyright", out.stdout


# ---------------------------------------------------------------- readers

def prose_paragraphs(paragraphs, minimum=5):
    """Keeps what reads like prose: words, few symbols, a sentence's end."""
    kept = []
    for p in paragraphs:
        p = re.sub(r"\s+", " ", p).strip()
        if len(p) < 40 or len(p) > 4000 or p[-1] not in ".:!?)\"'" or not re.match(r"[\"'(]?[A-Z]", p):
            continue
        ordinary = len(re.findall(r"[A-Za-z ,.;:'\"()\-]", p))
        if ordinary >= 0.95 * len(p) and len(re.findall(r"\b[a-z]{2,}\b", p)) >= minimum:
            kept.append(p)
    return kept


HTML_DROP = re.compile(r"(?is)<(script|style|pre|head|nav|header|footer|aside|svg)\b.*?</\1\s*>|<!--.*?-->")
HTML_BLOCK = re.compile(r"(?i)</?(p|div|h[1-6]|li|ul|ol|dl|dt|dd|table|tr|td|th|br|section|article|blockquote|note|item|title|page|steps?|list|media|info|terms?)\b[^>]*>")


def html_blocks(text):
    text = HTML_BLOCK.sub("\0", HTML_DROP.sub("\0", text))
    text = html.unescape(re.sub(r"<[^>]*>", "", text))
    return [re.sub(r"\s+", " ", b).strip() for b in text.replace("\u00a0", " ").split("\0")]


def quotes(text):
    for a, b in ("\u2018'", "\u2019'", '\u201c"', '\u201d"', "\u2013-", "\u2014-"):
        text = text.replace(a, b)
    return text.replace("\u2026", "...")


def read_html(text):
    return "\n\n".join(prose_paragraphs(html_blocks(quotes(text))))


def read_rst(text):
    text = re.sub(r":[a-z:+\-]+:`~?([^`<]*?)(?:\s*<[^`]*>)?`", r"\1", quotes(text))
    text = re.sub(r"`+([^`<]*?)(?:\s*<[^`]*>)?`+_*", r"\1", text)
    text = re.sub(r"\*{1,2}([^*\n]+)\*{1,2}", r"\1", text).replace("::", ":")
    return read_plain(text)


def read_plain(text):
    paragraphs = re.split(r"\n[ \t]*\n", re.sub(r"(?m)^[=\-~^#*+.\"']{3,}\s*$", "", quotes(text)))
    return "\n\n".join(prose_paragraphs(re.sub(r"^\s*([*\-]|\d+\.|[a-z]\)) +", "", p) for p in paragraphs))


def read_roff(text):
    if not re.search(r"(?m)^\.TH", text):
        return ""
    out = []
    for line in text.split("\n"):
        if line.startswith((".", "'")):
            m = re.match(r"[.'] *([A-Za-z]+) ?(.*)", line)
            if not m:
                continue
            request, rest = m.groups()
            if request in ("B", "I", "SM", "R"):
                out.append(rest.replace('"', ""))
            elif request in ("BR", "BI", "IR", "IB", "RB", "RI"):
                parts = re.findall(r'"([^"]*)"|(\S+)', rest)
                out.append("".join(a or b for a, b in parts))
            elif request in ("SH", "SS", "PP", "P", "LP", "TP", "IP", "RS", "RE", "nf", "fi", "EX", "EE", "sp", "br", "TQ", "HP"):
                out.append("")
        else:
            out.append(line)
    text = "\n".join(out)
    text = re.sub(r"\\f(\[[A-Z]*\]|\(..|.)|\\[&|/,]|\\s[-+]?\d", "", text)
    for a, b in (("\\-", "-"), ("\\(aq", "'"), ("\\(dq", '"'), ("\\(lq", '"'), ("\\(rq", '"'), ("\\e", "\\"), ("\\ ", " "), ("\\(en", "-"), ("\\(em", "-")):
        text = text.replace(a, b)
    return read_plain(text)


def read_pod(text):
    text = re.sub(r"X<[^>]*>", "", text)
    for _ in range(3):
        text = re.sub(r"[A-WYZ]<+ ?([^<>]*?) ?>+", lambda m: m.group(1).split("|")[0], text)
    return "\n\n".join(prose_paragraphs(p for p in re.split(r"\n\s*\n", quotes(text)) if not p.startswith(("=", " ", "\t"))))


LICENCE_WORDS = re.compile(r"(?i)copyright|licen[cs]e|SPDX|warranty")


def code_ok(text):
    lines = text.split("\n")
    return (300 <= len(text) <= 150_000 and max(map(len, lines)) <= 240
            and sum(c.isdigit() for c in text) < 0.08 * len(text)
            and sum(ord(c) > 126 for c in text) < 0.01 * len(text))


def read_c(text):
    text = text.replace("\r", "")
    text = re.sub(r"/\*.*?\*/\n?", lambda m: "" if LICENCE_WORDS.search(m.group(0)) else m.group(0), text, flags=re.S)
    text = re.sub(r"(?m)^//.*\n", lambda m: "" if LICENCE_WORDS.search(m.group(0)) else m.group(0), text)
    text = re.sub(r"(?m)[ \t]+$", "", text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return text if code_ok(text) else ""


def read_python(text):
    text = text.replace("\r", "")
    m = re.match(r"(?:[ \t]*#.*\n|\s*\n)+", text)
    if m and LICENCE_WORDS.search(m.group(0)):
        text = text[m.end():]
    text = re.sub(r"(?m)[ \t]+$", "", text)
    text = re.sub(r"\n{4,}", "\n\n\n", text).strip() + "\n"
    return text if code_ok(text) else ""


def hindi_strings(strings, minimum=8):
    kept = []
    for s in strings:
        s = re.sub(r"<[^>]*>", "", html.unescape(s))
        s = re.sub(r"\s*\([_&]\w\)", "", s).replace("_", "").replace("&", "")
        s = re.sub(r"\s+", " ", s).strip()
        deva, letters = len(DEVANAGARI.findall(s)), len(re.findall(r"[A-Za-z\u0900-\u097f]", s))
        if deva >= minimum and deva >= 0.8 * letters:
            kept.append(s)
    return kept


def read_mo(data):
    magic = struct.unpack("<I", data[:4])[0]
    e = "<" if magic == 0x950412DE else ">"
    _, _, count, _, table = struct.unpack(e + "5I", data[:20])
    out = []
    for i in range(count):
        length, at = struct.unpack(e + "2I", data[table + 8 * i: table + 8 * i + 8])
        out += data[at:at + length].decode("utf-8", "replace").split("\0")
    return "\n".join(hindi_strings(out[1:]))


def read_hindi_html(text):
    return "\n".join(hindi_strings(html_blocks(text), 12))


def read_hindi_json(text):
    try:
        values = [v for v in json.loads(text).values() if isinstance(v, str)]
    except ValueError:
        return ""
    values = [re.sub(r"\{\{[^{}]*\}\}|\[\[(?:[^\]|]*\|)?([^\]|]*)\]\]|'{2,}", r"\1", v) for v in values]
    return "\n".join(hindi_strings(values))


READERS = {"html": read_html, "rst": read_rst, "plain": read_plain, "roff": read_roff, "pod": read_pod,
           "c": read_c, "python": read_python, "hindi_html": read_hindi_html, "hindi_json": read_hindi_json}


def read_package(job):
    """All documents of one package: a list of (kind, package, path, text)."""
    deb, wants = job
    patterns = [(kind, reader, re.compile(pattern)) for kind, reader, pattern in wants]
    documents = []
    package = Path(deb).name.split("_")[0]
    for path, f in members(deb):
        for kind, reader, pattern in patterns:
            if not pattern.search(path):
                continue
            data = f.read()
            if path.endswith(".gz"):
                data = gzip.decompress(data)
            try:
                text = read_mo(data) if reader == "mo" else READERS[reader](data.decode("utf-8"))
            except (UnicodeDecodeError, struct.error):
                continue
            if len(text) >= 200:
                documents.append((kind, package, path.lstrip("./"), text))
            break
    return documents, licences(deb)


# ---------------------------------------------------------------- splitting

def digest(s):
    return int.from_bytes(hashlib.blake2b(s.encode(), digest_size=8).digest(), "big")


def long_lines(text, shortest):
    return [l.strip() for l in text.split("\n") if len(l.strip()) >= shortest]


def split(kind, documents):
    """Deduplicates, then returns (training documents, held-out documents)."""
    documents.sort(key=lambda d: digest(d[1] + "/" + d[2]))       # a fixed order, packages mixed
    line_kind = kind in ("english", "hindi")
    taken, seen, used, train, held = {}, set(), 0, [], []
    for _, package, path, text in documents:
        if line_kind:                       # paragraphs and messages: once each
            lines = []
            for l in text.split("\n"):
                if not l or digest(l) not in seen:
                    lines.append(l)
                    if l:
                        seen.add(digest(l))
            text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"
        else:                               # code: files that mostly repeat others are dropped
            lines = [digest(l) for l in long_lines(text, 30)]
            if not lines or sum(l in seen for l in lines) > 0.5 * len(lines):
                continue
            seen.update(lines)
        size = len(text.encode())
        if size < 200 or taken.get(package, 0) + size > sources.PACKAGE_CAP[kind]:
            continue
        taken[package] = taken.get(package, 0) + size
        hold = size < 150_000 and digest("hold out " + package + "/" + path) % sources.HOLD_OUT_ONE_IN[kind] == 0
        (held if hold else train).append((package, path, text))
    known = {digest(l) for _, _, text in train for l in long_lines(text, 30)}
    clean = []
    for package, path, text in held:
        lines = long_lines(text, 30)
        shared = sum(digest(l) in known for l in lines)
        if line_kind:
            text = "\n".join(l for l in text.split("\n") if len(l.strip()) < 30 or digest(l.strip()) not in known)
            if len(text) >= 200:
                clean.append((package, path, text))
        elif lines and shared <= 0.2 * len(lines):
            clean.append((package, path, text))
    return train, clean, taken


# ---------------------------------------------------------------- tokenizer

def train_tokenizer(work, texts, vocab):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
               r"|\s*[\r\n]+|\s+(?!\S)|\s+")
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    t.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    t.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    t.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    # The special token comes last, as in Qwen's files.
    t.add_special_tokens([AddedToken(EOS, special=True, normalized=False)])
    out = work / "tokenizer"
    out.mkdir(exist_ok=True)
    published_form(t, out / "tokenizer.json")
    (out / "tokenizer_config.json").write_text(json.dumps({
        "add_bos_token": False, "add_prefix_space": False, "bos_token": None,
        "clean_up_tokenization_spaces": False, "eos_token": EOS, "errors": "replace",
        "model_max_length": 1024, "pad_token": EOS, "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
        "added_tokens_decoder": {str(t.token_to_id(EOS)): {
            "content": EOS, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, "special": True}}}, indent=2) + "\n")
    return t


def published_form(t, path):
    """Saves the tokenizer with the fields spelled as Qwen's published files spell them."""
    d = json.loads(t.to_str())
    d["decoder"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    d["model"]["continuing_subword_prefix"] = d["model"]["end_of_word_suffix"] = ""
    path.write_text(json.dumps(d, ensure_ascii=False, indent=2) + "\n")


def encode(work, tokenizer, kind, part, documents):
    import numpy as np
    eos, pieces = tokenizer.token_to_id(EOS), []
    for i in range(0, len(documents), 64):
        for e in tokenizer.encode_batch([d[2] for d in documents[i:i + 64]]):
            pieces.append(np.array(e.ids + [eos], dtype=np.uint16))
    out = work / "tokens"
    out.mkdir(exist_ok=True)
    tokens = np.concatenate(pieces)
    np.save(out / f"{kind}.{part}.npy", tokens)
    return len(tokens)


# ---------------------------------------------------------------- prompts

def make_prompts(held, seed):
    rng = random.Random(seed)
    prompts = {}
    for kind, documents in held.items():
        found = []
        order = list(documents)
        rng.shuffle(order)
        per = 0
        while len(found) < 50 and per < 12:
            for _, _, text in order:
                p = prompt_from(kind, unicodedata.normalize("NFC", text), rng)
                if p and p not in found and len(found) < 50:
                    found.append(p)
            per += 1
        prompts[kind] = found
    return prompts


def prompt_from(kind, text, rng):
    if kind in ("english", "hindi"):
        lines = [l for l in text.split("\n") if len(l.split()) >= (14 if kind == "english" else 9)]
        if not lines:
            return None
        words = rng.choice(lines).split()
        return " ".join(words[:rng.randint(6, 11) if kind == "english" else rng.randint(4, 6)])
    lines = text.split("\n")
    start = r"(static |int |void |bool |unsigned |struct |char |long |size_t )[^;={}]*\([^;]*\)$" if kind == "c" else r" *def \w+\(.*\):$"
    at = [i for i, l in enumerate(lines[:-8]) if re.match(start, l)]
    if not at:
        return None
    i = rng.choice(at)
    piece = "\n".join(lines[i:i + rng.randint(4, 6)]) + "\n"
    if kind == "c" and (not re.search(r"^\{$", piece, re.M) or re.search(r"/\*|^#|^\}", piece, re.M)):
        return None
    if kind == "python":
        piece = "\n".join(lines[i:i + rng.randint(2, 4)]) + "\n"
        if '"""' in piece or "'''" in piece:
            return None
    return piece if 40 <= len(piece) <= 400 else None


# ---------------------------------------------------------------- main

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--work", type=Path, default=Path("/var/tmp/switchyard-demo"), help="folder for everything (default: %(default)s)")
    a.add_argument("--vocab", type=int, default=3072, help="tokens in the vocabulary (default: %(default)s)")
    a.add_argument("--jobs", type=int, default=os.cpu_count(), help="packages read at once (default: %(default)s)")
    a.add_argument("--prompts", action="store_true", help="also draw 50 prompts per kind from the held-out text")
    args = a.parse_args()
    began = time.time()
    args.work.mkdir(parents=True, exist_ok=True)

    wants = {}
    for kind, entries in sources.KINDS.items():
        for package, reader, pattern in entries:
            wants.setdefault(package, []).append((kind, reader, pattern))
    debs = download(args.work, sorted(wants))
    jobs = [(str(debs[p]), wants[p]) for p in sorted(wants, key=lambda p: -debs[p].stat().st_size)]
    by_kind, licence = {k: [] for k in sources.KINDS}, {}
    with ProcessPoolExecutor(args.jobs) as pool:
        for (deb, _), (documents, names) in zip(jobs, pool.map(read_package, jobs)):
            licence[Path(deb).name.split("_")[0]] = names
            for d in documents:
                by_kind[d[0]].append(d)
    print(f"read {len(jobs)} packages, {time.time() - began:.0f} s", flush=True)

    (args.work / "text").mkdir(exist_ok=True)
    train, held, report = {}, {}, {"kinds": {}, "packages": []}
    for kind in sources.KINDS:
        train[kind], held[kind], taken = split(kind, by_kind[kind])
        for part, docs in (("train", train[kind]), ("heldout", held[kind])):
            (args.work / "text" / f"{kind}.{part}").write_bytes("\0".join(d[2] for d in docs).encode())
        report["kinds"][kind] = {
            "train_documents": len(train[kind]), "train_bytes": sum(len(d[2].encode()) for d in train[kind]),
            "heldout_documents": len(held[kind]), "heldout_bytes": sum(len(d[2].encode()) for d in held[kind])}
        for package in sorted(taken):
            report["packages"].append({
                "package": package, "version": debs[package].name.split("_")[1].replace("%3a", ":"),
                "kind": kind, "bytes": taken[package], "licences": licence[package]})
        print(kind, report["kinds"][kind], flush=True)

    # A balanced sample for the vocabulary: the same volume of every kind.
    rng, sample = random.Random(1), []
    for kind in sources.KINDS:
        docs, size = list(train[kind]), 0
        rng.shuffle(docs)
        for d in docs:
            sample.append(d[2])
            size += len(d[2].encode())
            if size > 4_000_000:
                break
    tokenizer = train_tokenizer(args.work, sample, args.vocab)
    print(f"tokenizer: {tokenizer.get_vocab_size()} tokens, {time.time() - began:.0f} s", flush=True)
    for kind in sources.KINDS:
        for part, docs in (("train", train[kind]), ("heldout", held[kind])):
            n = encode(args.work, tokenizer, kind, part, docs)
            report["kinds"][kind][part + "_tokens"] = n
        print(kind, {k: v for k, v in report["kinds"][kind].items() if k.endswith("tokens")}, flush=True)
    (args.work / "sources.json").write_text(json.dumps(report, indent=1) + "\n")
    if args.prompts:
        (args.work / "prompts.json").write_text(json.dumps(make_prompts(held, 7), ensure_ascii=False, indent=1) + "\n")
    print(f"done in {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
