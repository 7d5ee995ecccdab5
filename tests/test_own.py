"""Cotangents are overwritten where nobody else holds them, and only there."""

import numpy as np
import pytest
import torch
from torch import nn

import funcattr as fa
from funcattr import _own
from funcattr._site import Activation

pytestmark = pytest.mark.skipif(
    not hasattr(torch.Tensor, "_use_count"), reason="this torch does not tell the counts"
)
KEPT: list = []


class Sees(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, seen):
        ctx.seen = seen
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        ctx.seen.append(_own.memory(g) is not None)
        return g, None


class Returns(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, g):
        ctx.g = g
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return ctx.g(), None


def hooked(keep):
    def f(see, x):
        out = see(x)
        out.register_hook(lambda g: KEPT.append(keep(g)))
        return out * 2

    return f


HELD = torch.ones(2, 4)
ARRAY = np.ones((2, 4), np.float32)
CASES = {
    "fresh": (True, lambda see, x: see(x) * 2),
    "a view of what is fresh": (True, lambda see, x: see(x).flatten() * 2),
    "the sum of two": (True, lambda see, x: (lambda h: h * 2 + h * 3)(see(x))),
    "both of a sum": (False, lambda see, x: see(x) + see(2 * x)),
    "the caller's": (False, lambda see, x: see(x)),
    "a hook's": (False, hooked(lambda g: g)),
    "a view of a hook's": (False, hooked(lambda g: g[0])),
    "expanded": (False, lambda see, x: see(x).sum()[None]),
    "a crop": (False, lambda see, x: Returns.apply(see(x), lambda: torch.ones(2, 6)[:, 1:5])),
    "a tensor that is held": (False, lambda see, x: Returns.apply(see(x), lambda: HELD)),
    "memory of an array": (
        False,
        lambda see, x: Returns.apply(see(x), lambda: torch.from_numpy(ARRAY)),
    ),
}


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_ours(case, many):
    _own.learn()
    ours, f = CASES[case]
    x, seen = torch.randn(2, 4, requires_grad=True), []
    out = f(lambda x: Sees.apply(x, seen), x)
    cotangents = torch.ones(3, *out.shape)
    if many:
        if case in ("the caller's", "a tensor that is held", "memory of an array"):
            pytest.skip("under vmap nobody else's tensor comes unwrapped")
        torch.vmap(lambda c: torch.autograd.grad(out, x, c)[0])(cotangents)
    else:
        torch.autograd.grad(out, x, cotangents[0])
    KEPT.clear()
    assert set(seen) == {ours}


def test_what_is_asked_for_is_not_ours():
    _own.learn()
    x, seen = torch.randn(2, 4, requires_grad=True), []
    middle = Sees.apply(x, seen)
    out = middle * 2
    pull = lambda c: torch.autograd.grad(out, (middle, x), c, retain_graph=True)
    pull(torch.ones(2, 4))
    torch.vmap(pull)(torch.ones(3, 2, 4))
    assert seen == [False, False]


@pytest.mark.parametrize("rule", ["standard", "guided", "deconvnet"])
@pytest.mark.parametrize("ceiling", [float("inf"), 6.0])
def test_overwriting_gives_what_applying_gives(rule, ceiling):
    activation = Activation(torch.relu if ceiling > 6 else nn.functional.relu6, ceiling)
    x, g = 4 * torch.randn(2, 50), torch.randn(3, 2, 50)
    rule = getattr(fa.rules, rule)
    expected = torch.stack([activation.apply(rule, x, one) for one in g])
    before = g.clone()
    if activation.overwrite(rule, x, g):
        assert torch.equal(g, expected)
    else:
        assert torch.equal(g, before)
        assert rule is fa.rules.deconvnet and ceiling == 6
