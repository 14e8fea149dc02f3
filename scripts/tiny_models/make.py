"""Puts the parts together: one family after the other into an output directory."""

import importlib.metadata
import sys

import torch

from . import (
    expected,
    families,
    formula,
    measure,
    published,
    quantised,
    readme,
    reference,
    stored,
    tensors,
)
from .spec import spec_of
from .weights import Weights

SEEDED_LENGTHS, SEEDED_TOKENS = (12, 140), 24
STORED_LENGTHS, STORED_TOKENS = (5, 70, 130), 32


def all_families():
    return [*stored.FAMILIES, *families.FAMILIES, *quantised.VARIANTS]


def id_set(ids):
    return set(ids if isinstance(ids, list) else [ids])


def compute_stored(name, seed):
    model = stored.build(name, seed)
    spec = spec_of(model.config)
    weights = Weights(model.state_dict(), spec)
    ends = id_set(stored.FAMILIES[name][2])
    data = expected.compute(lambda: model, spec, weights, seed, ends, STORED_LENGTHS, STORED_TOKENS)
    return model, data


def compute_seeded(name, seed, entries):
    family = families.FAMILIES[name]
    config = family.make_config()
    spec = spec_of(config)
    values = {e["name"]: torch.from_numpy(formula.values(e, seed)) for e in entries}
    return expected.compute(
        lambda: reference.load(config, values, family.native),
        spec,
        Weights(values, spec),
        seed,
        id_set(config.eos_token_id),
        SEEDED_LENGTHS,
        SEEDED_TOKENS,
    )


def generation_config(config):
    return {
        "bos_token_id": config.bos_token_id,
        "do_sample": False,
        "eos_token_id": config.eos_token_id,
        "transformers_version": "5.24.0",
    }


def write_configs(name, config, text, directory):
    """The files beside tensors.json."""
    text["dtype"] = "bfloat16"
    if name == "mistral_large_3":
        expected.write_json(directory / "params.json", published.params_json(text), indent=2)
        return
    old = published.PUBLISHED[name](text)
    assert published.same_model(old, config) and published.same_model(text, config)
    if name == "kimi_k2":  # transformers has no model of that name, so it writes none
        text, old = old, None
    expected.write_json(directory / "config.json", text, indent=2)
    if old:
        expected.write_json(directory / "config_v4.json", old, indent=2)
    expected.write_json(directory / "generation_config.json", generation_config(config), indent=2)


def write_wrapped_kimi(entries, seed, text_config, data, directory):
    """Kimi K2.5: the tensors of kimi_k2 behind a prefix, with some of an image part."""
    directory.mkdir()
    prefix = "language_model."
    entries = [e | {"name": prefix + e["name"]} for e in entries]
    for name, shape in {
        "mm_projector.pre_norm.weight": (8,),
        "mm_projector.proj.0.weight": (8, 8),
        "vision_tower.encoder.blocks.0.wqkv.weight": (24, 8),
        "vision_tower.encoder.blocks.0.mlp.fc0.weight": (8, 8),
    }.items():
        entries.append(formula.tensor(name, shape, 9))
    (directory / "tensors.json").write_text(formula.table(entries, seed, unhashed_prefix=prefix))
    text = published.kimi_k25(text_config)
    expected.write_json(directory / "config.json", text, indent=2)
    values = {e["name"]: torch.from_numpy(formula.values(e, seed, prefix)) for e in entries}
    ends = {k: text_config[k] for k in ("bos_token_id", "eos_token_id")}
    expected.write_json(directory / "generation_config.json", ends, indent=2)
    text_part = {n: t for n, t in values.items() if n.startswith(prefix)}
    theirs = reference.logits(reference.load_wrapped(text, text_part), data.prompts[0])
    off = ((theirs - data.logits[0]).abs().max() / theirs.abs().max()).item()
    assert off < measure.TOLERANCE / 10, f"kimi_k25 is off by {off:.1e}"


def make_seeded(name, out):
    family = families.FAMILIES[name]
    text, entries = tensors.checkpoint(name)
    data = compute_seeded(name, family.seed, entries)
    directory = out / name
    directory.mkdir()
    stem = "consolidated" if family.native else "model"
    (directory / "tensors.json").write_text(formula.table(entries, family.seed, stem))
    config = family.make_config()
    write_configs(name, config, text, directory)
    if name == "kimi_k2":
        text_config = published.PUBLISHED[name](text)
        write_wrapped_kimi(entries, family.seed, text_config, data, out / "kimi_k25")
    expected.save(data, out / "expected" / name)
    return data


def make_stored(name, out):
    model, data = compute_stored(name, stored.SEEDS[name])
    for variant, dtype in stored.VARIANTS[name].items():
        stored.save_variant(model, out / variant, dtype)
    expected.save(data, out / "expected" / name)
    print("\n".join(stored.verify(name, data, out, measure.TOLERANCE)), flush=True)
    return data


def everything(out):
    results = {}
    for name in all_families():
        step = make_seeded if name in families.FAMILIES else make_stored
        step = quantised.make if name in quantised.VARIANTS else step
        try:
            results[name] = step(name, out)
        except measure.Unmet as why:
            sys.exit(f"{name}: {why} (find another seed with --search)")
        print(f"{name}: done, forward.py is off by {results[name].facts['off']:.1e}", flush=True)
    readme.write(out, results, importlib.metadata.version("compressed-tensors"))


def attempt(name):
    """A function of the seed that raises Unmet where it will not do."""
    if name in quantised.VARIANTS:
        prepared = quantised.prepare(name)
        return lambda seed: quantised.compute(name, seed, prepared)
    if name in families.FAMILIES:
        _, entries = tensors.checkpoint(name)
        return lambda seed: compute_seeded(name, seed, entries)
    return lambda seed: compute_stored(name, seed)


def search(name, limit):
    once = attempt(name)
    for seed in range(1, limit + 1):
        try:
            once(seed)
        except measure.Unmet as why:
            print(f"{name}: seed {seed}: {why}", flush=True)
            continue
        print(f"{name}: seed {seed} is good", flush=True)
        return
    sys.exit(f"{name}: no seed up to {limit} is good")
