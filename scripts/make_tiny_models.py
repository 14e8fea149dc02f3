#!/usr/bin/env python3
"""Make the tiny checkpoints under tests/data/tiny and what a correct runtime answers with them.

What it does
    For each family it makes a model of two to four layers with awkward shapes (hardly anything
    is a multiple of 8, prime expert counts where there are no groups) and records what the
    transformers library computes from it in float32: logits, and greedy continuations of the
    prompts; and what bfloat16 and wrong readings of the configuration would do to the logits.

    Of most families no weights are stored: they are a formula of seed, name and index (see
    tiny_models/formula.py), which tests/seeded_checkpoint.c writes out as safetensors files.
    qwen3_moe (in four variants with the same values), mixtral and olmoe are stored, and so are
    small models with quantised weights.

    The data are in the repository, so the tests need neither this script nor Python. Run it only
    to change them.

What it guarantees (each is asserted on every run)
    * Every weight is exact in bfloat16 and in float16; correction biases alone are float32
      always. So all dtypes of a checkpoint hold equal numbers. (Quantised weights are exact in
      the format that they are stored in.)
    * No decision hangs on rounding: the two best logits of every greedy step, and the worst
      chosen and best not chosen expert (and group of experts) of every token and layer, are
      apart by MIN_LOGIT_GAP and MIN_ROUTER_GAP (tiny_models/measure.py). Greedy runs do not meet
      an end-of-sequence id and do not collapse into a short loop. Every expert is chosen.
    * The data notice mistakes: whatever a family's configuration switches is switched the other
      way, one at a time, and each must move the stored logits by MIN_EFFECT x the largest |logit|;
      so must wrong readings of quantised formats.
    * What bfloat16 does to the logits is of one size whatever the rounding errors happen to be.
    * A second forward pass, written without the library (tiny_models/forward.py), agrees with it.
    * Every stored variant, read back from disk, gives the same weights and the same logits; the
      configuration in its published spelling describes the same model to the library.

Seeds
    The tables hold seeds for which the above is true. After a change of shapes or scales, run
    with --search, which tries seeds from 1 on, and put the ones it prints into the tables.

Needs numpy, torch, transformers (5.x), safetensors and compressed-tensors. Weights and prompts are
the same everywhere; the last bits of the logits may depend on the CPU and on the library versions,
which README.md in the output records.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

from tiny_models import make

if __name__ == "__main__":
    names = make.all_families()
    parser = argparse.ArgumentParser(
        description="Make the tiny test checkpoints and their expected outputs.",
        epilog="The head comment of the script describes what it makes and guarantees.",
    )
    default = Path(__file__).resolve().parent.parent / "tests" / "data" / "tiny"
    parser.add_argument(
        "--out", type=Path, default=default, help="where to write (default: tests/data/tiny)"
    )
    parser.add_argument(
        "--search",
        metavar="FAMILY",
        nargs="+",
        choices=names,
        help="write nothing; look for a seed for these families",
    )
    parser.add_argument(
        "--limit", type=int, default=200, help="largest seed --search tries (%(default)s)"
    )
    args = parser.parse_args()

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if args.search:
        for family in args.search:
            make.search(family, args.limit)
        sys.exit()
    # Everything goes to a temporary place first, so a failure leaves the old data alone.
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        make.everything(Path(temporary))
        for path in sorted(Path(temporary).iterdir()):
            target = args.out / path.name
            if target.is_dir():
                shutil.rmtree(target)
            shutil.move(path, target)
