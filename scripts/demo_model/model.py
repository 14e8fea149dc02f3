"""A compact Qwen3-MoE for training on a CPU, and its export to Hugging Face files.

The arithmetic is the published model's (RMS norm, per-head query/key norm, rotary
embedding, grouped-query attention, softmax router with renormalised top-k); only
the layout differs: experts are stacked in one tensor, tokens are sorted by expert,
and every expert multiplies its run of tokens once.  Master weights are float32,
matrix products run in bfloat16.
"""
import json
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "decoder_sparse_step": 1,
    "eos_token_id": 3071,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 160,
    "initializer_range": 0.02,
    "intermediate_size": 480,
    "max_position_embeddings": 1024,
    "mlp_only_layers": [],
    "moe_intermediate_size": 96,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "output_router_logits": False,
    "pad_token_id": None,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "router_aux_loss_coef": 0.01,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 3072,
}


class Experts(torch.autograd.Function):
    """sum over the chosen experts of weight * down(silu(gate x) * up x)."""

    @staticmethod
    def forward(ctx, x, weight, chosen, gate_up, down):
        tokens, k = chosen.shape
        flat = chosen.reshape(-1)
        order = torch.argsort(flat)
        counts = torch.bincount(flat, minlength=gate_up.shape[0])
        # Runs are padded with zero rows to multiples of 64, so that matrix shapes
        # repeat and the library's compiled kernels are reused.
        padded = (counts + 63) // 64 * 64
        first, ends = padded.cumsum(0) - padded, padded.cumsum(0).tolist()
        place = torch.arange(flat.numel()) + (first - (counts.cumsum(0) - counts))[flat[order]]
        slot = torch.full((ends[-1],), flat.numel())
        slot[place] = order
        back = torch.empty_like(order)
        back[order] = place
        runs = [(e, s, t) for e, (s, t) in enumerate(zip([0] + ends[:-1], ends)) if t > s]
        width = down.shape[1]
        source = slot // k                        # a padding slot reads the appended zero row
        xs = torch.cat((x, x.new_zeros(1, x.shape[1]))).index_select(0, source)
        ws = torch.cat((weight.reshape(-1), weight.new_zeros(1))).index_select(0, slot).to(x.dtype).unsqueeze(1)
        gu = x.new_empty(slot.numel(), 2 * width)
        for e, s, t in runs:
            torch.mm(xs[s:t], gate_up[e], out=gu[s:t])
        h = F.silu(gu[:, :width]) * gu[:, width:]
        hw = h * ws
        ys = x.new_empty(slot.numel(), x.shape[1])
        for e, s, t in runs:
            torch.mm(hw[s:t], down[e], out=ys[s:t])
        ctx.save_for_backward(xs, ws, gu, gate_up, down, source, back)
        ctx.runs, ctx.k = runs, k
        return ys.index_select(0, back).view(tokens, k, -1).sum(1)

    @staticmethod
    def backward(ctx, dy):
        xs, ws, gu, gate_up, down, source, back = ctx.saved_tensors
        width, k = down.shape[1], ctx.k
        gate, up = gu[:, :width], gu[:, width:]
        sig = torch.sigmoid(gate)
        act = gate * sig
        h = act * up
        hw = h * ws
        dys = torch.cat((dy.to(xs.dtype), xs.new_zeros(1, xs.shape[1]))).index_select(0, source)
        dhw = torch.empty_like(h)
        d_down = torch.zeros_like(down)
        for e, s, t in ctx.runs:
            torch.mm(dys[s:t], down[e].t(), out=dhw[s:t])
            torch.mm(hw[s:t].t(), dys[s:t], out=d_down[e])
        d_weight = (dhw * h).sum(1, dtype=torch.float32).index_select(0, back).view(-1, k)
        dh = dhw * ws
        dgu = torch.empty_like(gu)
        torch.mul(dh, act, out=dgu[:, width:])
        torch.mul(dh * up, sig + act * (1 - sig), out=dgu[:, :width])
        dxs = torch.empty_like(xs)
        d_gate_up = torch.zeros_like(gate_up)
        for e, s, t in ctx.runs:
            torch.mm(dgu[s:t], gate_up[e].t(), out=dxs[s:t])
            torch.mm(xs[s:t].t(), dgu[s:t], out=d_gate_up[e])
        dx = dxs.index_select(0, back).view(dy.shape[0], k, -1).sum(1)
        return dx, d_weight, None, d_gate_up, d_down


class Attention(torch.autograd.Function):
    """Causal attention in plain batched products: at these sizes the fastest way on a CPU."""

    @staticmethod
    def forward(ctx, q, k, v, mask):
        scores = q @ k.transpose(-1, -2)
        scores += mask
        p = torch.softmax(scores, -1)
        ctx.save_for_backward(q, k, v, p)
        return p @ v

    @staticmethod
    def backward(ctx, do):
        q, k, v, p = ctx.saved_tensors
        dv = p.transpose(-1, -2) @ do
        ds = torch._softmax_backward_data(do @ v.transpose(-1, -2), p, -1, p.dtype)
        return ds @ k, ds.transpose(-1, -2) @ q, dv, None


class TiedLoss(torch.autograd.Function):
    """Mean cross-entropy of h @ embedding^T without ever holding all logits."""

    @staticmethod
    def forward(ctx, h, embedding, targets, chunk):
        dh, de, total = torch.empty_like(h), torch.zeros(embedding.shape), 0.0
        n = h.shape[0]
        for s in range(0, n, chunk):
            part, t = h[s:s + chunk], targets[s:s + chunk, None]
            logits = (part @ embedding.t()).float()
            p = torch.log_softmax(logits, -1)
            total = total - p.gather(1, t).sum()
            p.exp_().scatter_add_(1, t, torch.full(t.shape, -1.0))
            p = p.to(h.dtype)
            torch.mm(p, embedding, out=dh[s:s + chunk])
            de += (p.t() @ part)
        ctx.save_for_backward(dh, de)
        ctx.n = n
        return total / n

    @staticmethod
    def backward(ctx, g):
        dh, de = ctx.saved_tensors
        return dh * (g / ctx.n).to(dh.dtype), (de * (g / ctx.n)).to(dh.dtype), None, None


def rms(x, weight, eps):
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, hd, w, e = c["hidden_size"], c["head_dim"], c["moe_intermediate_size"], c["num_experts"]
        self.heads, self.kv, self.hd = c["num_attention_heads"], c["num_key_value_heads"], hd
        self.k, self.eps = c["num_experts_per_tok"], c["rms_norm_eps"]
        std, out_std = 0.02, 0.02 / (2 * c["num_hidden_layers"]) ** 0.5
        self.norm1, self.norm2 = nn.Parameter(torch.ones(d)), nn.Parameter(torch.ones(d))
        self.q_norm, self.k_norm = nn.Parameter(torch.ones(hd)), nn.Parameter(torch.ones(hd))
        self.qkv = nn.Parameter(torch.randn((self.heads + 2 * self.kv) * hd, d) * std)
        self.o = nn.Parameter(torch.randn(d, self.heads * hd) * out_std)
        self.router = nn.Parameter(torch.randn(e, d) * std)
        self.gate_up = nn.Parameter(torch.randn(e, d, 2 * w) * std)      # stored input-first
        self.down = nn.Parameter(torch.randn(e, w, d) * out_std)

    def forward(self, x, cos, sin, loads):
        b, n, d = x.shape
        half = torch.bfloat16
        y = rms(x, self.norm1, self.eps).to(half)
        q, k, v = F.linear(y, self.qkv.to(half)).view(b, n, -1, self.hd).split([self.heads, self.kv, self.kv], 2)
        q, k = rms(q.float(), self.q_norm, self.eps), rms(k.float(), self.k_norm, self.eps)
        q, k = rotate(q, cos, sin).mul_(self.hd ** -0.5).to(half), rotate(k, cos, sin).to(half)
        group = self.heads // self.kv
        k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
        mask = torch.full((n, n), -30000.0, dtype=half).triu(1)
        y = Attention.apply(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)
        x = x + F.linear(y.transpose(1, 2).reshape(b, n, -1), self.o.to(half))
        y = rms(x, self.norm2, self.eps).view(-1, d)
        p = F.softmax(F.linear(y, self.router), -1)
        top, chosen = p.topk(self.k, -1)
        top = top / top.sum(-1, keepdim=True)
        y = Experts.apply(y.to(half), top, chosen, self.gate_up.to(half), self.down.to(half))
        share = torch.bincount(chosen.reshape(-1), minlength=p.shape[1]).float() / chosen.numel()
        loads.append((share, (share * p.mean(0)).sum() * p.shape[1], chosen))
        return x + y.view(b, n, d)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Model(nn.Module):
    def __init__(self, config=CONFIG):
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.randn(config["vocab_size"], config["hidden_size"]) * 0.02)
        self.norm = nn.Parameter(torch.ones(config["hidden_size"]))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        hd = config["head_dim"]
        inverse = config["rope_theta"] ** (-torch.arange(0, hd, 2).float() / hd)
        angle = torch.arange(config["max_position_embeddings"]).float()[:, None] * inverse
        self.register_buffer("cos", angle.cos()[:, None, :], persistent=False)
        self.register_buffer("sin", angle.sin()[:, None, :], persistent=False)

    def hidden(self, ids):
        n, loads = ids.shape[1], []
        x = F.embedding(ids, self.embedding)
        for layer in self.layers:
            x = layer(x, self.cos[:n], self.sin[:n], loads)
        return rms(x, self.norm, self.config["rms_norm_eps"]), loads

    def forward(self, ids):
        h, loads = self.hidden(ids)
        return h.to(torch.bfloat16) @ self.embedding.to(torch.bfloat16).t(), loads

    def loss(self, ids, targets):
        """(cross-entropy, balance loss, per-layer shares): the balance loss is 1 when even."""
        h, loads = self.hidden(ids)
        h = h.to(torch.bfloat16).view(-1, h.shape[-1])
        ce = TiedLoss.apply(h, self.embedding.to(torch.bfloat16), targets.reshape(-1), 2048)
        balance = sum(l[1] for l in loads) / len(loads)
        return ce, balance, torch.stack([l[0] for l in loads])

    def published_tensors(self):
        """The weights under the names and shapes of published Qwen3-MoE files."""
        c, half = self.config, torch.bfloat16
        out = {"model.embed_tokens.weight": self.embedding, "model.norm.weight": self.norm}
        q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
        w = c["moe_intermediate_size"]
        for i, l in enumerate(self.layers):
            p = f"model.layers.{i}."
            out[p + "input_layernorm.weight"], out[p + "post_attention_layernorm.weight"] = l.norm1, l.norm2
            out[p + "self_attn.q_norm.weight"], out[p + "self_attn.k_norm.weight"] = l.q_norm, l.k_norm
            for name, part in zip("qkv", l.qkv.split([q, kv, kv])):
                out[p + f"self_attn.{name}_proj.weight"] = part
            out[p + "self_attn.o_proj.weight"] = l.o
            out[p + "mlp.gate.weight"] = l.router
            for e in range(c["num_experts"]):
                m = p + f"mlp.experts.{e}."
                out[m + "gate_proj.weight"] = l.gate_up[e, :, :w].t()
                out[m + "up_proj.weight"] = l.gate_up[e, :, w:].t()
                out[m + "down_proj.weight"] = l.down[e].t()
        return {k: v.detach().to(half).contiguous().clone() for k, v in out.items()}


def export(model, tokenizer_dir, out):
    """Writes config.json, generation_config.json, model.safetensors and the tokenizer."""
    from safetensors.torch import save_file
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(model.config, indent=2) + "\n")
    (out / "generation_config.json").write_text(json.dumps({
        "do_sample": True, "eos_token_id": model.config["eos_token_id"],
        "pad_token_id": model.config["eos_token_id"], "temperature": 0.7, "top_p": 0.95}, indent=2) + "\n")
    save_file(model.published_tensors(), str(out / "model.safetensors"), metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_bytes((Path(tokenizer_dir) / name).read_bytes())
