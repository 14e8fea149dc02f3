#!/usr/bin/env python3
"""Train the demo model on the CPU within a given time.

The learning rate warms up, then falls linearly to zero at the end of --minutes of
training time, however many steps that allows.  Sequences grow from 256 to 512 to
1024 tokens on the way.  Every few minutes a checkpoint and a complete Hugging Face
directory are written; started again, the script goes on from the checkpoint.
"""
import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

import sources
from model import CONFIG, Model, export

# (from this share of the time on, sequence length, sequences per step)
PHASES = [(0.0, 256, 16), (0.35, 512, 16), (0.80, 1024, 8)]


def batch(data, kinds, weights, length, count, seed):
    """Random windows, each from one kind of text drawn by the mix."""
    rng = np.random.default_rng(seed)
    rows = []
    for kind in rng.choice(len(kinds), size=count, p=weights):
        tokens = data[kinds[kind]]
        at = rng.integers(0, len(tokens) - length - 1)
        rows.append(tokens[at:at + length + 1])
    t = torch.from_numpy(np.stack(rows).astype(np.int64))
    return t[:, :-1], t[:, 1:]


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--work", type=Path, default=Path("/var/tmp/switchyard-demo"), help="folder that prepare.py filled (default: %(default)s)")
    a.add_argument("--out", type=Path, help="Hugging Face directory to write (default: WORK/model)")
    a.add_argument("--minutes", type=float, default=45, help="training time, all runs together (default: %(default)s)")
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--lr", type=float, default=3e-3, help="peak learning rate (default: %(default)s)")
    a.add_argument("--balance", type=float, default=CONFIG["router_aux_loss_coef"], help="weight of the load-balancing loss (default: %(default)s)")
    a.add_argument("--save-minutes", type=float, default=5)
    args = a.parse_args()
    if "MALLOC_TOP_PAD_" not in os.environ:       # keep freed blocks: a quarter faster on a CPU
        os.environ.update(MALLOC_MMAP_THRESHOLD_="4000000000", MALLOC_TRIM_THRESHOLD_="8000000000",
                          MALLOC_TOP_PAD_="268435456")
        os.execv(sys.executable, [sys.executable, "-u"] + sys.argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    out = args.out or args.work / "model"
    state_file = args.work / "checkpoint.pt"

    kinds = list(sources.MIX)
    weights = np.array([sources.MIX[k] for k in kinds])
    data = {k: np.load(args.work / "tokens" / f"{k}.train.npy", mmap_mode="r") for k in kinds}
    tokenizer = json.loads((args.work / "tokenizer" / "tokenizer.json").read_text())
    assert tokenizer["added_tokens"][0]["id"] == CONFIG["eos_token_id"] == CONFIG["vocab_size"] - 1

    model = Model()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    opt = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
                            lr=args.lr, betas=(0.9, 0.95), eps=1e-8, fused=True)
    step, spent, seen = 0, 0.0, 0
    if state_file.exists():
        s = torch.load(state_file)
        model.load_state_dict(s["model"])
        opt.load_state_dict(s["optimizer"])
        step, spent, seen = s["step"], s["spent"], s["tokens"]
        print(f"going on from step {step}, {spent / 60:.1f} min", flush=True)

    def save():
        torch.save({"model": model.state_dict(), "optimizer": opt.state_dict(), "step": step,
                    "spent": spent, "tokens": seen}, state_file.with_suffix(".new"))
        state_file.with_suffix(".new").rename(state_file)
        export(model, args.work / "tokenizer", out)
        (args.work / "training.json").write_text(json.dumps({
            "steps": step, "tokens": seen, "minutes": round(spent / 60, 2), "seed": args.seed,
            "threads": args.threads, "peak_lr": args.lr, "balance_coefficient": args.balance,
            "budget_minutes": args.minutes}, indent=1) + "\n")

    budget, last, saved, smooth, shares = args.minutes * 60, time.time(), spent, None, None
    while spent < budget:
        part = spent / budget
        _, length, count = [p for p in PHASES if p[0] <= part][-1]
        rate = args.lr * min(1.0, (step + 1) / 150) * (1 - part)
        for g in opt.param_groups:
            g["lr"] = rate
        x, y = batch(data, kinds, weights, length, count, [args.seed, step])
        ce, balance, share = model.loss(x, y)
        (ce + args.balance * balance).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if math.isfinite(norm):
            opt.step()
        opt.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + x.numel()
        smooth = ce.item() if smooth is None else 0.98 * smooth + 0.02 * ce.item()
        shares = share if shares is None else 0.98 * shares + 0.02 * share
        now = time.time()
        spent, last = spent + now - last, now
        if step % 50 == 0:
            print(f"step {step} min {spent / 60:.1f} loss {smooth:.3f} balance {balance.item():.3f} "
                  f"least-used {shares.min().item():.4f} norm {norm.item():.2f} lr {rate:.5f} "
                  f"{seen / spent:.0f} tok/s", flush=True)
        if spent - saved > args.save_minutes * 60:
            save()
            saved = spent
            last = time.time()
    save()
    print(f"done: {step} steps, {seen} tokens, {spent / 60:.1f} min, loss {smooth:.3f}", flush=True)


if __name__ == "__main__":
    main()
