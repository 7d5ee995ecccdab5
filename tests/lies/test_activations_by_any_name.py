"""Functions of single numbers that AttnLRP and CP-LRP did not take for activations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcattr as fa

COMPOSITES = {"attn_lrp": fa.composites.attn_lrp, "cp_lrp": fa.composites.cp_lrp}
FUNCTIONS = {
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "hardshrink": lambda h: F.hardshrink(h, 0.1),
    "nn.Softshrink": nn.Softshrink(0.1),
    "nn.Tanhshrink": nn.Tanhshrink(),
    "rrelu": F.rrelu,
    "torch.rrelu": torch.rrelu,
    "atan": torch.atan,
    "Tensor.arctan": lambda h: h.arctan(),
    "asinh": torch.asinh,
    "expm1": lambda h: torch.special.expm1(h),
    "cosh, and less": lambda h: h.cosh() - 1,
    "times its softsign": lambda h: h * F.softsign(h),
    "aten.atan": torch.ops.aten.atan.default,
    "snake": lambda h: h + torch.sinc(h) ** 2,
}


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_its_relevance_passes_as_it_is(name, composite):
    torch.manual_seed(0)
    first, last, f = nn.Linear(6, 5).double(), nn.Linear(5, 3).double(), FUNCTIONS[name]
    x = torch.randn(2, 6, dtype=torch.float64)
    attr = fa.lrp(lambda x: last(f(first(x))), COMPOSITES[composite]())
    h = first(x)
    expected = (last.weight[1] * f(h) / h) @ first.weight * x
    torch.testing.assert_close(attr(x, target=1), expected.detach(), rtol=1e-7, atol=1e-9)


WRITTEN = {
    "softmin": (lambda x: F.softmin(x, -1) @ x.mT @ x, lambda x: (-x).softmax(-1) @ x.mT @ x),
    "gumbel_softmax": (
        lambda x: F.gumbel_softmax(x, tau=2, dim=-1) * x,
        lambda x: ((x - torch.empty_like(x).exponential_().log()) / 2).softmax(-1) * x,
    ),
    "local_response_norm": (
        lambda x: F.local_response_norm(x, 3, alpha=1.0),
        lambda x: x / (1 + F.avg_pool1d(F.pad(x.mT**2, (1, 1)), 3, 1).mT) ** 0.75,
    ),
}


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", WRITTEN)
def test_softmaxes_and_norms_that_torch_writes_in_python(name, composite):
    """They are what they are when they are written out."""
    x = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maps = []
    for f in WRITTEN[name]:
        torch.manual_seed(1)
        attr = fa.lrp(
            lambda x, f=f: f(x).mean(1) @ torch.ones_like(x[0]).mT, COMPOSITES[composite]()
        )
        maps.append(attr(x, target=1))
    torch.testing.assert_close(*maps)
