"""The expected data of a family: computed once here, written as the files that tests read."""

import dataclasses
import json

import numpy as np

from . import measure, reference


def write_json(path, value, indent=None):
    separators = None if indent else (",", ":")
    path.write_text(json.dumps(value, indent=indent, separators=separators) + "\n")


def draw_prompts(vocab, ends, seed, lengths):
    draw = np.random.RandomState(100000 + seed)
    allowed = np.array([t for t in range(vocab) if t not in ends])
    return [[int(t) for t in draw.choice(allowed, size=n)] for n in lengths]


def kept_rows(length):
    """Rows of logits that are stored: all of a short prompt; of a long one those around the
    borders of 64-token pages, one between, and the last four."""
    if length <= 12:
        return list(range(length))
    near = [r for r in (0, 63, 64, 100, 127, 128) if r < length]
    return sorted(set(near) | set(range(length - 4, length)))


@dataclasses.dataclass
class Expected:
    spec: object
    prompts: list
    rows: list  # of each prompt: the rows of logits that are stored
    logits: list  # all rows
    tokens: list  # greedy, per prompt
    routes: list  # per prompt {layer: experts [T, K]}
    facts: dict


def compute(model, spec, weights, seed, ends, lengths, count):
    """Surveys the model (raises measure.Unmet), then asks transformers. model: a function that
    makes it, called only once the survey is good."""
    prompts = draw_prompts(spec.vocab, ends, seed, lengths)
    rows = [kept_rows(len(p)) for p in prompts]
    tokens, runs, facts = measure.survey(spec, weights, prompts, rows, count, ends)
    model = model()
    logits, off = [], 0.0
    for prompt, wanted, mine in zip(prompts, tokens, runs):
        theirs = reference.logits(model, prompt)
        off = max(off, ((theirs - mine.logits).abs().max() / theirs.abs().max()).item())
        assert off < measure.TOLERANCE / 5, f"the forward pass of forward.py is off by {off:.1e}"
        assert reference.generated(model, prompt, count) == wanted, "greedy tokens differ"
        logits.append(theirs)
    facts["off"] = off
    facts["hidden"] = weights.embed.shape[1]
    facts["expert width"] = weights.layers[-1]["experts.down"].shape[2]
    return Expected(spec, prompts, rows, logits, tokens, [r.routes for r in runs], facts)


def save(data, directory):
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "ids.json", data.prompts)
    write_json(directory / "rows.json", data.rows)
    write_json(
        directory / "bf16.json",
        {
            "version": 1,
            "sites": data.facts["bf16 sites"][0],
            "deviation": data.facts["bf16"],
            "rms": data.facts["bf16 rms"],
        },
        indent=2,
    )
    for i, rows in enumerate(data.rows):
        np.save(directory / f"logits_{i}.npy", data.logits[i][rows].numpy().astype("<f4"))
        write_json(directory / f"greedy_{i}.json", data.tokens[i])
        layers = [
            {"layer": layer, "experts": chosen.tolist()} for layer, chosen in data.routes[i].items()
        ]
        write_json(
            directory / f"routes_{i}.json",
            {"version": 1, "top_k": data.spec.top_k, "layers": layers},
        )
