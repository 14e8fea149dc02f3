#!/usr/bin/env python3
"""Make the tiny checkpoints under tests/data/tiny and what a correct runtime answers with them.

What it does
    For each of the families qwen3_moe, mixtral and olmoe it builds a three-layer model with
    random weights and awkward shapes (nothing is a multiple of 64, no power of two where it
    can be avoided, prime expert counts), saves it as a Hugging Face checkpoint, and records
    what the transformers library computes from it in float32: logits, router choices and
    greedy continuations of three prompts. qwen3_moe is saved four times with the same values:
    BF16, F32 in three shards, F16 with a config.json in the older spelling, and BF16 with
    the experts of a layer fused into two tensors.

    The files are small enough to be kept in the repository, so the tests need neither this
    script nor Python. Run it only to change the data.

What it guarantees (each is asserted on every run)
    * Every weight is exact in bfloat16 and in float16, so all variants hold equal numbers.
    * No decision hangs on rounding: the two best logits of every greedy step are at least
      MIN_LOGIT_GAP x the largest |logit| apart, and neighbouring router probabilities among
      the best k+1 of every token and layer differ by MIN_ROUTER_GAP relative. Greedy runs do
      not meet an end-of-sequence id and do not collapse into a short loop.
    * The data notices mistakes: attention off, experts off, one expert fewer, the other
      norm_topk_prob, another rope_theta, no clip_qkv, another first token in the prompt:
      each moves the logits by at least MIN_EFFECT x the largest |logit|.
    * Every variant, read back from disk, gives the same weights and the same logits.

Seeds
    SEEDS holds seeds for which the above is true. After a change of shapes or scales, run
    with --search, which tries seeds from 1 on, and put the ones it prints into SEEDS.

Needs numpy, torch, transformers (5.x) and safetensors. Weights and prompts come from numpy's
frozen RandomState generator, so they are the same everywhere; the last bits of the logits may
depend on the CPU and on the library versions, which README.md in the output records.
"""

import argparse
import copy
import itertools
import json
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import safetensors
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

SEEDS = {"qwen3_moe": 1, "mixtral": 14, "olmoe": 52}

PROMPT_LENGTHS = (5, 70, 130)  # the last two cross one and two borders of 64-token pages
GREEDY_TOKENS = 32

TOLERANCE = 1e-4  # what a runtime's float32 logits may be off, relative to the largest |logit|
MIN_LOGIT_GAP = 10 * TOLERANCE
MIN_ROUTER_GAP = 1e-4
MIN_EFFECT = 20 * TOLERANCE
MIN_DISTINCT = 12  # different tokens in each greedy run
MAX_REPEAT = 5  # of one token in a row
SMALLEST = 2.0**-13  # smaller weights become zero; float16 is exact from 2^-14 on


class Unmet(Exception):
    """A guarantee does not hold for this seed."""


def require(condition, message):
    if not condition:
        raise Unmet(message)


# ---------------------------------------------------------------------------------------------
# The three families
# ---------------------------------------------------------------------------------------------


def rope(theta):
    return {"rope_type": "default", "rope_theta": theta}


def qwen3_moe_config():
    return Qwen3MoeConfig(
        vocab_size=151,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=6,  # 6 heads of 6 are 36, not the hidden size
        num_experts=11,
        num_experts_per_tok=3,
        moe_intermediate_size=10,
        mlp_only_layers=[1],  # one dense layer
        intermediate_size=88,  # its width
        norm_topk_prob=True,
        rms_norm_eps=1e-6,
        max_position_embeddings=512,
        rope_parameters=rope(100000.0),
        bos_token_id=148,
        eos_token_id=150,
    )


def mixtral_config():
    return MixtralConfig(
        vocab_size=113,
        hidden_size=12,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=1,
        num_local_experts=5,
        num_experts_per_tok=2,
        intermediate_size=516,  # wide on purpose: two full blocks of 256 and a rest of 4
        sliding_window=None,
        rms_norm_eps=1e-5,
        max_position_embeddings=512,
        rope_parameters=rope(1000000.0),
        bos_token_id=1,
        eos_token_id=2,
    )


def olmoe_config():
    return OlmoeConfig(
        vocab_size=131,
        hidden_size=36,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=3,
        num_experts=13,
        num_experts_per_tok=4,
        intermediate_size=6,  # the width of an expert
        norm_topk_prob=False,
        clip_qkv=1.5,  # q and k have a mean square near 1 here, so this clips
        rms_norm_eps=1e-5,
        max_position_embeddings=512,
        rope_parameters=rope(10000.0),
        pad_token_id=1,
        bos_token_id=None,
        eos_token_id=130,
    )


# name: (model class, config maker, end-of-sequence ids in generation_config.json)
FAMILIES = {
    "qwen3_moe": (Qwen3MoeForCausalLM, qwen3_moe_config, [150, 148]),
    "mixtral": (MixtralForCausalLM, mixtral_config, 2),
    "olmoe": (OlmoeForCausalLM, olmoe_config, 130),
}

# family: {directory: dtype}; the first one is what the expected data are computed from.
VARIANTS = {
    "qwen3_moe": {
        "qwen3_moe": torch.bfloat16,
        "qwen3_moe_f32_sharded": torch.float32,
        "qwen3_moe_f16": torch.float16,
        "qwen3_moe_fused": torch.bfloat16,
    },
    "mixtral": {"mixtral": torch.bfloat16},
    "olmoe": {"olmoe": torch.float32},
}

# Standard deviation of a weight, as a multiple of 1/sqrt(inputs). The first name part found
# counts. Chosen so that activations stay near 1 and every block adds its share to them.
GAINS = (
    ("embed_tokens", None),  # standard deviation 1 whatever the shape
    ("lm_head", 4.0),
    ("q_proj", 1.4),
    ("k_proj", 1.4),
    ("v_proj", 1.2),
    ("o_proj", 1.6),
    ("down_proj", 2.0),
    ("gate_up_proj", 1.5),
    ("gate_proj", 1.5),
    ("up_proj", 1.5),
    ("gate.weight", 1.5),  # the router
)


def exact_in_both(array):
    """Round to values that bfloat16 and float16 both hold, and prove it."""
    w = torch.from_numpy(array.astype(np.float32)).bfloat16().float()
    w[w.abs() < SMALLEST] = 0.0
    assert torch.equal(w, w.bfloat16().float()) and torch.equal(w, w.half().float())
    return w


def build(family, seed):
    """The model of a family in float32, weights drawn from the seed."""
    cls, make_config, eos_ids = FAMILIES[family]
    config = make_config()
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = cls(config).float().eval()
    draw = np.random.RandomState(seed)
    params = dict(model.named_parameters())
    with torch.no_grad():
        for name in sorted(params):
            param = params[name]
            values = draw.standard_normal(tuple(param.shape))
            if "norm" in name:
                values = 1.0 + 0.2 * values
            else:
                gain = next(g for part, g in GAINS if part in name)
                if gain is not None:
                    values *= gain / math.sqrt(param.shape[-1])
            param.copy_(exact_in_both(values))
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=eos_ids, do_sample=False
    )
    return model


def eos_set(family):
    ids = FAMILIES[family][2]
    return set(ids if isinstance(ids, list) else [ids])


def make_prompts(family, vocab, seed):
    draw = np.random.RandomState(100000 + seed)
    allowed = np.array([t for t in range(vocab) if t not in eos_set(family)])
    return [[int(t) for t in draw.choice(allowed, size=n)] for n in PROMPT_LENGTHS]


# ---------------------------------------------------------------------------------------------
# Running a model
# ---------------------------------------------------------------------------------------------


def routers(model):
    """(layer, module) of every router, in layer order."""
    found = [(n, m) for n, m in model.named_modules() if type(m).__name__.endswith("Router")]
    return sorted((int(n.split(".")[2]), m) for n, m in found)


@torch.no_grad()
def run(model, ids):
    """Logits [tokens, vocab] and {layer: (router logits, experts chosen)} of one sequence."""
    seen = {}
    hooks = [
        m.register_forward_hook(lambda _m, _i, out, at=layer: seen.__setitem__(at, out))
        for layer, m in routers(model)
    ]
    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    return logits, {layer: (out[0], out[2]) for layer, out in sorted(seen.items())}


def check_routes(routes, top_k):
    """Neighbours among the best top_k+1 probabilities are apart; returns the smallest gap."""
    smallest = math.inf
    for layer, (logits, chosen) in routes.items():
        p, order = torch.softmax(logits.double(), -1).sort(-1, descending=True)
        gap = ((p[:, :top_k] - p[:, 1 : top_k + 1]) / p[:, :top_k]).min().item()
        require(gap > MIN_ROUTER_GAP, f"router gap {gap:.1e} in layer {layer}")
        require(torch.equal(order[:, :top_k], chosen), "chosen experts not in falling order")
        smallest = min(smallest, gap)
    return smallest


def greedy(model, prompt, family):
    """Greedy tokens by full recomputation, with their smallest logit and router gaps."""
    ids, logit_gap, router_gap = list(prompt), math.inf, math.inf
    for _ in range(GREEDY_TOKENS):
        logits, routes = run(model, ids)
        best = logits[-1].topk(2)
        gap = ((best.values[0] - best.values[1]) / logits.abs().max()).item()
        require(gap > MIN_LOGIT_GAP, f"logit gap {gap:.1e} in a greedy step")
        logit_gap = min(logit_gap, gap)
        router_gap = min(router_gap, check_routes(routes, model.config.num_experts_per_tok))
        ids.append(best.indices[0].item())
    tokens = ids[len(prompt) :]
    require(not eos_set(family) & set(tokens), "a greedy run meets an end-of-sequence id")
    longest = max(len(list(same)) for _, same in itertools.groupby(tokens))
    dull = len(set(tokens)) < MIN_DISTINCT or longest > MAX_REPEAT
    require(not dull, f"a greedy run repeats itself: {tokens}")
    return tokens, logit_gap, router_gap


class Rounding(TorchFunctionMode):
    """Rounds one operand of a model to bfloat16 where it enters a matrix product.

    A site is that operand in one layer: the normed x of attention or of the feed-forward part,
    q, k, P, v, the attention output, h, or the last normed x. That is where a runtime that
    computes in bfloat16 and adds in float32 rounds. Router choices are those given.
    """

    def __init__(self, model, routes, site=None):
        super().__init__()
        self.names = {p.untyped_storage().data_ptr(): n for n, p in model.named_parameters()}
        self.chosen = [chosen for _, (_, chosen) in sorted(routes.items())]
        self.site = site
        self.seen = []
        self.layer = None
        self.products = 0

    def operand(self, name, x):
        at = (self.layer, name)
        if at not in self.seen:
            self.seen.append(at)
        return x.bfloat16().float() if at == self.site else x

    def linear_site(self, weight):
        name = self.names[weight.untyped_storage().data_ptr()]
        parts = name.split(".")
        self.layer = int(parts[2]) if parts[1] == "layers" else None
        if "self_attn" in parts:
            return "attention output" if "o_proj" in parts else "attention x"
        if "down" in name:
            return "h"
        return "last x" if self.layer is None else "ffn x"

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.linear:
            args = (self.operand(self.linear_site(args[1]), args[0]), *args[1:])
        elif function is torch.matmul:
            names = (("q", "k"), ("P", "v"))[self.products % 2]
            self.products += 1
            args = tuple(self.operand(n, x) for n, x in zip(names, args))
        elif function is torch.topk:
            chosen = self.chosen.pop(0)
            return torch.return_types.topk((args[0].gather(-1, chosen), chosen))
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def bf16_deviation(model, prompt):
    """What bfloat16 rounding does to the logits: (standard deviation over the largest |logit|,
    number of sites). Each site is rounded alone; what the sites do to a row adds up like
    independent errors. The worst row counts."""
    right, routes = run(model, prompt)
    ids = torch.tensor([prompt])

    def logits(site):
        with Rounding(model, routes, site) as mode:
            out = model(ids, use_cache=False).logits[0]
        assert not mode.chosen and mode.products == 2 * model.config.num_hidden_layers
        return out, mode.seen

    same, sites = logits(None)
    require(torch.equal(same, right), "replayed routes change the logits")
    assert len(sites) == 8 * model.config.num_hidden_layers + 1, sites
    variance = torch.zeros(len(prompt), dtype=torch.float64)
    for site in sites:
        moved = (logits(site)[0] - right).double().square().mean(-1)
        require(moved.max() > 0, f"rounding {site} changes nothing")
        variance += moved
    return (variance.max().sqrt() / right.abs().max()).item(), len(sites)


def with_change(model, change):
    """A copy of the model with a changed config (change is a dict) or changed weights."""
    if callable(change):
        other = copy.deepcopy(model)
        with torch.no_grad():
            for name, param in other.named_parameters():
                if change(name):
                    param.zero_()
        return other
    config = copy.deepcopy(model.config)
    for key, value in change.items():
        assert hasattr(config, key)
        setattr(config, key, value)
    other = type(model)(config).float().eval()
    other.load_state_dict(model.state_dict())
    return other


def effects(model, prompt):
    """How far each deliberate mistake moves the logits, relative to the largest |logit|."""
    right, _ = run(model, prompt)
    config = model.config
    theta = config.rope_parameters["rope_theta"]
    changes = {
        "no attention": lambda n: "o_proj" in n,
        "no experts": lambda n: "experts" in n and "down_proj" in n,
        "one expert fewer": {"num_experts_per_tok": config.num_experts_per_tok - 1},
        "rope_theta doubled": {"rope_parameters": rope(2 * theta)},
    }
    if hasattr(config, "norm_topk_prob"):
        changes["other norm_topk_prob"] = {"norm_topk_prob": not config.norm_topk_prob}
    if getattr(config, "clip_qkv", None):
        changes["no clip_qkv"] = {"clip_qkv": None}
    if getattr(config, "mlp_only_layers", None):
        changes["no dense layer"] = lambda n: "mlp.down_proj" in n

    moved = {}
    for name, change in changes.items():
        wrong, _ = run(with_change(model, change), prompt)
        moved[name] = ((wrong - right).abs().max() / right.abs().max()).item()
    other = [(prompt[0] + 1) % config.vocab_size] + prompt[1:]
    wrong, _ = run(model, other)
    moved["other first token, last row"] = (
        (wrong[-1] - right[-1]).abs().max() / right.abs().max()
    ).item()
    for name, by in moved.items():
        require(by > MIN_EFFECT, f"'{name}' moves the logits by {by:.1e} only")
    return moved


@torch.no_grad()
def clipped_share(model, prompt):
    """Share of q, k and v elements that clip_qkv changes (the model must have it)."""
    outputs = {"q": [], "k": [], "v": []}
    hooks = []
    for name, module in model.named_modules():
        for part in outputs:
            # q and k are clipped after their norm, v straight after the projection
            if name.endswith({"q": "q_norm", "k": "k_norm", "v": "v_proj"}[part]):
                keep = outputs[part]
                # the clamp is done in place, so keep a copy of what comes before it
                hooks.append(
                    module.register_forward_hook(
                        lambda _m, _i, out, keep=keep: keep.append(out.detach().clone())
                    )
                )
    run(model, prompt)
    for hook in hooks:
        hook.remove()
    limit = model.config.clip_qkv
    shares = {p: (torch.cat(o).abs() > limit).float().mean().item() for p, o in outputs.items()}
    for part, share in shares.items():
        require(0.02 < share < 0.5, f"clip_qkv touches {share:.1%} of {part}")
    return shares


def compute(family, seed):
    """Model and expected data of a family; raises Unmet when the seed will not do."""
    model = build(family, seed)
    config = model.config
    prompts = make_prompts(family, config.vocab_size, seed)
    data = {"model": model, "prompts": prompts, "logits": [], "routes": [], "greedy": []}
    data["bf16"] = []
    facts = {"logit gap": math.inf, "router gap": math.inf, "noise": 0.0}
    wide = copy.deepcopy(model).double()
    for prompt in prompts:
        logits, routes = run(model, prompt)
        require(bool(torch.isfinite(logits).all()), "logits not finite")
        exact, _ = run(wide, prompt)
        noise = ((logits.double() - exact).abs().max() / exact.abs().max()).item()
        require(noise < TOLERANCE / 10, f"float32 noise {noise:.1e}")
        facts["noise"] = max(facts["noise"], noise)
        gap = check_routes(routes, config.num_experts_per_tok)
        tokens, logit_gap, router_gap = greedy(model, prompt, family)
        facts["logit gap"] = min(facts["logit gap"], logit_gap)
        facts["router gap"] = min(facts["router gap"], gap, router_gap)
        data["logits"].append(logits)
        data["routes"].append({layer: chosen for layer, (_, chosen) in routes.items()})
        data["greedy"].append(tokens)
        deviation, data["bf16 sites"] = bf16_deviation(model, prompt)
        data["bf16"].append(deviation)

    # The library's own cached generation must agree with the recomputed one.
    for prompt, tokens in zip(prompts, data["greedy"]):
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=GREEDY_TOKENS,
            pad_token_id=0,
        )
        require(out[0, len(prompt) :].tolist() == tokens, "cached generation disagrees")

    used = set()
    for routes in data["routes"]:
        for chosen in routes.values():
            used |= set(chosen.flatten().tolist())
    experts = getattr(config, "num_experts", None) or config.num_local_experts
    require(len(used) == experts, "an expert is never chosen")
    facts["logit std"] = data["logits"][-1].std().item()
    facts["effects"] = effects(model, prompts[-1])
    if getattr(config, "clip_qkv", None):
        facts["clipped"] = clipped_share(model, prompts[-1])
    data["facts"] = facts
    return data


# ---------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------


def write_json(path, value, indent=None):
    separators = None if indent else (",", ":")
    path.write_text(json.dumps(value, indent=indent, separators=separators) + "\n")


def old_spelling(config):
    """config.json of a qwen3_moe model as transformers 4 wrote it."""
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": config.bos_token_id,
        "decoder_sparse_step": config.decoder_sparse_step,
        "eos_token_id": config.eos_token_id,
        "head_dim": config.head_dim,
        "hidden_act": config.hidden_act,
        "hidden_size": config.hidden_size,
        "initializer_range": config.initializer_range,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "max_window_layers": config.num_hidden_layers,
        "mlp_only_layers": config.mlp_only_layers,
        "model_type": "qwen3_moe",
        "moe_intermediate_size": config.moe_intermediate_size,
        "norm_topk_prob": config.norm_topk_prob,
        "num_attention_heads": config.num_attention_heads,
        "num_experts": config.num_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "output_router_logits": False,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": config.rope_parameters["rope_theta"],
        "router_aux_loss_coef": config.router_aux_loss_coef,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": config.vocab_size,
    }


def save_variant(model, directory, dtype):
    """Write one checkpoint directory from the float32 model."""
    name = directory.name
    stored = copy.deepcopy(model).to(dtype)
    stored.config.dtype = dtype
    options = {}
    if name.endswith("_sharded"):
        total = sum(p.numel() * p.element_size() for p in stored.parameters())
        options["max_shard_size"] = int(total / 3 * 1.05)
    stored.save_pretrained(directory, **options)
    if name.endswith("_fused"):
        # The in-memory names and shapes: experts.gate_up_proj [E, 2I, H], gate rows first,
        # and experts.down_proj [E, H, I].
        tensors = {n: t.contiguous() for n, t in stored.state_dict().items()}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    if name.endswith("_f16"):
        write_json(directory / "config.json", old_spelling(model.config), indent=2)
        path = directory / "generation_config.json"
        generation = json.loads(path.read_text())
        generation["transformers_version"] = "4.51.0"
        write_json(path, generation, indent=2)
    for path in directory.iterdir():
        path.chmod(0o644)


def save_expected(data, directory):
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "ids.json", data["prompts"])
    write_json(
        directory / "bf16.json",
        {"version": 1, "sites": data["bf16 sites"], "deviation": data["bf16"]},
        indent=2,
    )
    for i, logits in enumerate(data["logits"]):
        np.save(directory / f"logits_{i}.npy", logits.numpy().astype("<f4"))
        write_json(directory / f"greedy_{i}.json", data["greedy"][i])
        layers = [
            {"layer": layer, "experts": chosen.tolist()}
            for layer, chosen in data["routes"][i].items()
        ]
        top_k = data["model"].config.num_experts_per_tok
        write_json(
            directory / f"routes_{i}.json", {"version": 1, "top_k": top_k, "layers": layers}
        )


# ---------------------------------------------------------------------------------------------
# Reading back
# ---------------------------------------------------------------------------------------------


def read_tensors(directory):
    """All tensors of a checkpoint directory; checks the index of a sharded one."""
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        part = load_file(path)
        assert not set(part) & set(tensors), f"{path}: a tensor is in two shards"
        tensors.update(part)
    index = directory / "model.safetensors.index.json"
    if index.exists():
        index = json.loads(index.read_text())
        where = index["weight_map"]
        assert set(where) == set(tensors) and len(set(where.values())) == 3
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        assert index["metadata"]["total_size"] == size
        for shard in set(where.values()):
            assert set(load_file(directory / shard)) == {n for n in where if where[n] == shard}
    return tensors


def published_names(tensors):
    """Fused experts cut into the published per-expert tensors, without the library."""
    out = {}
    for name, t in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            for e, w in enumerate(t):
                gate, up = w.chunk(2)
                stem = name.replace("gate_up_proj", str(e))
                out[f"{stem}.gate_proj.weight"], out[f"{stem}.up_proj.weight"] = gate, up
        elif name.endswith("experts.down_proj"):
            for e, w in enumerate(t):
                out[name.replace("down_proj", f"{e}.down_proj.weight")] = w
        else:
            out[name] = t
    return out


def check_names(family, tensors):
    """The published names are there, and nothing of another style."""
    parts = {
        "qwen3_moe": ("mlp.experts.10.gate_proj.weight", "mlp.gate.weight"),
        "mixtral": ("block_sparse_moe.experts.4.w1.weight", "block_sparse_moe.gate.weight"),
        "olmoe": ("mlp.experts.12.gate_proj.weight", "mlp.gate.weight"),
    }[family]
    for part in parts:
        assert f"model.layers.0.{part}" in tensors, f"no {part}"
    assert not any("gate_up_proj" in n for n in tensors)


def verify(family, data, out):
    """Read every variant from disk and compare values and logits; returns the facts found."""
    lines = []
    base = None
    for name, dtype in VARIANTS[family].items():
        tensors = read_tensors(out / name)
        assert all(t.dtype == dtype for t in tensors.values()), f"{name}: dtype"
        if name.endswith("_fused"):
            assert any(n.endswith("experts.gate_up_proj") for n in tensors)
            tensors = published_names(tensors)
        check_names(family, tensors)
        if base is None:
            base = tensors
        assert set(base) == set(tensors)
        assert all(torch.equal(base[n].float(), tensors[n].float()) for n in base), name

        model = AutoModelForCausalLM.from_pretrained(
            out / name,
            dtype=torch.float32,
            attn_implementation="eager",
            experts_implementation="eager",
        ).eval()
        assert model.config.vocab_size == data["model"].config.vocab_size
        worst = 0.0
        for prompt, wanted in zip(data["prompts"], data["logits"]):
            got, _ = run(model, prompt)
            worst = max(worst, ((got - wanted).abs().max() / wanted.abs().max()).item())
        assert worst < TOLERANCE / 10, f"{name}: logits off by {worst:.1e}"
        count = sum(t.numel() for t in tensors.values())
        lines.append(f"{name}: {count} parameters, {dtype}, reloaded logits off by {worst:.1e}")
    return lines


# ---------------------------------------------------------------------------------------------
# README.md of the data
# ---------------------------------------------------------------------------------------------


def size_of(path):
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def readme(out, results):
    def row(*cells):
        return "| " + " | ".join(str(c) for c in cells) + " |"

    shapes = [
        row("family", "vocab", "hidden", "heads/kv/head_dim", "experts/top k", "expert width",
            "other"),
        row(*["---"] * 7),
    ]
    other = {
        "qwen3_moe": "per-head q/k norm, layer 1 dense (width {dense}), norm_topk_prob true",
        "mixtral": "no `head_dim` in force (hidden/heads), one kv head",
        "olmoe": "whole-vector q/k norm, clip_qkv {clip}, norm_topk_prob false",
    }
    facts = [
        row("family", "seed", "parameters", "smallest greedy logit gap", "smallest router gap",
            "float32 noise", "logit std"),
        row(*["---"] * 7),
    ]
    moved = [row("deliberate mistake", *results), row(*["---"] * (1 + len(results)))]
    names = []
    for data in results.values():
        names += [n for n in data["facts"]["effects"] if n not in names]
    for name in names:
        cells = [data["facts"]["effects"].get(name) for data in results.values()]
        moved.append(row(name, *("-" if c is None else f"{c:.2g}" for c in cells)))

    for family, data in results.items():
        c, f = data["model"].config, data["facts"]
        head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        width = getattr(c, "moe_intermediate_size", None) or c.intermediate_size
        clip = getattr(c, "clip_qkv", None)
        note = other[family].format(dense=c.intermediate_size, clip=clip)
        shapes.append(
            row(family, c.vocab_size, c.hidden_size,
                f"{c.num_attention_heads}/{c.num_key_value_heads}/{head_dim}",
                f"{c.num_local_experts}/{c.num_experts_per_tok}", width,
                f"{note}, rope_theta {c.rope_parameters['rope_theta']:g}, "
                f"eps {c.rms_norm_eps:g}")
        )
        facts.append(
            row(family, SEEDS[family], sum(p.numel() for p in data["model"].parameters()),
                f"{f['logit gap']:.1e}", f"{f['router gap']:.1e}", f"{f['noise']:.0e}",
                f"{f['logit std']:.2f}")
        )
    sizes = [row("directory", "dtype", "bytes"), row("---", "---", "---")]
    for family in results:
        for name, dtype in VARIANTS[family].items():
            sizes.append(row(name, str(dtype).replace("torch.", ""), size_of(out / name)))
        name = f"expected/{family}"
        sizes.append(row(name, "float32 logits", size_of(out / name)))
    clipped = results["olmoe"]["facts"]["clipped"]
    clip_text = ", ".join(f"{share:.0%} of {part}" for part, share in clipped.items())
    text = f"""# Tiny checkpoints with known answers

Written by `python3 scripts/make_tiny_models.py`; do not edit by hand. Made with Python
{sys.version.split()[0]}, torch {torch.__version__.split('+')[0]}, transformers \
{transformers.__version__}, safetensors {safetensors.__version__}, numpy {np.__version__}.

Three families of three layers each, random weights, shapes chosen to be awkward. Every weight
is exact in bfloat16 and in float16 (zero or at least 2^-13 in size), so the variants of
qwen3_moe hold equal numbers. The script's head comment lists all that it asserts.

## Shapes

{chr(10).join(shapes)}

`max_position_embeddings` is 512. Parameter dtype by directory:

{chr(10).join(sizes)}

* `qwen3_moe`: one `model.safetensors`, published per-expert names.
* `qwen3_moe_f32_sharded`: three shards and `model.safetensors.index.json`.
* `qwen3_moe_f16`: `config.json` in the spelling of transformers 4 (`torch_dtype`,
  `num_experts`, top-level `rope_theta`, `rope_scaling` null); the others are as transformers 5
  writes them (`dtype`, `num_local_experts`, `rope_parameters`).
* `qwen3_moe_fused`: experts as `mlp.experts.gate_up_proj` [E, 2I, H] (gate rows first) and
  `mlp.experts.down_proj` [E, H, I], no `.weight` suffix.
* `mixtral`: `block_sparse_moe` names; experts wider than 512.
* `olmoe`: clip_qkv changes {clip_text} elements in prompt 2.

`generation_config.json` of qwen3_moe lists two end-of-sequence ids, the others have one.

## Expected data

`expected/<family>/`, computed by transformers in float32 with the eager attention and the
eager experts, from the weights above; i is the prompt, 0 to 2.

* `ids.json`: three prompts of {', '.join(map(str, PROMPT_LENGTHS))} token ids.
* `logits_i.npy`: float32 [tokens, vocab], one row per prompt token.
* `greedy_i.json`: the {GREEDY_TOKENS} greedy tokens that follow the prompt; no end-of-sequence
  id is among them.
* `bf16.json`: what rounding to bfloat16 does to the logits of each prompt, as a standard
  deviation relative to the largest |logit|: each operand of a matrix product (normed x, q, k, P,
  v, attention output, h, in each layer, and the last normed x: `sites` in all) is rounded alone
  in an otherwise float32 run with the same experts chosen; the squares of what they do to a row
  of logits are added up, the worst row counts.
* `routes_i.json`: `{{"version": 1, "top_k": K, "layers": [{{"layer": l, "experts": [...]}}]}}`;
  per MoE layer one list per prompt token with the K experts in order of falling router
  probability.

Compare logits with a tolerance of {TOLERANCE:g} x the largest |logit|. Greedy tokens and routes
must match exactly in float32. The smallest gaps, over prompts and greedy tokens, are given
relative to the largest |logit| of the sequence, and to the larger of two neighbouring router
probabilities among the best K+1. Float32 noise is the largest difference from a float64 run,
relative to the largest |logit|.

To run these checkpoints in transformers pass `experts_implementation="eager"`: the grouped
matrix product it takes by default refuses rows that are not a multiple of 16 bytes.

{chr(10).join(facts)}

How far mistakes move the logits of prompt 2, relative to the largest |logit|:

{chr(10).join(moved)}
"""
    (out / "README.md").write_text(text)


# ---------------------------------------------------------------------------------------------


def search(family, limit):
    for seed in range(1, limit + 1):
        try:
            compute(family, seed)
        except Unmet as why:
            print(f"{family}: seed {seed}: {why}", flush=True)
            continue
        print(f"{family}: seed {seed} is good", flush=True)
        return
    sys.exit(f"{family}: no seed up to {limit} is good")


def generate(out):
    results = {}
    for family in FAMILIES:
        try:
            results[family] = compute(family, SEEDS[family])
        except Unmet as why:
            sys.exit(f"{family}: seed {SEEDS[family]}: {why} (find another with --search)")
    # Everything goes to a temporary place first, so a failure leaves the old data alone.
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        new = Path(temporary)
        for family, data in results.items():
            for name, dtype in VARIANTS[family].items():
                save_variant(data["model"], new / name, dtype)
            save_expected(data, new / "expected" / family)
            print("\n".join(verify(family, data, new)), flush=True)
        readme(new, results)
        for path in sorted(new.iterdir()):
            target = out / path.name
            if target.is_dir():
                shutil.rmtree(target)
            shutil.move(path, target)
    print(f"{out}: {size_of(out)} bytes")


def main():
    parser = argparse.ArgumentParser(
        description="Make the tiny test checkpoints and their expected outputs.",
        epilog="The head comment of the script describes what it makes and guarantees.",
    )
    default = Path(__file__).resolve().parent.parent / "tests" / "data" / "tiny"
    parser.add_argument(
        "--out", type=Path, default=default, help="where to write (default: tests/data/tiny)"
    )
    parser.add_argument(
        "--search", metavar="FAMILY", nargs="+", choices=FAMILIES,
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
            search(family, args.limit)
    else:
        generate(args.out)


if __name__ == "__main__":
    main()
