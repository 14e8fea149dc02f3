"""What must be true of a model and its prompts before they are worth keeping, and what bfloat16
does to the logits. All of it is computed by forward.py, so it takes no transformers model."""

import itertools
import math

import torch

from .forward import EVERY, run

TOLERANCE = 1e-4  # what a runtime's float32 logits may be off, relative to the largest |logit|
MIN_LOGIT_GAP = 10 * TOLERANCE
MIN_ROUTER_GAP = 5e-5
MIN_EFFECT = 20 * TOLERANCE
MAX_REPEAT = 5  # of one token in a row
SITE_DRAWS, JOINT_DRAWS = 4, 12
MAX_DEVIATIONS = 4.8  # tests allow 6


class Unmet(Exception):
    """A guarantee does not hold for this seed."""


def require(condition, message):
    if not condition:
        raise Unmet(message)


def check_gaps(done):
    """No choice of experts hangs on rounding; returns the smallest gap."""
    smallest = min(done.gaps.values())
    require(smallest > MIN_ROUTER_GAP, f"router gap {smallest:.1e}")
    return smallest


def greedy(spec, weights, prompt, count, ends):
    """Greedy tokens by full recomputation, with their smallest logit and router gaps."""
    ids, logit_gap, router_gap = list(prompt), math.inf, math.inf
    for _ in range(count):
        done = run(spec, weights, ids)
        best = done.logits[-1].topk(2)
        gap = ((best.values[0] - best.values[1]) / done.logits.abs().max()).item()
        require(gap > MIN_LOGIT_GAP, f"logit gap {gap:.1e} in a greedy step")
        logit_gap = min(logit_gap, gap)
        router_gap = min(router_gap, check_gaps(done))
        ids.append(best.indices[0].item())
    tokens = ids[len(prompt) :]
    require(not ends & set(tokens), "a greedy run meets an end-of-sequence id")
    longest = max(len(list(same)) for _, same in itertools.groupby(tokens))
    dull = len(set(tokens)) < 3 * count // 8 or longest > MAX_REPEAT
    require(not dull, f"a greedy run repeats itself: {tokens}")
    return tokens, logit_gap, router_gap


def noise(logits, spec, weights, prompt):
    """Largest difference of float32 logits from a float64 run, relative to the largest |logit|."""
    exact = run(spec, weights.to(torch.float64), prompt).logits
    off = ((logits.double() - exact).abs().max() / exact.abs().max()).item()
    require(off < TOLERANCE / 10, f"float32 noise {off:.1e}")
    return off


def bf16_deviation(spec, weights, prompt, rows):
    """What bfloat16 rounding does to the logits, with the same experts chosen, relative to the
    largest |logit|: (standard deviation in the worst row, root mean square over the stored rows,
    number of sites).

    Each operand is rounded alone, and what the sites do to a row is added up like independent
    errors, over several draws of rounding errors. That rounding every site at once does the same
    is required: no draw reaches far beyond, and their root mean squares, which vary less than
    single logits do, are not far apart.
    """
    right = run(spec, weights, prompt)
    largest = right.logits.abs().max()

    def moved(site, draw):
        stretch = 1 + 0.0131 * draw
        done = run(spec, weights, prompt, site=site, routes=right.routes, stretch=stretch)
        return ((done.logits - right.logits) / largest).double()

    variance = torch.zeros(len(prompt), dtype=torch.float64)
    for site in right.sites:
        alone = sum(moved(site, draw).square().mean(-1) for draw in range(SITE_DRAWS))
        require(alone.max() > 0, f"rounding {site} changes nothing")
        variance += alone / SITE_DRAWS
    deviation = variance.max().sqrt().item()
    together = [moved(EVERY, draw)[rows] for draw in range(JOINT_DRAWS)]
    worst = max(error.abs().max().item() for error in together) / deviation
    require(worst < MAX_DEVIATIONS, f"bfloat16 moves a logit by {worst:.1f} deviations")
    sizes = [error.square().mean().sqrt().item() for error in together]
    even = max(sizes) < 2.5 * min(sizes)
    require(even, f"bfloat16 moves the logits by {min(sizes):.1e} to {max(sizes):.1e}")
    return deviation, [min(sizes), max(sizes)], len(right.sites)


def attention_mistakes(s):
    """{name: changed spec}"""
    out = {
        "no attention": s.but(off=frozenset({"attention"})),
        "rope_theta doubled": s.but(rope=but(s.rope, theta=2 * s.rope.theta)),
        "the other rotary layout": s.but(rope=but(s.rope, interleaved=not s.rope.interleaved)),
    }
    if not s.latent and s.rope.dim < s.head_dim:
        out["the whole head rotated"] = s.but(rope=but(s.rope, dim=s.head_dim))
    if s.rope.factor:
        out["no YaRN frequencies"] = s.but(rope=but(s.rope, factor=0.0))
        out["another YaRN factor"] = s.but(rope=but(s.rope, factor=0.8 * s.rope.factor))
        if s.rope.frequencies().tolist() != (
            but(s.rope, truncate=not s.rope.truncate).frequencies().tolist()
        ):
            out["YaRN bounds rounded otherwise"] = s.but(
                rope=but(s.rope, truncate=not s.rope.truncate)
            )
        if s.rope.attention_factor != 1:
            out["cos and sin not scaled"] = s.but(rope=but(s.rope, attention_factor=1.0))
        else:
            grown = 0.1 * math.log(s.rope.factor) + 1
            out["cos and sin scaled"] = s.but(rope=but(s.rope, attention_factor=grown))
            if s.temperature:
                out["softmax scaled by mscale"] = s.but(scale=s.scale * grown**2)
    if s.scale != s.head_dim**-0.5:
        out["no mscale in the softmax"] = s.but(scale=s.head_dim**-0.5)
    if s.temperature:
        out["no query temperature"] = s.but(temperature=None)
        out["query temperature of the next position"] = s.but(position_shift=1)
    if s.qk_norm:
        out["no q/k norm"] = s.but(qk_norm=None)
    if s.clip:
        out["no clip_qkv"] = s.but(clip=None)
    if s.latent:
        out["latents not normed"] = s.but(latent=but(s.latent, normed=False))
    if s.qkv_bias:
        out["no bias of q, k, v"] = s.but(qkv_bias=False)
    if s.o_bias:
        out["no bias of o"] = s.but(o_bias=False)
    if s.sinks:
        out["no sinks"] = s.but(sinks=False)
    if any(s.windows):
        out["no window"] = s.but(windows=(None,) * s.layers)
        wider = tuple(w and w + 1 for w in s.windows)
        out["a window wider by one"] = s.but(windows=wider)
        if not all(s.windows):
            out["windows on the other layers"] = s.but(windows=s.windows[1:] + s.windows[:1])
    return out


def ffn_mistakes(s, has_shared):
    out = {
        "no routed experts": s.but(off=frozenset({"routed"})),
        "one expert fewer": s.but(top_k=s.top_k - 1),
    }
    if s.score == "chosen":
        # Softmax over all experts without renormalising; with it, the weights are the same.
        out["softmax over all experts"] = s.but(score="softmax")
    elif s.renorm or s.score == "softmax":
        out["other norm_topk_prob"] = s.but(renorm=not s.renorm)
    if s.score == "sigmoid":
        out["softmax in place of sigmoid"] = s.but(score="softmax")
    if has_shared:
        out["no shared expert"] = s.but(off=frozenset({"shared"}))
    if s.dense:
        out["no dense layer"] = s.but(off=frozenset({"dense"}))
    if s.router_bias:
        out["no router bias"] = s.but(router_bias=False)
    if s.expert_bias:
        out["no expert biases"] = s.but(expert_bias=False)
    if s.choice_bias:
        out["no correction bias"] = s.but(choice_bias=False)
        out["correction bias in the weights"] = s.but(bias_in_weights=True)
    if s.groups > 1:
        out["no groups"] = s.but(groups=1)
        other = "max" if s.group_score == "top2" else "top2"
        out["groups by another score"] = s.but(group_score=other)
        if s.choice_bias:
            out["other groups masked with 0"] = s.but(masked_score=0.0)
    if s.routed_scale != 1:
        out["no routed_scaling_factor"] = s.but(routed_scale=1.0)
    if s.clamp:
        out["no clamp"] = s.but(clamp=(s.clamp[0], math.inf))
        out["alpha 1"] = s.but(clamp=(1.0, s.clamp[1]))
        out["up without one"] = s.but(off=frozenset({"plus one"}))
    return out


def but(record, **changes):
    return type(record)(**(vars(record) | changes))


def effects(spec, weights, prompt, rows):
    """How far each deliberate mistake moves those rows of logits that are kept, relative to the
    largest |logit|."""
    right = run(spec, weights, prompt).logits
    largest = right.abs().max()
    has_shared = any("mlp.shared_experts.gate_proj" in layer for layer in weights.layers)
    changes = attention_mistakes(spec) | ffn_mistakes(spec, has_shared)
    moved = {}
    for name, wrong_spec in changes.items():
        wrong = run(wrong_spec, weights, prompt).logits
        moved[name] = ((wrong - right)[rows].abs().max() / largest).item()
    if not all(spec.windows):
        other = [(prompt[0] + 1) % spec.vocab] + prompt[1:]
        wrong = run(spec, weights, other).logits
        moved["other first token, last row"] = (
            (wrong[-1] - right[-1]).abs().max() / largest
        ).item()
    for name, by in moved.items():
        require(by > MIN_EFFECT, f"'{name}' moves the logits by {by:.1e} only")
    return moved


def changed_choices(spec, done, spec_without, weights, prompt):
    """Share of (token, layer) pairs whose chosen set differs without something."""
    other = run(spec_without, weights, prompt)
    changed = total = 0
    for layer, chosen in done.routes.items():
        same = (chosen.sort(-1).values == other.routes[layer].sort(-1).values).all(-1)
        changed += int((~same).sum())
        total += len(same)
    return changed / total


def survey(spec, weights, prompts, rows, count, ends):
    """Everything above for all prompts: (greedy runs, routes, facts). Raises Unmet."""
    facts = {"logit gap": math.inf, "router gap": math.inf, "noise": 0.0}
    runs, tokens, used = [], [], {}
    for prompt in prompts:
        done = run(spec, weights, prompt)
        require(bool(torch.isfinite(done.logits).all()), "logits not finite")
        facts["router gap"] = min(facts["router gap"], check_gaps(done))
        runs.append(done)
        for layer, chosen in done.routes.items():
            used.setdefault(layer, set()).update(chosen.flatten().tolist())
    require(all(len(u) == spec.experts for u in used.values()), "an expert is never chosen")
    facts["effects"] = effects(spec, weights, prompts[-1], rows[-1])
    if spec.choice_bias:
        share = changed_choices(spec, runs[-1], spec.but(choice_bias=False), weights, prompts[-1])
        require(share > 0.1, f"the correction bias changes {share:.1%} of the choices only")
        facts["choices changed by the bias"] = share
    for prompt in prompts:
        run_tokens, logit_gap, router_gap = greedy(spec, weights, prompt, count, ends)
        tokens.append(run_tokens)
        facts["logit gap"] = min(facts["logit gap"], logit_gap)
        facts["router gap"] = min(facts["router gap"], router_gap)
    for prompt, done in zip(prompts, runs):
        facts["noise"] = max(facts["noise"], noise(done.logits, spec, weights, prompt))
    measured = [bf16_deviation(spec, weights, p, r) for p, r in zip(prompts, rows)]
    facts["bf16"], facts["bf16 rms"], facts["bf16 sites"] = (list(m) for m in zip(*measured))
    facts["clipped"] = {n: sum(v) / len(v) for n, v in runs[-1].clipped.items()}
    for name, share in facts["clipped"].items():
        require(0.02 < share < 0.5, f"clamping touches {share:.1%} of {name}")
    facts["logit std"] = runs[-1].logits.std().item()
    return tokens, runs, facts
