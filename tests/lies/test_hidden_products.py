"""Functions that multiply what depends on the input, taken by their derivative under AttnLRP.

Under CP-LRP as well. Times the factors, that of a product is twice its value, so maps had double
the relevance, or any other.
"""

import pytest
import torch
import torch.nn.functional as F
from conftest import VERSION
from helpers import assert_close
from torch import nn

import funcattr as fa

COMPOSITES = {"attn_lrp": fa.composites.attn_lrp, "cp_lrp": fa.composites.cp_lrp}
both = pytest.mark.parametrize("composite", COMPOSITES)
E = 6
square = lambda a, b: torch.stack([a[:2], b[:2]]) + 3 * torch.eye(2, dtype=a.dtype)

# Of two vectors of six numbers, the second between 0 and 1.
REFUSED = {
    "prelu": lambda a, b: F.prelu(a[None], b)[0],
    "xlogy": torch.xlogy,
    "special.xlog1py": torch.special.xlog1py,
    "ldexp": torch.ldexp,
    "pow": lambda a, b: b**a,
    "pow of itself": lambda a, b: b**b,
    "float_power": lambda a, b: torch.float_power(b, a),
    "trapezoid": lambda a, b: torch.trapezoid(a, b)[None],
    "polar": lambda a, b: torch.polar(b, a).real,
    "angles alone": lambda a, b: torch.polar(torch.ones_like(a), a).real,
    "cov": lambda a, b: torch.cov(torch.stack([a, b])).flatten(),
    "renorm": lambda a, b: torch.renorm(a[None], 2, 0, 0.1)[0],
    "mse_loss": lambda a, b: F.mse_loss(a, b, reduction="none"),
    "det": lambda a, b: torch.linalg.det(square(a, b))[None],
    "Tensor.inverse": lambda a, b: square(a, b).inverse().flatten(),
    "aten.linalg_inv_ex": lambda a, b: torch.ops.aten.linalg_inv_ex(square(a, b))[0].flatten(),
    "matrix_exp": lambda a, b: torch.matrix_exp(square(a, b)).flatten(),
    "svdvals": lambda a, b: torch.linalg.svdvals(square(a, b)),
    "solve": lambda a, b: torch.linalg.solve(square(a, b), torch.ones(2, dtype=a.dtype)),
    "solve by name": lambda a, b: torch.linalg.solve(A=square(a, b), B=a[:2]),
    "grid_sample": lambda a, b: F.grid_sample(
        a.view(1, 1, 2, 3), grid=b.view(1, 3, 1, 2), align_corners=False
    ).flatten(),
    "scatter_reduce": lambda a, b: torch.ones(3, dtype=a.dtype).scatter_reduce(
        0, torch.tensor([0, 0, 1, 1, 2, 2]), a, reduce="prod"
    ),
    "index_reduce_": lambda a, b: torch.ones(3, dtype=a.dtype).index_reduce_(
        0, torch.tensor([0, 0, 1, 1, 2, 2]), a, "prod"
    ),
    "bilinear by names": lambda a, b: F.bilinear(
        input1=a, input2=b, weight=torch.ones(2, E, E, dtype=a.dtype)
    ),
    "complex numbers": lambda a, b: (torch.complex(a, b) * torch.complex(b, a)).imag,
    "complex numbers in place": lambda a, b: torch.complex(a, b).mul_(torch.complex(b, a)).imag,
    "a convolution by Fourier transforms": lambda a, b: torch.fft.irfft(
        torch.fft.rfft(a) * torch.fft.rfft(b)
    ),
    "a complex square": lambda a, b: (torch.complex(a, b) ** 2).real,
    "a complex tanh": lambda a, b: torch.complex(a, b).tanh().real,
    "z times its conjugate": lambda a, b: (torch.complex(a, b) * torch.complex(a, b).conj()).real,
}


class Two(nn.Module):
    """A function of two vectors that depend on the input, between linear layers."""

    def __init__(self, f, outputs=E):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, E).double(), nn.Linear(4, E).double()
        self.f = f

    def forward(self, x):
        f = lambda row: self.f(self.first(row), torch.sigmoid(self.second(row)))
        out = torch.stack([f(row) for row in x])
        return torch.cat([out, F.gelu(out)], -1)


def example(examples=2):
    return torch.randn(examples, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@both
@pytest.mark.filterwarnings("ignore:index_reduce")
@pytest.mark.parametrize("name", REFUSED)
def test_a_product_that_no_rule_knows_is_an_error(name, composite):
    model, rules = Two(REFUSED[name]), COMPOSITES[composite]()
    with pytest.raises(fa.NoSiteError, match="depend on the input") as raised:
        fa.lrp(model, rules)(example(), target=1)
    assert "require_match=False" in str(raised.value)
    ruled = fa.with_rules(model, rules, require_match=False)
    passed = fa.input_x_gradient(ruled)(example(), target=1)
    assert passed.isfinite().all() and passed.abs().max() > 0


def var_of(x, dim, correction=1):
    t = x - x.mean(dim, keepdim=True)
    return (t * t).sum(dim) / (x.shape[dim] - correction)


def _power(a):
    a = a + 0
    half = a[:3]
    half **= 2
    return a


def _power_of_half(a):
    return torch.cat([a[:3] ** 2, a[3:]])


PAIRS = {
    "float_power": (lambda a, b: torch.float_power(a, 2), lambda a, b: a * a),
    "Tensor.float_power_": (lambda a, b: a.clone().float_power_(2), lambda a, b: a * a),
    "square_": (lambda a, b: a.clone().square_(), lambda a, b: a * a),
    "an augmented power, a view": (lambda a, b: _power(a), lambda a, b: _power_of_half(a)),
    "sin_": (lambda a, b: torch.sin_(a + 1), lambda a, b: torch.sin(a + 1)),
    "a gate that is squared in place": (lambda a, b: a * b.square_(), lambda a, b: a * b**2),
    "var": (lambda a, b: a.var()[None], lambda a, b: var_of(a, 0)[None]),
    "var along a dim": (
        lambda a, b: torch.var(input=torch.stack([a, b]), dim=1, correction=0),
        lambda a, b: var_of(torch.stack([a, b]), 1, 0),
    ),
    "var_mean": (
        lambda a, b: torch.cat([t[None] for t in torch.var_mean(a)]),
        lambda a, b: torch.stack([var_of(a, 0), a.mean()]),
    ),
    "a norm by var_mean": (
        lambda a, b: (a - torch.var_mean(a)[1]) * (torch.var_mean(a)[0] + 1e-3).rsqrt(),
        lambda a, b: (a - a.mean()) / (var_of(a, 0) + 1e-3).sqrt(),
    ),
    "cosines of other shapes": (
        lambda a, b: F.cosine_similarity(a.view(1, 3, 2), b.view(3, 1, 2), dim=-2).flatten(),
        lambda a, b: F.cosine_similarity(
            a.view(1, 3, 2).expand(3, 3, 2), b.view(3, 1, 2).expand(3, 3, 2), dim=-2
        ).flatten(),
    ),
    "limits of a clamp": (
        lambda a, b: torch.clamp(a, min=b - 0.5, max=b),
        lambda a, b: torch.minimum(torch.maximum(a, b - 0.5), b),
    ),
    "clamp_max by one number": (
        lambda a, b: a.clamp_max(b[:1]),
        lambda a, b: torch.minimum(a, b[:1].expand(E)),
    ),
    "turned in the complex plane": (
        lambda a, b: torch.view_as_real(
            torch.view_as_complex(a.view(3, 2))
            * torch.polar(torch.ones(3, dtype=a.dtype), torch.arange(3, dtype=a.dtype))
        ).flatten(),
        lambda a, b: torch.stack(
            [
                a[::2] * torch.arange(3, dtype=a.dtype).cos()
                - a[1::2] * torch.arange(3, dtype=a.dtype).sin(),
                a[::2] * torch.arange(3, dtype=a.dtype).sin()
                + a[1::2] * torch.arange(3, dtype=a.dtype).cos(),
            ],
            1,
        ).flatten(),
    ),
    "the square of an absolute value": (
        lambda a, b: torch.complex(a, b).abs() ** 2,
        lambda a, b: a * a + b * b,
    ),
}


@both
@pytest.mark.parametrize("name", PAIRS)
def test_as_it_is_written_out(name, composite):
    x = example()
    models = [Two(f) for f in PAIRS[name]]
    torch.testing.assert_close(*[model(x) for model in models])
    attrs = [fa.lrp(model, COMPOSITES[composite]()) for model in models]
    assert_close(*[attr(x, target=1) for attr in attrs])
    assert_close(*[fa.sweep(attr, x, targets=[0, 1, 1]) for attr in attrs])


@both
def test_a_variance_has_no_more_relevance_than_it_is(composite):
    """It is a mean of products, each of which gives a half to each of its factors."""

    class Spread(nn.Module):
        def forward(self, x):
            return F.silu(x).var(1, keepdim=True)

    x = example()
    attr = fa.lrp(Spread(), COMPOSITES[composite]())
    assert_close(attr(x).sum(1), Spread()(x)[:, 0])


@both
def test_a_rule_for_complex_numbers_is_an_error(composite):
    rules = fa.Composite([("linear", fa.rules.epsilon())]) + COMPOSITES[composite]()
    weight = torch.randn(4, 3, dtype=torch.complex128)
    with pytest.raises(fa.NoSiteError, match="complex numbers"):
        fa.lrp(lambda x: F.gelu((x.to(weight.dtype) @ weight).real), rules)(example(), target=1)


COMPILED = ("var_mean", "square_", "Tensor.float_power_", "cosines of other shapes", "sin_")
COMPILED += ("limits of a clamp", "a norm by var_mean")
compiles = pytest.mark.skipif(VERSION < (2, 13), reason="funcattr refuses to be compiled before")


@pytest.mark.compiled
@compiles
@both
def test_compiled_as_well(composite):
    torch.compiler.reset()
    models = [
        Two(lambda a, b, i=i: torch.cat([PAIRS[n][i](a, b) for n in COMPILED])) for i in (0, 1)
    ]
    spelled, written = [fa.lrp(model, COMPOSITES[composite]()) for model in models]
    expected = fa.sweep(written, example(), targets=range(40))
    assert_close(fa.sweep(spelled, example(), targets=range(40), compile=True), expected)


@pytest.mark.compiled
@compiles
@pytest.mark.parametrize("name", ["solve", "complex numbers", "a complex square", "prelu"])
def test_refused_in_compiled_code_as_well(name):
    torch.compiler.reset()
    attr = fa.lrp(Two(REFUSED[name]), fa.composites.attn_lrp())
    with pytest.raises(fa.FuncattrError, match="depend on the input"):
        fa.sweep(attr, example(), targets=[0, 1], compile=True)
