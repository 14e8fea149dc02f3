"""Variants of two small tokenizers, one of bytes and one of characters, with ids in full: the
components of tokenizer.json one by one. Used by make_tokenizer_tests.py."""
import json
import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from . import kinds
from .strings import SENTENCES, TABLE

# ---- components ----

def byte_level(**options):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
            "use_regex": False, **options}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts) + [byte_level()]}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def added(content, **flags):
    return {"id": None, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": False, **flags}


def assign_ids(tokens, vocab):
    """The ids that the library will give: the vocabulary's, else the next free ones."""
    free = len(vocab)
    for token in tokens:
        token["id"] = vocab.get(token["content"], free)
        free = max(free, token["id"] + 1)


def variant_changes(n):
    """(name, changed top-level keys, strings); n: the first free id."""
    dashes = ["-a--b-", "a", "-", "---", "a-b", "", "--a", "a--", "-é-é--", "aa--bb--"]
    for behavior in ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]:
        for invert in [False, True]:
            name = f"split {behavior}" + (" inverted" if invert else "")
            yield name, {"pre_tokenizer": sequence(split("-", behavior, invert, "String"))}, dashes
            yield name + ", empty matches", {"pre_tokenizer": sequence(
                split("-*", behavior, invert))}, dashes
    yield "split by a string of regex characters", {"pre_tokenizer": sequence(
        split("(a", "Isolated", False, "String"))}, ["x(ab", "(a(a", "aa(", "(b"]
    yield "two splits", {"pre_tokenizer": sequence(
        split("b+"), split("a(?=-)"))}, dashes + ["abba-ab"]
    yield "look-behind stops at the piece", {"pre_tokenizer": sequence(
        split("b"), split("(?<=b)-"))}, ["b-ab", "bb--", "ab-ab-"]
    for individual in [False, True]:
        yield f"digits {individual}", {"pre_tokenizer": sequence(
            {"type": "Digits", "individual_digits": individual})}, \
            ["12½Ⅷ٣a", "a1b22", "111", "ab", "1", ""]
    for prefix in [False, True]:
        for regex in [False, True]:
            yield f"byte level, prefix {prefix}, regex {regex}", {"pre_tokenizer": byte_level(
                add_prefix_space=prefix, use_regex=regex)}, \
                ["", " ", "a", " a", "\ta", "a a", "aa's b'S", "  a", "a<X>b", "<X>", "a  ", "1a!"]
    yield "prefix before a split", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        split("-"), byte_level(add_prefix_space=True, use_regex=True)]}}, dashes
    yield "normalizer sequence", {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "NFC"}, {"type": "NFC"}]}}, ["e\u0301", "\u0301\u0327", "ab"]

    strings = ["a \tQ \n b Q Q", "Q", " Q ", "aQb", "QQ", "Q Q", " Q  Q ", "Qa", "\u3000Q\u00a0",
               "Q\u200bQ", "\n\nQ", "aQ Qa", "Q_Q", "Q-Q", "éQ", "Q\u0301", "QR",
               "QRQ", "QRS", "a QRS"]
    flags = [{}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True},
             {"single_word": True}, {"normalized": True}, {"special": True},
             {"single_word": True, "lstrip": True, "rstrip": True}]
    for f in flags:
        yield f"added token {f}", {"added_tokens": [added("Q", **f)]}, strings
    yield "longest added token", {"added_tokens": [
        added("Q"), added("QR", single_word=True), added("QRS")]}, strings
    yield "added token of white space after rstrip", {"added_tokens": [
        added("Q", rstrip=True), added(" ")]}, strings + ["Q   a", "Q  Q  "]
    yield "added token of white space that swallows its like", {"added_tokens": [
        added(" ", lstrip=True, rstrip=True)]}, ["  s", "   ", "a  b", " ", "a \n  b c"]
    yield "normalized added token under NFC", {"normalizer": {"type": "NFC"}, "added_tokens": [
        added("e\u0301", normalized=True), added("a\u0301")]}, \
        ["e\u0301", "\u00e9", "a\u0301", "\u00e1", "xe\u0301\u0327", "e\u0301\u0301"]
    yield "added tokens decode by the byte alphabet", {"added_tokens": [
        added("é"), added("Ġq", special=True), added("漢")]}, \
        ["é", "aéb", "Ġq", "é漢", "漢é"]
    yield "special tokens of both sorts", {"added_tokens": [
        added("<a>", special=True), added("<b>", special=True, normalized=True),
        added("<c>")]}, ["<a>", "<b>", "<c>", "<a><b><c>", "x<a>y<b>z<c>"]
    yield "template before and after", {"added_tokens": [added("<a>", special=True)],
        "post_processor": {"type": "Sequence", "processors": [byte_level(), {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "x", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "y", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"x": {"id": "x", "ids": [n, 5], "tokens": ["<a>", "b"]},
                               "y": {"id": "y", "ids": [n], "tokens": ["<a>"]}}}]}}, ["", "ab"]


def model_variants(base):
    """The same with changes to the model."""
    def model(**changes):
        return {"model": {**base["model"], **changes}}
    vocab = dict(base["model"]["vocab"])
    plain = ["ab", "zz", "azzb", "z", "", "zaz", "zzzz", "aaaa", "abab", "a-b", "aabb-1"]
    lacking = {k: v for k, v in vocab.items() if "z" not in k}
    lacking["<unk>"] = vocab["z"]
    kept = [m for m in base["model"]["merges"] if "z" not in m[0] + m[1]]
    yield "bytes that are missing vanish", model(vocab=lacking, merges=kept), plain
    yield "unknown token", model(vocab=lacking, merges=kept, unk_token="<unk>"), plain
    yield "fused unknown token", model(vocab=lacking, merges=kept, unk_token="<unk>",
                                       fuse_unk=True), plain
    yield "merges as strings", model(merges=[" ".join(m) for m in base["model"]["merges"]]), plain
    yield "the last of equal merges counts", model(
        merges=base["model"]["merges"] + base["model"]["merges"][:3]), plain
    yield "a token that no merge makes", model(vocab={**vocab, "z1": len(vocab)}), [
        "z1", "az1", "z1z1"]
    yield "ids with gaps", model(vocab={k: v * 3 + 1 for k, v in vocab.items()}), plain
    yield "merges are ignored for whole tokens", model(ignore_merges=True,
                                                       merges=base["model"]["merges"][:1]), plain


def pattern_variants():
    """Patterns of published models that have no small tokenizer of their own."""
    deepseek = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
                r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
                r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
                r"|\s+(?!\S)|\s+"]
    glm = kinds.QWEN3.replace(r"\p{N}|", r"\p{N}{1,3}|")
    texts = TABLE[1:60:3] + [s[:24] for s in SENTENCES[:8]]
    yield "DeepSeek's patterns", {"pre_tokenizer": sequence(*map(split, deepseek))}, texts
    yield "GLM's pattern", {"pre_tokenizer": sequence(split(glm))}, texts


# ---- by character ----

def metaspace(scheme="always", cut=True, **options):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut,
            **options}


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def in_sequence(name, *parts):
    return {"type": "Sequence", name: list(parts)}


SPACED = ["", " ", "  ", "a", " a", "a ", "ab ab", "a  b", " Qab", "Qab", "ab Q ab", "Q", "QQ", "Q ab",
          "▁", "▁ab", "a▁b", "a\nb", "\n\n", "é漢", "e\u0301 é", "<0x41>", "ab\u00a0ab", "aab bba Qaab"]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
FALLBACK, FUSE = {"type": "ByteFallback"}, {"type": "Fuse"}
TO_SPACE = replace("▁", " ")


def text_variants():
    """As variant_changes, of a model that starts from characters."""
    q = {"added_tokens": [added("Q")]}
    for scheme in ["always", "first", "never"]:
        for cut in [True, False]:
            yield f"metaspace {scheme}, split {cut}", {
                "pre_tokenizer": metaspace(scheme, cut), "decoder": metaspace(scheme), **q}, SPACED
    yield "metaspace of old files", {"pre_tokenizer": {
        "type": "Metaspace", "replacement": "▁", "add_prefix_space": True}}, SPACED
    yield "metaspace after a split", {"pre_tokenizer": in_sequence(
        "pretokenizers", split("b"), metaspace("first")), **q}, SPACED
    yield "metaspace after a split that removes", {"pre_tokenizer": in_sequence(
        "pretokenizers", split("a", "Removed"), metaspace("first"))}, SPACED
    yield "metaspace of another character", {
        "pre_tokenizer": {**metaspace(), "replacement": "b"},
        "decoder": {**metaspace(), "replacement": "b"}}, SPACED
    yield "metaspace behind a normalizer", {"normalizer": replace("a", "é"), "pre_tokenizer":
                                            metaspace("first"), **q}, SPACED
    yield "digits before metaspace", {"pre_tokenizer": in_sequence(
        "pretokenizers", {"type": "Digits", "individual_digits": True}, metaspace("first", False))}, \
        SPACED + ["1a 22", "11"]
    yield "no pre_tokenizer and no normalizer", {"normalizer": None, **q}, SPACED
    yield "prepend and replace", {"normalizer": in_sequence(
        "normalizers", {"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")), **q}, SPACED
    yield "prepend and replace, added token normalized", {"normalizer": in_sequence(
        "normalizers", {"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
        "added_tokens": [added("Q", normalized=True), added("ab b", normalized=True)]}, \
        SPACED + ["ab b", "xab b", " ab b"]
    yield "replace by a pattern", {"normalizer": replace(r"\s+", "▁", "Regex")}, SPACED
    yield "replace by nothing", {"normalizer": replace("a", "")}, SPACED + ["aa"]
    yield "replace of text that means something in a pattern", {
        "normalizer": replace("(a", "b")}, ["(a(a", "(", "x(ab"]
    yield "replacements in a row", {"normalizer": in_sequence(
        "normalizers", replace("a", "bb"), replace("bb", "Q"), replace("Q", "a"))}, SPACED
    yield "NFC, then replace", {"normalizer": in_sequence(
        "normalizers", {"type": "NFC"}, replace("é", "ab"), replace(" ", "▁"))}, SPACED
    yield "replace, NFC, replace", {"normalizer": in_sequence(
        "normalizers", replace("a", "bb"), {"type": "NFC"}, replace("b", "ab"))}, SPACED
    yield "split at newlines", {"normalizer": replace(" ", "▁"),
                                "pre_tokenizer": split("\n+")}, SPACED + ["a\n\n\nab b\n"]
    yield "decoder without strip", {"decoder": in_sequence(
        "decoders", TO_SPACE, FALLBACK, FUSE)}, SPACED
    yield "decoder that strips two", {"decoder": in_sequence(
        "decoders", TO_SPACE, FALLBACK, FUSE, {**STRIP, "start": 2})}, SPACED + ["   a"]
    yield "decoder without byte fallback", {"decoder": in_sequence(
        "decoders", TO_SPACE, replace("b", "▁▁"), FUSE, STRIP)}, SPACED
    yield "byte fallback alone", {"decoder": FALLBACK}, SPACED
    yield "added token of a character that the model lacks", {"added_tokens": [
        added("é", single_word=True)]}, SPACED + ["aéb", "é", "é é"]
    yield "added token that a byte is read from", {"added_tokens": [
        added("<0x+1>"), added("<0x-1>")]}, ["a<0x+1>b", "<0x-1>"]
    yield "special tokens", {"added_tokens": [
        added("<unk>", special=True), added("Q", special=True)]}, SPACED + ["<unk>a", " <unk> a"]


def text_model_variants(base):
    """The same with changes to the model."""
    def model(**changes):
        return {"model": {**base["model"], **changes}}
    vocab = base["model"]["vocab"]
    plain = ["ab", "éab", "aé漢b", "漢漢é漢", "Qéé", "", "é", "abab é"]
    lacking = {k: v for k, v in vocab.items() if k not in ("<0xE6>", "<0xE7>")}
    for fuse in [False, True]:
        yield f"some bytes missing, fused {fuse}", model(vocab=lacking, fuse_unk=fuse), plain
        yield f"no byte fallback, fused {fuse}", model(byte_fallback=False, fuse_unk=fuse), plain
    yield "some bytes missing, no unknown token", model(vocab=lacking, unk_token=None), plain
    yield "no byte fallback, no unknown token", model(byte_fallback=False, unk_token=None), plain
    n = len(vocab)
    yield "a merge of byte tokens", model(
        vocab={**vocab, "<0xC3><0xA9>": n}, merges=base["model"]["merges"] + [
            ["<0xC3>", "<0xA9>"]]), plain
    yield "a merge of a byte token and a character", model(
        vocab={**vocab, "a<0xC3>": n, "<0xA9>b": n + 1}, merges=base["model"]["merges"] + [
            ["a", "<0xC3>"], ["<0xA9>", "b"]]), plain
    yield "merges are ignored for whole tokens by character", model(
        ignore_merges=True, merges=base["model"]["merges"][:1]), plain + ["<0x41>", "ab", "aab"]


# ---- the file ----

def byte_base(rng):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=330, show_progress=False, max_token_length=6,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(["".join(rng.choices("aabb-- 1Q'sz", k=12)) for _ in range(300)], trainer)
    return json.loads(t.to_str())


def text_base(rng):
    byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    trainer = trainers.BpeTrainer(vocab_size=330, show_progress=False, max_token_length=6,
                                  special_tokens=["<unk>"] + byte_tokens)
    t.train_from_iterator(["".join(rng.choices("aabb▁▁1Q\n<x0>", k=12)) for _ in range(300)], trainer)
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                   decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    parsed = json.loads(t.to_str())
    parsed["added_tokens"] = []
    return parsed


def decode_cases(rng, t, n_ids):
    """Random ids and their text, where the library has no U+FFFD in it: what bytes that make no
    character become is a known difference."""
    out = []
    for _ in range(40):
        ids = [rng.randrange(n_ids) for _ in range(rng.randint(1, 6))]
        text = t.decode(ids)
        if "\ufffd" not in text and len(out) < 8:
            out.append([ids, text])
    return out


def make_variant(rng, base, name, change, strings):
    assign_ids(change.get("added_tokens", []), base["model"]["vocab"])
    changed = Tokenizer.from_str(json.dumps({**base, **change}))
    cases = []
    for text in strings:
        ids = changed.encode(text, add_special_tokens=False).ids
        decoded = changed.decode(ids)
        # The library decodes such a token to its normalised form, we to its content.
        if "normalizer" in change and any(a["normalized"] for a in change.get("added_tokens", [])):
            decoded = None
        # Bytes that make no character: the library counts U+FFFD otherwise.
        elif "\ufffd" in decoded and "\ufffd" not in text:
            decoded = None
        whole = changed.encode(text).ids
        cases.append([text, ids, decoded] + [whole] * (whole != ids))
    decodes = decode_cases(rng, changed, len(base["model"]["vocab"]))
    if "model" in change:  # store only what differs
        change = {"model": {k: v for k, v in change["model"].items()
                            if v != base["model"].get(k)}}
    return {"name": name, "change": change, "cases": cases, "decodes": decodes}


def make_group(rng, base, changes):
    return {"base": base, "variants": [make_variant(rng, base, *change) for change in changes]}


def make_variants(seed):
    rng = random.Random(seed)
    base = byte_base(rng)
    n = len(base["model"]["vocab"])
    groups = [make_group(rng, base, [*variant_changes(n), *model_variants(base),
                                     *pattern_variants()])]
    base = text_base(rng)
    groups.append(make_group(rng, base, [*text_variants(), *text_model_variants(base)]))
    return groups
