"""Relevance of tokens for next tokens: sweeps against models that are patched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr as fa

from .harness import Case, Record, Setting, check, interleaved, ratios, seconds, statistics

LAYERS, DIM, HEADS, HIDDEN, VOCAB, TOKENS = 6, 256, 8, 688, 1000, 128
TOLERANCE = 1e-4  # of the norm
COMPOSITES = {"attn": fa.composites.attn_lrp, "cp": fa.composites.cp_lrp}


class Share(torch.autograd.Function):
    """A tensor whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, part: float) -> Tensor:
        ctx.part = part
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g * ctx.part, None


class Identity(torch.autograd.Function):
    """SiLU, through which relevance passes as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = F.silu(x)
        ctx.save_for_backward(out / (x + 1e-10))
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0]


class Block(nn.Module):
    """Of Llama. ``how`` is None for the model itself, else whose patches it has, as lxt's."""

    how: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ParameterList(torch.ones(DIM) for _ in range(2))
        for name in ("q", "k", "v", "o"):
            self.add_module(name, nn.Linear(DIM, DIM, bias=False))
        self.gate, self.up = (nn.Linear(DIM, HIDDEN, bias=False) for _ in range(2))
        self.down = nn.Linear(HIDDEN, DIM, bias=False)

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return weight * (x * (scale if self.how is None else scale.detach()))

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).view(*x.shape[:2], HEADS, -1).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        if self.how == "attn":
            q, k, v = Share.apply(q, 0.25), Share.apply(k, 0.25), Share.apply(v, 0.5)
        elif self.how == "cp":
            q, k = q.detach(), k.detach()
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(out.transpose(1, 2).reshape(x.shape))

    def feed(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        if self.how == "attn":
            return self.down(Share.apply(Identity.apply(gate) * self.up(x), 0.5))
        gate = gate.detach() if self.how == "cp" else gate
        return self.down(F.silu(gate) * self.up(x))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm(x, self.norms[0]))
        return x + self.feed(self.norm(x, self.norms[1]))


class Llama(nn.Module):
    """Embeddings ``[B, N, D]`` to the logits of the next token ``[B, V]``."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.head = nn.Linear(DIM, VOCAB, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x)[:, -1])


def patched(model: nn.Module, x: Tensor, how: str, once: bool, targets: Sequence[int]) -> Tensor:
    """Maps by a patched model: a forward and backward pass per target, or one forward pass."""
    leaf, maps = x.clone().requires_grad_(), []
    for block in model.blocks:
        block.how = how
    try:
        out = model(leaf) if once else torch.empty(0)
        for t in targets:
            here = out if once else model(leaf)
            (g,) = torch.autograd.grad(here[:, t].sum(), leaf, retain_graph=once)
            maps.append(g * x)
    finally:
        for block in model.blocks:
            block.how = None
    return torch.stack(maps)


def floor(model: nn.Module, targets: int) -> Callable[[], None]:
    """What AttnLRP of this model cannot do without: products with weights, the kernel's derivative.

    Of as many cotangents as a sweep has at once, each call into memory that is there.
    """
    g = {n: torch.randn(CHUNK * TOKENS, n) for n in (DIM, HIDDEN)}
    out = {n: torch.empty_like(t) for n, t in g.items()}
    weights = [m.weight.detach() for m in model.blocks.modules() if isinstance(m, nn.Linear)]
    qkv = [torch.randn(1, HEADS, TOKENS, DIM // HEADS, requires_grad=True) for _ in range(3)]
    attended = F.scaled_dot_product_attention(*qkv, is_causal=True)
    seed = torch.randn_like(attended)

    def run() -> None:
        for _ in range(targets // CHUNK):
            for weight in weights:
                torch.mm(g[weight.shape[0]], weight, out=out[weight.shape[1]])
        for _ in range(targets * LAYERS):
            torch.autograd.grad(attended, qkv, seed, retain_graph=True)

    return run


def sweep(how: str, targets: int, setting: Setting) -> Record:
    """Times our sweep, a patched model with one forward pass, and its loop."""
    torch.manual_seed(0)
    model = Llama().requires_grad_(False).to(setting.device).eval()
    x = torch.randn(1, TOKENS, DIM, device=setting.device)
    attr = fa.lrp(model, COMPOSITES[how]())
    every = range(targets)
    ways: dict[str, Callable[[], Tensor | None]] = {
        "ours": lambda: fa.sweep(attr, x, targets=every, chunk_size=CHUNK),
        "gradient": lambda: fa.sweep(fa.gradient(model), x, targets=every, chunk_size=CHUNK),
        "patched, once": partial(patched, model, x, how, True, every),
        "patched, loop": partial(patched, model, x, how, False, every),
    }
    maps = {way: run() for way, run in ways.items() if way != "gradient"}
    if how == "attn" and setting.device == "cpu":
        ways["floor"] = floor(model, targets)
        ways["floor"]()
    checked = check(maps, maps["patched, loop"], TOLERANCE)
    ways["gradient"]()
    samples = interleaved(
        {way: partial(seconds, run) for way, run in ways.items()}, setting, allowed=40.0
    )
    pairs = [("patched, once", "ours"), ("patched, loop", "ours"), ("ours", "gradient")]
    pairs += [("patched, loop", "floor")] if "floor" in ways else []
    return {
        "network": "llama",
        "targets": targets,
        "batch": 1,
        "checked": checked,
        "seconds": statistics(samples, setting),
        "ratios": ratios(samples, pairs),
    }


CHUNK = 16  # targets at once


def cases() -> dict[str, Case]:
    """By name."""
    return {f"tokens/llama-{how}-K32": Case(partial(sweep, how, 32)) for how in COMPOSITES}
