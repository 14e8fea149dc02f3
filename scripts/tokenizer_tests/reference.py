"""The reference library of each format behind one interface:

    encode(text)           ids; special tokens in the text are found if the library looks for them
    encode_as_text(text)   ids; special tokens in the text are text
    encode_whole(text)     ids, with what the library puts around a text
    decode(ids, skip)      text, with or without special tokens
"""
import base64
import json
import os

import tiktoken
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from tokenizers import Tokenizer

from .kinds import KIMI

class HuggingFace:
    def __init__(self, path):
        self.t = Tokenizer.from_file(path)

    def encode(self, text):
        return self.t.encode(text, add_special_tokens=False).ids

    def encode_as_text(self, text):
        self.t.encode_special_tokens = True
        ids = self.encode(text)
        self.t.encode_special_tokens = False
        return ids

    def encode_whole(self, text):
        return self.t.encode(text).ids

    def decode(self, ids, skip):
        return self.t.decode(ids, skip_special_tokens=skip)


class Mistral:
    def __init__(self, path):
        self.t = Tekkenizer.from_file(path)

    def encode(self, text):
        return self.t.encode(text, False, False)

    encode_as_text = encode

    def encode_whole(self, text):
        return self.t.encode(text, True, False)

    def decode(self, ids, skip):
        policy = SpecialTokenPolicy.IGNORE if skip else SpecialTokenPolicy.KEEP
        return self.t.decode(ids, special_token_policy=policy)


class Kimi:
    """tiktoken, called as tokenization_kimi.py does: a text is cut after every 400,000 characters,
    and in runs of white space or of anything else after every 25,000."""

    def __init__(self, folder):
        with open(f"{folder}/tiktoken.model", encoding="ascii") as f:
            ranks = {base64.b64decode(t): int(r) for t, r in map(str.split, f)}
        with open(f"{folder}/tokenizer_config.json", encoding="utf-8") as f:
            added = {int(k): v for k, v in json.load(f)["added_tokens_decoder"].items()}
        ids = range(len(ranks), len(ranks) + 256)
        names = {i: added[i]["content"] if i in added else f"<|reserved_token_{i}|>" for i in ids}
        self.special = {i for i in ids if added.get(i, {"special": True})["special"]}
        self.t = tiktoken.Encoding("kimi", pat_str=KIMI, mergeable_ranks=ranks,
                                   special_tokens={text: i for i, text in names.items()})

    @staticmethod
    def chunks(text):
        for start in range(0, len(text), 400000):
            block = text[start:start + 400000]
            begin, run = 0, 0
            for i, c in enumerate(block):
                run = run + 1 if i > 0 and c.isspace() == block[i - 1].isspace() else 1
                if run > 25000:
                    yield block[begin:i]
                    begin, run = i, 1
            yield block[begin:]

    def encode(self, text):
        return [i for c in self.chunks(text) for i in self.t.encode(c, allowed_special="all")]

    def encode_as_text(self, text):
        return [i for c in self.chunks(text) for i in self.t.encode(c, disallowed_special=())]

    encode_whole = encode

    def decode(self, ids, skip):
        return self.t.decode([i for i in ids if not (skip and i in self.special)])


def open_reference(folder):
    if os.path.exists(f"{folder}/tokenizer.json"):
        return HuggingFace(f"{folder}/tokenizer.json")
    if os.path.exists(f"{folder}/tekken.json"):
        return Mistral(f"{folder}/tekken.json")
    return Kimi(folder)
