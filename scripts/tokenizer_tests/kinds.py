"""Small tokenizers in the formats that models are published with.

    qwen3, olmoe, o200k   tokenizer.json, byte-level (Qwen3; GPT-2's pattern; gpt-oss)
    mixtral, sarvam       tokenizer.json, by character with byte fallback
    tekken                tekken.json
    kimi                  tiktoken.model and tokenizer_config.json
"""
import base64
import collections
import json
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

from .strings import SENTENCES

KINDS = ["qwen3", "olmoe", "o200k", "mixtral", "sarvam", "tekken", "kimi"]

QWEN3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
CAPITALISED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
CAPITALS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = CAPITALISED + CONTRACTION + "|" + CAPITALS + CONTRACTION + r"|\p{N}{1,3}" + REST
TEKKEN = CAPITALISED + "|" + CAPITALS + r"|\p{N}" + REST
NOT_HAN = r"[{}&&[^\p{{Han}}]]"
KIMI_UPPER = NOT_HAN.format(r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}")
KIMI_LOWER = NOT_HAN.format(r"\p{Ll}\p{Lm}\p{Lo}\p{M}")
KIMI = (r"[\p{Han}]+"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{KIMI_UPPER}*{KIMI_LOWER}+{CONTRACTION}"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{KIMI_UPPER}+{KIMI_LOWER}*{CONTRACTION}"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

# ---- training ----


def split_then_bytes(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train_bytes(pre_tokenizer, normalizer, size, strings):
    t = Tokenizer(models.BPE())
    if normalizer is not None:
        t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizer
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(SENTENCES * 3 + strings, trainer)
    return t


def dump(parsed):
    return json.dumps(parsed, ensure_ascii=False, separators=(",", ":")) + "\n"


def make_byte_level(kind, strings):
    if kind == "qwen3":
        t = train_bytes(split_then_bytes(QWEN3), normalizers.NFC(), 1100, strings)
        t.post_processor = processors.ByteLevel(trim_offsets=False)
    elif kind == "olmoe":
        t = train_bytes(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
                        normalizers.NFC(), 1100, strings)
    else:
        t = train_bytes(split_then_bytes(O200K), None, 1100, strings)
        t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.add_tokens([AddedToken(text, special=True, normalized=False)
                  for text in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]])
    t.add_tokens([AddedToken("<think>", normalized=False),
                  AddedToken("</think>", normalized=False)])
    if kind == "olmoe":
        t.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
        bos = t.token_to_id("<|endoftext|>")
        t.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)])
    parsed = json.loads(t.to_str())
    parsed["model"]["ignore_merges"] = kind == "o200k"
    return {"tokenizer.json": dump(parsed)}


def frequent_characters(texts, n):
    """The trainer would choose among characters of one frequency by chance."""
    counts = collections.Counter("".join(texts).replace(" ", "▁"))
    return [c for c, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n]]


def make_by_character(kind, strings):
    """As SentencePiece makes them: the most frequent characters, the others as bytes. Words are
    trained one by one for mixtral; for sarvam merges reach across spaces."""
    mixtral = kind == "mixtral"
    specials = ["<unk>", "<s>", "</s>"] if mixtral else ["<pad>", "<eos>", "<unk>"]
    byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    escape = normalizers.Replace(" ", "▁")
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), escape]) if mixtral else escape
    t.pre_tokenizer = pre_tokenizers.Split("▁" if mixtral else Regex("\\n+"),
                                           "merged_with_next" if mixtral else "isolated")
    texts = SENTENCES * 3 + strings
    trainer = trainers.BpeTrainer(vocab_size=1100, limit_alphabet=330, show_progress=False,
                                  initial_alphabet=frequent_characters(texts, 330),
                                  special_tokens=specials + byte_tokens)
    t.train_from_iterator(texts, trainer)
    if mixtral:
        t.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    t.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * mixtral)
    parsed = json.loads(t.to_str())
    parsed["added_tokens"] = [a for a in parsed["added_tokens"] if a["content"] in specials]
    if mixtral:
        parsed["pre_tokenizer"] = None
        parsed["model"]["merges"] = [" ".join(m) for m in parsed["model"]["merges"]]
    return {"tokenizer.json": dump(parsed)}


def bytes_of(spelling):
    """A token of a byte-level vocabulary as bytes."""
    return bytes(ALPHABET[c] for c in spelling)


def byte_alphabet():
    printable = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {**{chr(b): b for b in printable}, **{chr(256 + i): b for i, b in enumerate(others)}}


ALPHABET = byte_alphabet()


# Tokens across places where some pattern cuts and another does not.
CROSSING = [" 漢".encode()[:2], "A漢".encode()[:2], "漢a".encode()[2:], b"n'", b"'s", b"'S", b"n'S", b"a1",
            b"12", b"1 ", b"!\n", b"\n/", b"/\n", b"  ", b" \n", b"\n ", b"aA", b"Aa", b"AA"]


def train_ranks(pattern, size, strings):
    """The tokens in the order of merging, behind the 256 bytes; then some that training does not
    find."""
    t = train_bytes(split_then_bytes(pattern), None, size, strings)
    vocab = json.loads(t.to_str())["model"]["vocab"]
    tokens = [bytes_of(s) for s in sorted(vocab, key=vocab.get)]
    tokens = [bytes([b]) for b in range(256)] + [t for t in tokens if len(t) > 1]
    return tokens + [t for t in CROSSING if t not in tokens]


def make_tekken(strings):
    """As published: more tokens than are used, special tokens listed in part, token_str null where
    a token is no character."""
    tokens = train_ranks(TEKKEN, 900, strings)
    tokens += [b"ab" * n for n in range(2, 42)]
    listed = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "<pad>", "[PREFIX]"]
    vocab = []
    for rank, token in enumerate(tokens):
        try:
            text = token.decode()
        except UnicodeDecodeError:
            text = None
        vocab.append({"rank": rank, "token_bytes": base64.b64encode(token).decode(),
                      "token_str": text})
    return {"tekken.json": dump({
        "config": {"pattern": TEKKEN, "num_vocab_tokens": len(tokens),
                   "default_vocab_size": 50 + len(tokens) - 40, "default_num_special_tokens": 50,
                   "version": "v11"},
        "vocab": vocab,
        "special_tokens": [{"rank": i, "token_str": text, "is_control": True}
                           for i, text in enumerate(listed)]})}


def make_kimi(strings):
    """The bytes come in another order than their own, as in published files."""
    tokens = train_ranks(KIMI, 900, strings)
    first = tokens[:256]
    random.Random(3).shuffle(first)
    tokens[:256] = first
    n = len(tokens)
    names = {n: "[BOS]", n + 1: "[EOS]", n + 2: "<|im_end|>", n + 3: "<|im_user|>",
             n + 11: "<|tool_call_begin|>", n + 255: "[PAD]"}
    config = {"added_tokens_decoder": {
        str(i): {"content": text, "special": not text.startswith("<|tool")}
        for i, text in names.items()},
        "bos_token": "[BOS]", "eos_token": "[EOS]", "model_max_length": 10 ** 30,
        "tokenizer_class": "TikTokenTokenizer"}
    lines = [f"{base64.b64encode(t).decode()} {i}\n" for i, t in enumerate(tokens)]
    return {"tiktoken.model": "".join(lines), "tokenizer_config.json": dump(config)}


def make(kind, strings):
    if kind == "tekken":
        return make_tekken(strings)
    if kind == "kimi":
        return make_kimi(strings)
    if kind in ("mixtral", "sarvam"):
        return make_by_character(kind, strings)
    return make_byte_level(kind, strings)
