#!/usr/bin/env python3
"""Measure the demo model: compression, samples, expert load.

  * bits per byte on held-out text of every kind, beside gzip -9 on the same bytes;
  * 64 tokens after each of 50 prompts per kind, sampled at temperature 0.7 with a
    fixed seed: the share of whole English words that occur in the training text,
    the share of C texts that clang's lexer takes without complaint, the share of
    Python texts that Python's own tokenizer takes;
  * per layer and kind of text, how the tokens spread over the experts.

Needs torch, transformers and tokenizers; the lexer check needs clang.
"""
import argparse
import collections
import gzip
import io
import json
import math
import re
import subprocess
import time
import tokenize
import unicodedata
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
KINDS = ("english", "c", "python", "hindi")
EOS = "<|endoftext|>"


def held_out(work, kind, size):
    """Whole held-out documents, about `size` bytes of them (the order is fixed and mixed)."""
    documents, total = [], 0
    for d in (work / "text" / f"{kind}.heldout").read_text().split("\0"):
        d = unicodedata.normalize("NFC", d)          # as the tokenizer reads it
        if len(d.encode()) <= size / 4:
            documents.append(d)
            total += len(d.encode())
        if total >= size:
            break
    return documents


@torch.no_grad()
def measure(model, tokenizer, documents):
    """(bits per byte, per-layer expert shares) over windows of the model's context."""
    window = model.config.max_position_embeddings
    eos, k = tokenizer.token_to_id(EOS), model.config.num_experts_per_tok
    ids = [eos]
    for e in tokenizer.encode_batch(documents):
        ids += e.ids + [eos]
    ids = torch.tensor(ids)
    nats, load = 0.0, torch.zeros(model.config.num_hidden_layers, model.config.num_experts)
    for s in range(0, len(ids) - 1, window):
        x, y = ids[s:s + window], ids[s + 1:s + window + 1]
        out = model(x[None, :], output_router_logits=True)
        lost = torch.nn.functional.cross_entropy(out.logits[0, :len(y)].float(), y, reduction="none")
        nats += lost[y != eos].double().sum().item()
        for layer, logits in enumerate(out.router_logits):
            chosen = logits.view(-1, load.shape[1]).topk(k, -1).indices.reshape(-1)
            load[layer] += torch.bincount(chosen, minlength=load.shape[1])
    size = sum(len(d.encode()) for d in documents)
    return nats / math.log(2) / size, load / load.sum(1, keepdim=True)


@torch.no_grad()
def continue_all(model, tokenizer, prompts, count, temperature, seed):
    """Continuations of all prompts at once: left padding, one key/value cache."""
    generator = torch.Generator().manual_seed(seed)
    eos = tokenizer.token_to_id(EOS)
    rows = [e.ids for e in tokenizer.encode_batch(prompts)]
    longest = max(map(len, rows))
    ids = torch.tensor([[eos] * (longest - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows])
    position = (mask.cumsum(1) - 1).clamp(min=0)
    cache, made, ended = None, [[] for _ in rows], [False] * len(rows)
    for _ in range(count):
        out = model(input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        p = torch.softmax(out.logits[:, -1].float() / temperature, -1)
        ids = torch.multinomial(p, 1, generator=generator)
        mask = torch.cat((mask, torch.ones_like(ids)), 1)
        position = position[:, -1:] + 1
        for row, token in enumerate(ids[:, 0].tolist()):
            ended[row] |= token == eos
            if not ended[row]:
                made[row].append(token)
    return [tokenizer.decode(m) for m in made]


def training_words(work):
    """How often every letters-only word occurs in the English training text, in lower case."""
    text = (work / "text" / "english.train").read_text().lower()
    return collections.Counter(re.findall(r"[a-z]+", text))


def whole_words(text):
    """Letters-only words of a continuation, without one cut at its start or end."""
    found = [m for m in re.finditer(r"[A-Za-z]+", text)]
    return [m.group(0).lower() for m in found if m.start() > 0 and m.end() < len(text)]


def lexes_as_c(text):
    """Whether clang lexes the text: cut to its last complete line, without a comment
    left open at the very end, preprocessor lines blanked (their headers are not here)."""
    text = text[:text.rfind("\n") + 1]
    if text.rfind("/*") > text.rfind("*/"):
        text = text[:text.rfind("/*")] + "\n"
    text = re.sub(r"(?m)^[ \t]*#.*$", "", text)
    run = subprocess.run(["clang", "-cc1", "-x", "c", "-Winvalid-pp-token", "-dump-tokens", "-"],
                         input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = run.stdout.decode("utf-8", "replace")
    return not re.search(r"(?m)^<stdin>:\d+:\d+: (fatal )?(error|warning):|^unknown '", said)


def lexes_as_python(text):
    """The same for Python's tokenizer; brackets or strings may stay open at the end."""
    lines = text[:text.rfind("\n") + 1]
    lead = len(lines) - len(lines.lstrip(" "))
    lines = re.sub(r"(?m)^ {%d}" % lead, "", lines)
    try:
        list(tokenize.generate_tokens(io.StringIO(lines).readline))
    except tokenize.TokenError:
        return True                       # "EOF in multi-line statement/string"
    except (IndentationError, SyntaxError):
        return False
    return True


def specialisation(loads):
    """Per layer: information in bits that the expert tells about the kind of text."""
    stack = torch.stack([loads[k] for k in KINDS])
    mean = stack.mean(0, keepdim=True)
    return (stack * (stack.clamp(min=1e-9) / mean.clamp(min=1e-9)).log2()).sum(-1).mean(0).tolist()


@torch.no_grad()
def check_against_training_module(model, work, ids):
    """The largest difference between the checkpoint's own logits and this model's."""
    from model import Model
    own = Model()
    own.load_state_dict(torch.load(work / "checkpoint.pt")["model"])
    a, b = own(ids[None])[0][0].float(), model(ids[None]).logits[0].float()
    top = (a.argmax(-1) == b.argmax(-1)).float().mean().item()
    return {"mean_difference": (a - b).abs().mean().item(), "largest_difference": (a - b).abs().max().item(),
            "logit_deviation": b.std().item(), "same_best_token": top}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--work", type=Path, default=Path("/var/tmp/switchyard-demo"), help="folder that prepare.py filled (default: %(default)s)")
    a.add_argument("--model", type=Path, default=HERE.parent.parent / "tests" / "data" / "demo", help="Hugging Face directory (default: %(default)s)")
    a.add_argument("--prompts", type=Path, default=HERE / "prompts.json")
    a.add_argument("--bytes", type=int, default=200_000, help="held-out bytes per kind (default: %(default)s)")
    a.add_argument("--tokens", type=int, default=64, help="tokens per continuation (default: %(default)s)")
    a.add_argument("--temperature", type=float, default=0.7)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--words", type=Path, help="also write the frequent training words, sorted, below 300 kB")
    args = a.parse_args()
    torch.set_num_threads(args.threads)
    began = time.time()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    result = {"bits_per_byte": {}, "samples": {}, "expert_load": {}}

    loads = {}
    print("held-out text      bytes   model    gzip -9   (bits per byte)")
    for kind in KINDS:
        documents = held_out(args.work, kind, args.bytes)
        data = "\n".join(documents).encode()
        bits, loads[kind] = measure(model, tokenizer, documents)
        packed = 8 * len(gzip.compress(data, 9)) / len(data)
        tokens = sum(len(e.ids) for e in tokenizer.encode_batch(documents))
        result["bits_per_byte"][kind] = {"bytes": len(data), "documents": len(documents), "model": round(bits, 3),
                                         "gzip": round(packed, 3), "bytes_per_token": round(len(data) / tokens, 2)}
        print(f"{kind:15s} {len(data):8d}   {bits:.3f}    {packed:.3f}", flush=True)

    print("\nshare of tokens per expert, percent")
    for layer in range(model.config.num_hidden_layers):
        for kind in KINDS:
            print(f"layer {layer} {kind:8s}" + "".join(f"{100 * s:6.1f}" for s in loads[kind][layer].tolist()))
    overall = torch.stack([loads[k] for k in KINDS]).mean(0)
    info = specialisation(loads)
    result["expert_load"] = {
        "per_kind": {k: [[round(s, 4) for s in row] for row in loads[k].tolist()] for k in KINDS},
        "smallest_overall": round(overall.min().item(), 4), "largest_overall": round(overall.max().item(), 4),
        "even": 1 / overall.shape[1], "information_bits_per_layer": [round(i, 3) for i in info]}
    print(f"smallest share overall {100 * overall.min().item():.2f} %, largest {100 * overall.max().item():.2f} %, even {100 / overall.shape[1]:.2f} %")
    print("specialisation, bits of information from expert to kind, per layer: " + " ".join(f"{i:.3f}" for i in info), flush=True)

    prompts = json.loads(args.prompts.read_text())
    made = {k: continue_all(model, tokenizer, prompts[k], args.tokens, args.temperature, args.seed) for k in KINDS}
    known = training_words(args.work)
    words = [w for t in made["english"] for w in whole_words(t)]
    result["samples"] = {
        "temperature": args.temperature, "seed": args.seed, "tokens": args.tokens,
        "english_words": len(words),
        "english_known": round(sum(w in known for w in words) / len(words), 4),
        "english_known_5_times": round(sum(known[w] >= 5 for w in words) / len(words), 4),
        "c_lexes": sum(lexes_as_c(p + t) for p, t in zip(prompts["c"], made["c"])) / len(prompts["c"]),
        "c_prompts_lex": sum(lexes_as_c(p) for p in prompts["c"]) / len(prompts["c"]),
        "python_lexes": sum(lexes_as_python(p + t) for p, t in zip(prompts["python"], made["python"])) / len(prompts["python"]),
    }
    s = result["samples"]
    print(f"\nEnglish: {100 * s['english_known']:.1f} % of {s['english_words']} whole words occur in the training text"
          f" ({100 * s['english_known_5_times']:.1f} % at least five times)")
    print(f"C: {100 * s['c_lexes']:.0f} % lex without error (the prompts alone: {100 * s['c_prompts_lex']:.0f} %)")
    print(f"Python: {100 * s['python_lexes']:.0f} % pass Python's tokenizer")
    unknown = sorted({w for w in words if w not in known})
    print("words not in the training text:", " ".join(unknown) or "none")

    if (args.work / "checkpoint.pt").exists():
        ids = torch.tensor(tokenizer.encode(held_out(args.work, "english", 20_000)[0]).ids[:512])
        result["against_training_module"] = check_against_training_module(model, args.work, ids)
        print("against the training module (bfloat16):", {k: round(v, 4) for k, v in result["against_training_module"].items()})
    result["texts"] = {k: [{"prompt": p, "text": t} for p, t in zip(prompts[k], made[k])] for k in KINDS}
    (args.work / "evaluation.json").write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    if args.words:
        least = 2
        while True:
            text = "\n".join(sorted(w for w, n in known.items() if n >= least)) + "\n"
            if len(text) < 300_000:
                break
            least += 1
        args.words.write_text(text)
        print(f"{args.words}: {text.count(chr(10))} words that occur at least {least} times, {len(text)} bytes")
    print(f"{time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
