"""Cotangents are overwritten where nobody else holds them, and only there."""

import numpy as np
import pytest
import torch

from funcattr import _own

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
    kept = torch.ones(3, *out.shape)
    if many:
        if case in ("the caller's", "a tensor that is held", "memory of an array"):
            pytest.skip("under vmap nobody else's tensor comes unwrapped")
        torch.vmap(lambda c: torch.autograd.grad(out, x, c)[0])(kept)
    else:
        torch.autograd.grad(out, x, kept[0])
    KEPT.clear()
    assert set(seen) == {ours}
