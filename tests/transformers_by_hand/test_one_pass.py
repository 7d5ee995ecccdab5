"""What sweeps put together, so that each target takes fewer passes: the same as map by map."""

import pytest
import torch
import torch.nn.functional as F
from conftest import SINCE_2_1
from helpers import assert_close
from torch import nn
from torch.func import vmap

import funcattr as fa
from funcattr.operations.kinds.transformer import kernel
from transformers_by_hand import models as M

COMPOSITES = {"attn": fa.composites.attn_lrp, "cp": fa.composites.cp_lrp}
A, B, C = (torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
           for i in range(3))  # fmt: skip


def swept_as_looped(attr, x, targets):
    looped = torch.stack([attr(x, target=t) for t in targets])
    for size in (None, 2):
        assert_close(fa.sweep(attr, x, targets=targets, chunk_size=size), looped, 1e-11)
    explain = attr.linearize(x)[1]
    assert_close(explain(targets[1]), looped[1], 1e-11)
    nested = torch.tensor([[t, t] for t in targets])
    assert_close(vmap(vmap(explain))(nested)[:, 1], looped, 1e-11)
    return looped


def used_again(x):
    gate = F.silu(x @ A)
    return gate * (x @ B) + gate


def written_before(x):
    gate = F.silu(x @ A)
    gate *= 2
    return gate * (x @ B)


def root_written_after(x):
    h = x @ A
    out = F.silu(h) * (x @ B)
    h.zero_()
    return out


def in_a_hurry(x):
    h = x @ A
    return (h * torch.sigmoid(1.7 * h)) * (x @ B)


GATES = {
    "a gate": lambda x: F.silu(x @ A) * (x @ B),
    "on the right": lambda x: (x @ B) * F.gelu(x @ A),
    "of two activations": lambda x: torch.tanh(x @ B) * F.gelu(x @ A),
    "of one activation": lambda x: torch.tanh(x @ B) * torch.tanh(x @ B),
    "of itself": lambda x: (x @ A) * (x @ A).clone(),
    "that broadcasts": lambda x: F.silu((x @ A).mean(-1, keepdim=True)) * (x @ B),
    "with zeros": lambda x: F.relu(x @ A) * (x @ B),
    "in place": lambda x: F.silu(x @ A).mul_(x @ B),
    "written out": in_a_hurry,
    "used again": used_again,
    "written to before": written_before,
    "whose root is written to": root_written_after,
    "by a model that writes to it": lambda x: (F.silu(x @ A) * (x @ B)).add_(x),
    "of gates": lambda x: F.silu(F.silu(x @ A) * (x @ B)) * (x @ C),
}


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("gate", GATES)
def test_gates(gate, name):
    attr = fa.lrp(lambda x: GATES[gate](x).sum(1), COMPOSITES[name]())
    maps = swept_as_looped(attr, M.example(M.BERT), [1, 5, 2])
    assert maps.abs().max() > 1e-3


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.SiLU()

    def forward(self, x):
        return (self.act(x @ A) * (x @ B)).sum(1)


@pytest.mark.parametrize("name", COMPOSITES)
def test_a_layer_between_an_activation_and_its_gate(name):
    ruled, x = fa.with_rules(Gated(), COMPOSITES[name]()), M.example(M.BERT)
    attr = fa.layer_gradient_x_activation(ruled, "act")
    maps = swept_as_looped(attr, x, [1, 5, 2])
    expected = torch.zeros_like(maps[0])
    if name == "attn":
        expected[..., 1] = (F.silu(x @ A) * (x @ B))[..., 1] / 2
    assert_close(maps[0], expected, 1e-11)


def heads(x, w):
    return (x @ w).unflatten(-1, (2, 4)).transpose(1, 2)


def attended(x, call, w=(A, B, C)):
    return call(*(heads(x, one) for one in w)).transpose(1, 2).flatten(2).sum(1)


sdpa = F.scaled_dot_product_attention
LEARNT = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
CALLS = {
    "plain": sdpa,
    "causal": lambda q, k, v: sdpa(q, k, v, is_causal=True),
    "scaled": lambda q, k, v: sdpa(q, k, v, scale=0.3),
    "by names": lambda q, k, v: sdpa(value=v, key=k, query=q),
    "one tensor": lambda q, k, v: sdpa(q, q, q),
    "a mask of numbers": lambda q, k, v: sdpa(q, k, v, LEARNT),
    "three dims": lambda q, k, v: sdpa(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)).view(
        q.shape
    ),
    "others per example": lambda q, k, v: sdpa(q, k[:1], v[:1]),
    "a constant query": lambda q, k, v: sdpa(q.detach(), k, v),
    "a constant key": lambda q, k, v: sdpa(q, k.detach(), v),
    "a constant value": lambda q, k, v: sdpa(q, k, v.detach()),
    "other lengths": lambda q, k, v: sdpa(q[:, :, :3], k, v),
}


@pytest.mark.parametrize("small", [0, 2**40])
@pytest.mark.parametrize("call", CALLS)
def test_attention(call, small, monkeypatch):
    """By a call of the kernel for each target, and by one for all."""
    monkeypatch.setattr(kernel, "SMALL", small)
    if call == "scaled" and not SINCE_2_1:
        pytest.skip("torch 2.0 has no scale of its own")
    model, x = lambda x: attended(x, CALLS[call]), M.example(M.BERT)
    methods = [fa.gradient(model), *(fa.lrp(model, make()) for make in COMPOSITES.values())]
    for attr in methods:
        swept_as_looped(attr, x, [1, 5, 2])
    both = fa.bundle(*methods)
    for maps, attr in zip(fa.sweep(both, x, targets=[1, 5]), methods):
        assert_close(maps, fa.sweep(attr, x, targets=[1, 5]), 1e-11)


@pytest.mark.parametrize("name", COMPOSITES)
def test_a_match_without_sites(name):
    """Where nothing but attention, or a gate, has a rule."""
    for model in (lambda x: attended(x, sdpa), lambda x: ((x @ A) * (x @ B)).sum(1)):
        swept_as_looped(fa.lrp(model, COMPOSITES[name]()), M.example(M.BERT), [1, 5])


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("layer", ["q", "k", "v", "o", "gate", "up", "norm2"])
def test_relevance_of_a_layer_is_that_of_the_whole_map(layer, name):
    """What else depends on the input has its part, be the input explained or not."""
    model, place = M.model(M.LLAMA), (-1, 7)
    x = model.tokens(M.IDS).detach()
    ruled = fa.with_rules(model, COMPOSITES[name]())
    alone = fa.layer_gradient_x_activation(ruled, f"blocks.0.{layer}")
    _, whole = fa.bundle(fa.lrp(model, COMPOSITES[name]()), alone)(x, target=place)
    assert_close(alone(x, target=place), whole, 1e-11)
    assert_close(alone(M.IDS, target=place), whole, 1e-11)
    assert_close(fa.sweep(alone, x, targets=[place, (-1, 2)])[0], whole, 1e-11)
