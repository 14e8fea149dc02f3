#!/usr/bin/env python3
"""Write the model card (README.md) from what prepare.py, train.py and evaluate.py left.

Reads sources.json, training.json and evaluation.json in --work.
"""
import argparse
import json
from pathlib import Path

import sources

HERE = Path(__file__).resolve().parent
NAMES = {"english": "English prose", "c": "C source", "python": "Python source", "hindi": "Hindi messages and help"}

# Licences of the parts of a package that are read here, where the copyright file
# of the whole package is not in a machine-readable form or is much wider.
LICENCES = {
    ("apache2-doc", "english"): "Apache-2.0",
    ("debian-faq", "english"): "copyleft notice of Software in the Public Interest",
    ("git-doc", "english"): "GPL-2",
    ("gimp-help-en", "english"): "GFDL-1.2+ (no invariant sections)",
    ("libreoffice-help-en-us", "english"): "MPL-2.0",
    ("libreoffice-help-hi", "hindi"): "MPL-2.0",
    ("libreoffice-l10n-hi", "hindi"): "MPL-2.0",
    ("linux-source-6.1", "english"): "GPL-2",
    ("linux-source-6.1", "c"): "GPL-2 (some files also BSD or MIT)",
    ("glibc-source", "c"): "LGPL-2.1+, GPL-2+",
    ("manpages-dev", "english"): "as manpages: Linux-man-pages-copyleft, GPL-2+, BSD",
    ("octave-doc", "english"): "GPL-3+",
    ("perl-doc", "english"): "Artistic or GPL-1+",
    ("postgresql-doc-15", "english"): "PostgreSQL",
    ("python3.11-doc", "english"): "PSF-2",
    ("sqlite3-doc", "english"): "public domain",
    ("zsh-doc", "english"): "Zsh (MIT-like)",
    ("libpython3.11-minimal", "python"): "PSF-2",
    ("libpython3.11-stdlib", "python"): "PSF-2",
    ("gnome-shell-common", "hindi"): "GPL-2+",
    ("inkscape", "hindi"): "GPL-2+",
    ("libgtk2.0-common", "hindi"): "LGPL-2+",
    ("libgtk-3-common", "hindi"): "LGPL-2.1+",
    ("mediawiki", "hindi"): "GPL-2+",
    ("calligra-data", "hindi"): "GPL-2+, LGPL-2+",
    ("calligrasheets-data", "hindi"): "GPL-2+, LGPL-2+",
}


def fence(text):
    return "```text\n" + text.rstrip("\n") + "\n```\n"


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--work", type=Path, default=Path("/var/tmp/switchyard-demo"))
    a.add_argument("--model", type=Path, default=HERE.parent.parent / "tests" / "data" / "demo", help="folder to write README.md into (default: %(default)s)")
    a.add_argument("--hardware", default="2 cores of an AMD EPYC (Zen 5, AVX-512 BF16), no GPU")
    a.add_argument("--note", default="", help="a sentence about how this run went")
    a.add_argument("--samples", type=int, default=3, help="samples per kind in the card")
    args = a.parse_args()
    load = lambda name: json.loads((args.work / name).read_text())
    src, run, ev = load("sources.json"), load("training.json"), load("evaluation.json")
    config = json.loads((args.model / "config.json").read_text())
    size = (args.model / "model.safetensors").stat().st_size
    s, e = ev["samples"], ev["expert_load"]
    out = []
    w = out.append

    w("# Switchyard demo model\n")
    w("A very small Mixture-of-Experts language model, trained from nothing on text and code that\n"
      "Debian 12 ships. It exists so that Switchyard's tests and demonstrations run on a model whose\n"
      "router was really trained and whose continuations can be read. It knows the look of English\n"
      "documentation, C, Python and Hindi user-interface text. It knows no facts: do not use it for\n"
      "anything but testing.\n")
    w("## Model\n")
    w("| | |\n|---|---|")
    rows = [
        ("Architecture", "Qwen3-MoE (`Qwen3MoeForCausalLM`), tensor names as in the published checkpoints"),
        ("Parameters", "3,944,352 in all, about 1.7 million at work per token"),
        ("File", f"`model.safetensors`, BF16, {size:,} bytes"),
        ("Layers", f"{config['num_hidden_layers']}, each with {config['num_experts']} experts of width {config['moe_intermediate_size']}, {config['num_experts_per_tok']} chosen per token (`norm_topk_prob`)"),
        ("Hidden size", f"{config['hidden_size']}; {config['num_attention_heads']} query heads and {config['num_key_value_heads']} key/value heads of {config['head_dim']}"),
        ("Vocabulary", f"{config['vocab_size']} tokens, byte-level BPE in the structure of Qwen3's `tokenizer.json`; `<|endoftext|>` ({config['eos_token_id']}) ends a document; input and output embedding are tied"),
        ("Context", f"{config['max_position_embeddings']} tokens"),
    ]
    for name, text in rows:
        w(f"| {name} | {text} |")
    w("\n## Training\n")
    w("```sh\npython3 scripts/demo_model/prepare.py --work DIR\n"
      f"python3 scripts/demo_model/train.py --work DIR --out tests/data/demo --minutes {run['budget_minutes']:g} --threads {run['threads']} --seed {run['seed']}\n"
      "python3 scripts/demo_model/evaluate.py --work DIR\n"
      "python3 scripts/demo_model/card.py --work DIR\n```\n")
    w(f"Seed {run['seed']}; {run['minutes']:.0f} minutes of wall clock on {args.hardware}; {run['steps']:,} steps, {run['tokens'] / 1e6:.1f} million\n"
      f"tokens. AdamW, learning rate up to {run['peak_lr']:g} over 150 steps and then straight down to zero; sequences\n"
      f"of 256, then 512, then 1024 tokens; load-balancing loss with weight {run['balance_coefficient']:g}. Because the schedule follows\n"
      "the clock, a second run on another machine gives a similar model, not the same bytes.\n" + (args.note + "\n" if args.note else ""))
    w("| Text | Share of training | Training text | Held-out text |\n|---|---:|---:|---:|")
    for k in NAMES:
        t = src["kinds"][k]
        w(f"| {NAMES[k]} | {100 * sources.MIX[k]:.0f} % | {t['train_bytes'] / 1e6:.1f} MB, {t['train_tokens'] / 1e6:.2f} M tokens | {t['heldout_bytes'] / 1e6:.2f} MB |")
    w("\nTraining and held-out text are split by file. Repeated paragraphs and messages are kept once;\n"
      "code files that mostly repeat others are dropped. Held-out lines of 30 characters or more that\n"
      "also occur in the training text are removed (prose, messages), and held-out code files that\n"
      "share more than a fifth of such lines with it are dropped.\n")
    w("## Figures\n")
    w("Bits per byte on held-out text (lower is better), beside `gzip -9` on the same text:\n")
    w("| Text | Bytes | Model | gzip -9 |\n|---|---:|---:|---:|")
    for k in NAMES:
        b = ev["bits_per_byte"][k]
        w(f"| {NAMES[k]} | {b['bytes']:,} | {b['model']:.3f} | {b['gzip']:.3f} |")
    w(f"\nContinuations of {s['tokens']} tokens after the 50 prompts per kind in\n`scripts/demo_model/prompts.json` (beginnings from held-out text), temperature {s['temperature']}, seed {s['seed']}:\n")
    w(f"* English: {100 * s['english_known']:.1f} % of the {s['english_words']:,} whole words (letters only, without a word cut at either\n"
      f"  end) occur in the training text; {100 * s['english_known_5_times']:.1f} % occur there at least five times.")
    w(f"* C: {100 * s['c_lexes']:.0f} % of the texts (prompt and continuation) pass clang's lexer without an error or warning.\n"
      "  The text is cut to its last complete line, a comment left open at the very end is cut off, and\n"
      "  preprocessor lines are blanked because their headers are not there.")
    w(f"* Python: {100 * s['python_lexes']:.0f} % pass Python's own tokenizer; brackets and strings may be open at the end.\n")
    w("Experts, on the held-out text:\n")
    w(f"* Smallest share of a layer's tokens that an expert gets, all kinds together: {100 * e['smallest_overall']:.2f} % (even: {100 * e['even']:.2f} %;\n"
      f"  largest: {100 * e['largest_overall']:.2f} %). No expert is dead.")
    w("* Specialisation, as the information that a token's expert gives about the kind of text, by layer:\n  "
      + ", ".join(f"{i:.2f}" for i in e["information_bits_per_layer"]) + " bits (0: none; 2: the expert tells the kind).\n")
    w("Share of tokens per expert in percent:\n")
    w("| Layer | Text |" + "".join(f" {i} |" for i in range(config["num_experts"])) + "\n|---|---|" + "---:|" * config["num_experts"])
    for layer in range(config["num_hidden_layers"]):
        for k in NAMES:
            w(f"| {layer} | {NAMES[k].split()[0]} |" + "".join(f" {100 * x:.1f} |" for x in e["per_kind"][k][layer]))
    w("\n## Samples\n")
    w(f"The first {args.samples} prompts of each kind with the continuations that were measured, not chosen. The\nprompt ends at the mark ▷.\n")
    for k in NAMES:
        w(f"### {NAMES[k]}\n")
        for t in ev["texts"][k][:args.samples]:
            w(fence(t["prompt"] + "▷" + t["text"]))
    w("## Data and licences\n")
    w("All text comes from packages in the `main` section of Debian 12, so all of it is free to use,\n"
      "change and pass on. Each package's `/usr/share/doc/PACKAGE/copyright` names the authors and the\n"
      "exact terms.\n")
    for k in NAMES:
        w(f"### {NAMES[k]}\n")
        w("| Package | Version | Bytes | Licences |\n|---|---|---:|---|")
        for p in src["packages"]:
            if p["kind"] == k:
                names = LICENCES.get((p["package"], k)) or ", ".join(p["licences"])
                w(f"| {p['package']} | {p['version']} | {p['bytes']:,} | {names} |")
        w("")
    w("## Licence of the model\n")
    w("The weights and the tokenizer are under the licence of the Switchyard repository, as far as its\n"
      "authors hold rights in them. The training text keeps its own licences (above); where a\n"
      "continuation repeats training text at length, that text's licence applies to it. The prompts are\n"
      "short quotations from the held-out part of the packages above.")
    (args.model / "README.md").write_text("\n".join(out) + "\n")
    print(args.model / "README.md")


if __name__ == "__main__":
    main()
