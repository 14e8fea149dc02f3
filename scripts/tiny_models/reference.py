"""What transformers computes from a checkpoint, read by its own loader."""

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    Mistral4ForCausalLM,
)

from .weights import common_name

EXACT = {
    "dtype": torch.float32,
    "attn_implementation": "eager",
    "experts_implementation": "eager",
}


def model_class(config):
    return Mistral4ForCausalLM if config.model_type == "mistral4" else AutoModelForCausalLM


def fused(tensors):
    """Mistral's own tensors as mistral4 has them in memory: experts stacked, gate before up."""
    out, experts = {}, {}
    for name, tensor in tensors.items():
        name = common_name(name)
        stem, _, rest = name.partition(".mlp.experts.")
        if rest:
            number, part, _ = rest.split(".")
            experts.setdefault(stem, {})[int(number), part] = tensor
        else:
            out[name] = tensor
    for stem, parts in experts.items():
        count = 1 + max(number for number, _ in parts)
        both = [torch.cat((parts[e, "gate_proj"], parts[e, "up_proj"])) for e in range(count)]
        out[f"{stem}.mlp.experts.gate_up_proj"] = torch.stack(both)
        down = [parts[e, "down_proj"] for e in range(count)]
        out[f"{stem}.mlp.experts.down_proj"] = torch.stack(down)
    return out


def load(config, tensors, native=False):
    """The model in float32. Tensors that it has no use for must be of layers behind the last, or
    stale frequencies."""
    cls = model_class(config)
    tensors = {n: t.contiguous() for n, t in tensors.items()}
    if native:
        tensors = fused(tensors)
    with tempfile.TemporaryDirectory() as directory:
        config.save_pretrained(directory)
        save_file(tensors, Path(directory) / "model.safetensors", metadata={"format": "pt"})
        model, info = cls.from_pretrained(directory, output_loading_info=True, **EXACT)
    extra = f"layers.{config.num_hidden_layers}."
    unused = [n for n in info["unexpected_keys"] if extra not in n and "inv_freq" not in n]
    assert not unused and not info["missing_keys"] and not info["mismatched_keys"], info
    return model.eval()


def load_wrapped(text, tensors):
    """A model of text and images from the text of its config.json and the text model's tensors;
    the image part is left as it comes."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(text))
        tensors = {n: t.contiguous() for n, t in tensors.items()}
        save_file(tensors, Path(directory) / "model.safetensors", metadata={"format": "pt"})
        model, info = AutoModelForImageTextToText.from_pretrained(
            directory, output_loading_info=True, **EXACT
        )
    missing = [n for n in info["missing_keys"] if "vision" not in n and "projector" not in n]
    assert not missing and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.eval()


@torch.no_grad()
def logits(model, prompt):
    return model(torch.tensor([prompt]), use_cache=False).logits[0]


def generated(model, prompt, count):
    """Greedy tokens by the library's own cached generation."""
    ids = torch.tensor([prompt])
    plain = GenerationConfig(do_sample=False, max_new_tokens=count, pad_token_id=0)
    kept, model.generation_config = model.generation_config, plain
    out = model.generate(ids, attention_mask=torch.ones_like(ids))
    model.generation_config = kept
    return out[0, len(prompt) :].tolist()
