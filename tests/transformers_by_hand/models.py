"""Small transformers of the usual kinds, each part in every spelling that people write it in."""

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

HEADS, HEAD, DIM, HIDDEN, VOCAB, LENGTH = 4, 2, 8, 10, 11, 6
EPS = 1e-5
RMS = hasattr(F, "rms_norm")
GROUPED = "enable_gqa" in (F.scaled_dot_product_attention.__doc__ or "")


@dataclass(frozen=True)
class Config:
    rms: bool = False
    gated: bool = False
    causal: bool = False
    post: bool = False
    bias: bool = True
    rotary: bool = False
    pixels: bool = False
    groups: int = HEADS  # of keys and values
    act: str = "gelu"


LLAMA = Config(rms=True, gated=True, causal=True, bias=False, rotary=True, groups=2, act="silu")
GPT2 = Config(causal=True, act="tanh")
BERT = Config(post=True)
VIT = Config(pixels=True)
CONFIGS = {"llama": LLAMA, "gpt2": GPT2, "bert": BERT, "vit": VIT}


def _written_norm(centred, divide):
    def norm(x, weight, bias, rms):
        d = x if rms else x - x.mean(-1, keepdim=True)
        y = divide(d, d.pow(2).mean(-1, keepdim=True))
        return y * weight if rms else y * weight + bias

    return norm


def _function_norm(x, weight, bias, rms):
    if rms:
        return F.rms_norm(x, (DIM,), weight, EPS)
    return F.layer_norm(x, (DIM,), weight, bias, EPS)


def _norm_by_std(x, weight, bias, rms):
    if rms:
        return NORMS["rsqrt"](x, weight, bias, rms)
    variance = x.var(-1, correction=0, keepdim=True)
    return weight * ((x - x.mean(-1, keepdim=True)) / torch.sqrt(variance + EPS)) + bias


NORMS = {
    "function": _function_norm,
    "rsqrt": _written_norm(True, lambda d, v: d * torch.rsqrt(v + EPS)),
    "sqrt": _written_norm(True, lambda d, v: d / (v + EPS).sqrt()),
    "power": _written_norm(True, lambda d, v: d * torch.pow(v + EPS, -0.5)),
    "cast": _written_norm(True, lambda d, v: d * (v + EPS).rsqrt().to(torch.float64).expand_as(d)),
    "var": _norm_by_std,
}
if not RMS:
    NORMS["function"] = NORMS["rsqrt"]


def tanh_gelu(x):
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def other_tanh_gelu(x):
    return x * 0.5 * (1 + (x * 0.7978845608028654 * (1 + 0.044715 * x * x)).tanh())


ACTIVATIONS = {
    "gelu": {
        "function": F.gelu,
        "written": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
        "module": nn.GELU(),
    },
    "tanh": {
        "function": lambda x: F.gelu(x, approximate="tanh"),
        "written": tanh_gelu,
        "module": other_tanh_gelu,
    },
    "silu": {
        "function": F.silu,
        "written": lambda x: x * torch.sigmoid(x),
        "module": nn.SiLU(),
    },
}


def _masked(scores, mask, causal):
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    return scores if mask is None else scores.masked_fill(~mask, -math.inf)


def _repeated(t):
    return t.repeat_interleave(HEADS // t.shape[1], 1)


def _sdpa(q, k, v, mask, causal):
    return F.scaled_dot_product_attention(
        q, _repeated(k), _repeated(v), attn_mask=mask, is_causal=causal
    )


def _grouped(q, k, v, mask, causal):
    if not GROUPED:
        pytest.skip("this torch has no heads in groups")
    scale = 1 / math.sqrt(HEAD)
    return F.scaled_dot_product_attention(
        q, k, v, mask, 0.0, causal, scale=scale, enable_gqa=k.shape[1] < HEADS
    )


def _matmul(q, k, v, mask, causal):
    scores = torch.matmul(q, _repeated(k).transpose(-1, -2)) * HEAD**-0.5
    weights = F.dropout(F.softmax(_masked(scores, mask, causal), dim=-1), 0.1, False)
    return torch.matmul(weights.to(v.dtype), _repeated(v))


def _einsum(q, k, v, mask, causal):
    scores = torch.einsum("bhid,bhjd->bhij", q / math.sqrt(HEAD), _repeated(k))
    weights = _masked(scores, mask, causal).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", weights, _repeated(v))


def _bmm(q, k, v, mask, causal):
    q, k, v = (t.flatten(0, 1) for t in (q, _repeated(k), _repeated(v)))
    zeros = torch.zeros(q.shape[0], q.shape[1], k.shape[1], dtype=q.dtype)
    many = None if mask is None else mask.expand(-1, HEADS, -1, -1).flatten(0, 1)
    scores = torch.baddbmm(zeros, q, k.mT, alpha=HEAD**-0.5)
    weights = torch.softmax(_masked(scores, many, causal), -1)
    return torch.bmm(weights, v).unflatten(0, (-1, HEADS))


ATTENTION = {"sdpa": _sdpa, "grouped": _grouped, "matmul": _matmul, "einsum": _einsum, "bmm": _bmm}


def turned(x):
    """Rotary positions."""
    n = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * torch.ones(HEAD, dtype=x.dtype)
    other = torch.cat((-x[..., HEAD // 2 :], x[..., : HEAD // 2]), -1)
    return x * n.cos() + other * n.sin()


class Norm(nn.Module):
    def __init__(self, rms):
        super().__init__()
        self.rms, self.spelling = rms, "function"
        self.weight = nn.Parameter(torch.ones(DIM))
        self.bias = None if rms else nn.Parameter(torch.zeros(DIM))

    def forward(self, x):
        return NORMS[self.spelling](x, self.weight, self.bias, self.rms)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.attention, self.act = config, "sdpa", "function"
        self.norm1, self.norm2 = Norm(config.rms), Norm(config.rms)
        few = config.groups * HEAD
        self.q, self.k, self.v, self.o = (
            nn.Linear(DIM, out, bias=config.bias) for out in (DIM, few, few, DIM)
        )
        self.up, self.down = (
            nn.Linear(*sizes, bias=config.bias) for sizes in ((DIM, HIDDEN), (HIDDEN, DIM))
        )
        self.gate = nn.Linear(DIM, HIDDEN, bias=config.bias) if config.gated else None

    def attend(self, x, mask):
        many = (*x.shape[:2], -1, HEAD)
        q, k, v = (f(x).reshape(many).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.config.rotary:
            q, k = turned(q), turned(k)
        out = ATTENTION[self.attention](q, k, v, mask, self.config.causal)
        return self.o(out.transpose(1, 2).reshape(x.shape))

    def feed(self, x):
        act = ACTIVATIONS[self.config.act][self.act]
        if self.gate is None:
            return self.down(act(self.up(x)))
        return self.down(act(self.gate(x)) * self.up(x))

    def forward(self, x, mask):
        if self.config.post:
            x = self.norm1(x + self.attend(x, mask))
            return self.norm2(x + self.feed(x))
        x = x + self.attend(self.norm1(x), mask)
        return x + self.feed(self.norm2(x))


class Model(nn.Module):
    """Of ids ``[B, N]``, embeddings ``[B, N, D]`` or pixels ``[B, 2, 4, 4]``: logits."""

    def __init__(self, config, layers=2):
        super().__init__()
        self.config = config
        if config.pixels:
            self.patches = nn.Conv2d(2, DIM, 2, 2)
            self.first = nn.Parameter(torch.zeros(1, 1, DIM))
        else:
            self.tokens = nn.Embedding(VOCAB, DIM)
        self.positions = None if config.rotary else nn.Parameter(torch.zeros(LENGTH, DIM))
        self.blocks = nn.ModuleList(Block(config) for _ in range(layers))
        self.norm = Norm(config.rms)
        self.head = nn.Linear(DIM, VOCAB, bias=config.bias)

    def start(self, x):
        if self.config.pixels:
            x = self.patches(x).flatten(2).mT
            x = torch.cat((self.first.expand(len(x), -1, -1), x), 1)
        elif not x.is_floating_point():
            x = self.tokens(x)
        return x if self.positions is None else x + self.positions[: x.shape[1]]

    def forward(self, x, mask=None):
        x = self.start(x)
        mask = None if mask is None else mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))

    def spelled(self, norm="function", attention="sdpa", act="function"):
        for m in self.modules():
            if isinstance(m, Norm):
                m.spelling = norm
            if isinstance(m, Block):
                m.attention, m.act = attention, act
        return self


def model(config, seed=0, layers=2):
    made = Model(config, layers).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in made.named_parameters():
            drawn = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            gain = "norm" in name and "weight" in name
            p.copy_(1 + 0.3 * drawn if gain else 0.5 * drawn)
    return made


def example(config, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 2, 4, 4) if config.pixels else (batch, 5, DIM)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
PADDING = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
