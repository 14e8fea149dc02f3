"""The forward pass once more, in plain PyTorch, for every family.

transformers is the reference; this is the tool to ask it "what if": a run in float64, a run with
one operand rounded to bfloat16, a run with a deliberate mistake. reference.py checks that an
unchanged run equals transformers.

Latent attention is computed in its absorbed form (the latents serve as keys and values), as the
runtime does, so that the operands which a runtime rounds exist here too.
"""

import math

import torch
from torch.nn.functional import silu

EVERY = "every site"


class Run:
    """One forward pass over one sequence.

    site: (layer, operand) to be rounded to bfloat16, EVERY of them, or None. stretch: what is
    rounded is multiplied by that before and divided after, which draws other rounding errors of
    the same size. routes: {layer: experts [T, K]} to be used instead of the router's choice.

    Afterwards: logits [T, V], routes, gaps {layer: distance of the worst chosen from the best not
    chosen, the smallest over the tokens}, sites, clipped {what: share that was clamped, by layer}.
    """

    def __init__(self, spec, weights, ids, site=None, routes=None, stretch=1.0):
        self.spec, self.site, self.given, self.stretch = spec, site, routes, stretch
        self.sites, self.routes, self.gaps, self.clipped = [], {}, {}, {}
        self.layer = None
        self.positions = torch.arange(len(ids))
        x = weights.embed[torch.tensor(ids)]
        for index, layer in enumerate(weights.layers):
            self.layer = index
            xn = self.operand("attention x", self.norm(x, layer["input_layernorm"]))
            x = x + self.attention(layer, xn)
            xn = self.operand("ffn x", self.norm(x, layer["post_attention_layernorm"]))
            x = x + self.ffn(layer, xn)
        self.layer = None
        last = self.operand("last x", self.norm(x, weights.norm))
        self.logits = last @ weights.head.T

    def operand(self, name, x):
        at = (self.layer, name)
        self.sites.append(at)
        if self.site != EVERY and at != self.site:
            return x
        return (x * self.stretch).bfloat16().to(x.dtype) / self.stretch

    def norm(self, x, weight, eps=None):
        mean = x.square().mean(-1, keepdim=True)
        return x * torch.rsqrt(mean + (self.spec.eps if eps is None else eps)) * weight

    # Attention. Shapes: x [T, H]; q [T, A, D]; scores [A, T, T].

    def attention(self, w, x):
        if "attention" in self.spec.off:
            return torch.zeros_like(x)
        heads = self.latent(w, x) if self.spec.latent else self.grouped(w, x)
        out = self.operand("attention output", heads) @ w["self_attn.o_proj"].T
        return out + w["self_attn.o_proj.bias"] if self.spec.o_bias else out

    def projected(self, w, x, part, n_heads):
        s = self.spec
        y = x @ w[f"self_attn.{part}_proj"].T
        if s.qkv_bias:
            y = y + w[f"self_attn.{part}_proj.bias"]
        if part != "v" and s.qk_norm == "vector":
            y = self.norm(y, w[f"self_attn.{part}_norm"])
        y = y.view(len(x), n_heads, s.head_dim)
        if part != "v" and s.qk_norm == "head":
            y = self.norm(y, w[f"self_attn.{part}_norm"])
        if s.clip:
            self.clipped.setdefault(part, []).append((y.abs() > s.clip).float().mean().item())
            y = y.clamp(-s.clip, s.clip)
        return y

    def grouped(self, w, x):
        s = self.spec
        q = self.rotate(self.projected(w, x, "q", s.heads))
        k = self.rotate(self.projected(w, x, "k", s.kv_heads))
        q, k = self.operand("q", self.tempered(q)), self.operand("k", k)
        v = self.operand("v", self.projected(w, x, "v", s.kv_heads))
        repeat = s.heads // s.kv_heads
        k, v = (t.repeat_interleave(repeat, dim=1) for t in (k, v))
        p = self.probabilities(w, torch.einsum("tad,sad->ats", q, k))
        return torch.einsum("ats,sad->tad", p, v).flatten(1)

    def latent(self, w, x):
        s, m = self.spec, self.spec.latent
        q_in, q_weight = x, w.get("self_attn.q_proj")
        if m.q_rank:
            q_in = x @ w["self_attn.q_a_proj"].T
            q_in = self.latent_norm(q_in, w["self_attn.q_a_layernorm"])
            q_in, q_weight = self.operand("q latent", q_in), w["self_attn.q_b_proj"]
        q = (q_in @ q_weight.T).view(len(x), s.heads, m.nope + m.rope)
        q_nope, q_rope = q.split([m.nope, m.rope], dim=-1)
        latent, k_rope = (x @ w["self_attn.kv_a_proj_with_mqa"].T).split([m.rank, m.rope], -1)
        latent = self.latent_norm(latent, w["self_attn.kv_a_layernorm"])
        latent = self.operand("kv latent", latent)
        k_rope = self.operand("k rope", self.rotate(k_rope[:, None])[:, 0])
        q_nope = self.operand("q nope", self.tempered(q_nope))
        q_rope = self.operand("q rope", self.tempered(self.rotate(q_rope)))

        up = w["self_attn.kv_b_proj"].view(s.heads, m.nope + m.value, m.rank)
        k_up, v_up = up.split([m.nope, m.value], dim=1)
        q_latent = self.operand("q of the latent", torch.einsum("tan,anc->tac", q_nope, k_up))
        scores = torch.einsum("tac,sc->ats", q_latent, latent)
        scores = scores + torch.einsum("tar,sr->ats", q_rope, k_rope)
        p = self.probabilities(w, scores)
        o = self.operand("o of the latent", torch.einsum("ats,sc->tac", p, latent))
        return torch.einsum("tac,avc->tav", o, v_up).flatten(1)

    def latent_norm(self, x, weight):
        return self.norm(x, weight, self.spec.latent.eps) if self.spec.latent.normed else x

    def rotate(self, x):
        """The leading dim values of each head turn; cos and sin carry the attention factor."""
        rope = self.spec.rope
        angle = self.positions[:, None] * rope.frequencies()
        cos = (angle.cos() * rope.attention_factor).to(x.dtype)[:, None]
        sin = (angle.sin() * rope.attention_factor).to(x.dtype)[:, None]
        turning, rest = x[..., : rope.dim], x[..., rope.dim :]
        if rope.interleaved:
            a, b = turning[..., 0::2], turning[..., 1::2]
        else:
            a, b = turning.chunk(2, dim=-1)
        a, b = a * cos - b * sin, b * cos + a * sin
        if rope.interleaved:
            turned = torch.stack((a, b), dim=-1).flatten(-2)
        else:
            turned = torch.cat((a, b), dim=-1)
        return torch.cat((turned, rest), dim=-1)

    def tempered(self, q):
        if not self.spec.temperature:
            return q
        beta, positions = self.spec.temperature
        steps = torch.floor((self.positions + self.spec.position_shift) / positions)
        return q * (1 + beta * torch.log(1 + steps)).to(q.dtype)[:, None, None]

    def probabilities(self, w, scores):
        s = self.spec
        behind = self.positions[:, None] - self.positions[None, :]
        unseen = behind < 0
        if s.windows[self.layer]:
            unseen = unseen | (behind >= s.windows[self.layer])
        scores = (scores * s.scale).masked_fill(unseen, -math.inf)
        if s.sinks:
            column = w["self_attn.sinks"][:, None, None].expand(-1, len(scores[0]), 1)
            scores = torch.cat((scores, column), dim=-1)
        p = scores.softmax(-1)
        return self.operand("P", p[..., :-1] if s.sinks else p)

    # Feed-forward part. x [T, H].

    def ffn(self, w, x):
        if self.layer in self.spec.dense:
            if "dense" in self.spec.off:
                return torch.zeros_like(x)
            return self.mlp(w, "mlp", "h", x)
        out = self.routed(w, x)
        if "mlp.shared_experts.gate_proj" in w and "shared" not in self.spec.off:
            out = out + self.mlp(w, "mlp.shared_experts", "shared h", x)
        return out

    def mlp(self, w, stem, site, x):
        h = silu(x @ w[f"{stem}.gate_proj"].T) * (x @ w[f"{stem}.up_proj"].T)
        return self.operand(site, h) @ w[f"{stem}.down_proj"].T

    def routed(self, w, x):
        chosen, weights = self.route(w, x)
        s = self.spec
        gate = torch.einsum("th,tkih->tki", x, w["experts.gate"][chosen])
        up = torch.einsum("th,tkih->tki", x, w["experts.up"][chosen])
        if s.expert_bias:
            gate, up = gate + w["experts.gate_bias"][chosen], up + w["experts.up_bias"][chosen]
        h = self.operand("h", self.activation(gate, up))
        y = torch.einsum("tki,tkhi->tkh", h, w["experts.down"][chosen])
        if s.expert_bias:
            y = y + w["experts.down_bias"][chosen]
        y = (y * weights[..., None]).sum(1)
        return torch.zeros_like(y) if "routed" in s.off else y

    def activation(self, gate, up):
        if not self.spec.clamp:
            return silu(gate) * up
        alpha, limit = self.spec.clamp
        share = ((gate > limit) | (up.abs() > limit)).float().mean().item()
        self.clipped.setdefault("gate and up", []).append(share)
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        one = 0 if "plus one" in self.spec.off else 1
        return (up + one) * gate * torch.sigmoid(alpha * gate)

    def route(self, w, x):
        """Experts [T, K] in falling order of what chose them, and their weights."""
        s = self.spec
        logits = x @ w["mlp.gate"].T
        if s.router_bias:
            logits = logits + w["mlp.gate.bias"]
        score = {
            "softmax": lambda: logits.softmax(-1),
            "sigmoid": logits.sigmoid,
            "chosen": lambda: logits,
        }[s.score]()
        choice = score + w["mlp.gate.e_score_correction_bias"] if s.choice_bias else score
        gap = math.inf
        if s.groups > 1:
            choice, gap = self.within_groups(choice)
        best = choice.sort(dim=-1, descending=True, stable=True)
        chosen = best.indices[:, : s.top_k]
        edge = best.values[:, s.top_k - 1] - best.values[:, min(s.top_k, s.experts - 1)]
        if s.score == "softmax":
            edge = edge / best.values[:, s.top_k - 1]
        self.gaps[self.layer] = min(gap, edge.min().item())
        if self.given is not None:
            chosen = self.given[self.layer]
        self.routes[self.layer] = chosen
        weights = (choice if s.bias_in_weights else score).gather(-1, chosen)
        if s.score == "chosen":
            weights = weights.softmax(-1)
        if s.renorm:
            weights = weights / (weights.sum(-1, keepdim=True) + s.renorm_eps)
        return chosen, weights * s.routed_scale

    def within_groups(self, choice):
        s = self.spec
        parts = choice.view(len(choice), s.groups, -1)
        if s.group_score == "top2":
            group = parts.topk(2, dim=-1).values.sum(-1)
        else:
            group = parts.max(-1).values
        best = group.sort(dim=-1, descending=True, stable=True)
        gap = (best.values[:, s.groups_kept - 1] - best.values[:, s.groups_kept]).min().item()
        kept = torch.zeros_like(group, dtype=torch.bool)
        kept.scatter_(1, best.indices[:, : s.groups_kept], True)
        return parts.masked_fill(~kept[..., None], s.masked_score).flatten(1), gap


@torch.no_grad()
def run(*args, **options):
    return Run(*args, **options)
