"""DeepLIFT compares each function that is documented in whatever way torch spells it.

`torch.special.gammaln`, `torch.div(3., x)` and `torch.tensor(2.) ** x` kept their derivative.
"""

import pytest
import torch
import torch.nn.functional as F
from conftest import skip_without_halves
from helpers import assert_close
from torch import nn
from torch.func import grad

import funcattr as fa

pytestmark = [  # of an old torch
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor"),
]

D = torch.float64
GENERATOR = torch.Generator().manual_seed(1)
W = torch.rand(4, 3, dtype=D, generator=GENERATOR) - 0.4
X, X0 = (torch.randn(n, 4, dtype=D, generator=GENERATOR) for n in (2, 1))
TWO, THREE = torch.tensor(2.0, dtype=D), torch.tensor([2.0, 0.5, 1.5], dtype=D)
SPACES = {"torch": torch, "Tensor": torch.Tensor, "special": torch.special, "functional": F}
#: Where the functions are defined: above 1.5, or between 0.1 and 0.9.
RANGES = (lambda h: h.square() + 1.5, lambda h: torch.sigmoid(h) * 0.8 + 0.1)

ONE = (
    *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal"),
    *("square", "abs", "absolute", "sign", "sgn", "erf", "erfc", "erfinv", "expit", "sigmoid"),
    *("sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "asinh", "acosh"),
    *("atanh", "arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh", "sinc", "logit"),
    *("lgamma", "gammaln", "digamma", "psi", "ndtr", "ndtri", "log_ndtr", "entr", "erfcx"),
    *("i0", "i0e", "i1", "i1e", "__abs__", "relu", "relu6", "elu", "selu", "celu", "gelu"),
    *("silu", "mish", "hardswish", "hardsigmoid", "leaky_relu", "hardtanh", "softplus"),
    *("softsign", "logsigmoid", "hardshrink", "softshrink", "tanhshrink"),
)
OF_TWO = (
    *("pow", "float_power", "__pow__", "__rpow__", "__ipow__", "div", "divide", "true_divide"),
    *("__div__", "__truediv__", "__rdiv__", "__rtruediv__", "__idiv__", "__itruediv__"),
    *("xlogy", "xlog1py", "polygamma", "mvlgamma", "multigammaln"),
)
FORMS = {
    "(x, 2)": lambda f, h: f(h, 2),
    "(2, x)": lambda f, h: f(2, h),
    "(2., x)": lambda f, h: f(2.0, h),
    "(tensor, x)": lambda f, h: f(TWO, h),
    "(tensors, x)": lambda f, h: f(THREE, h),
    "(integers, x)": lambda f, h: f(torch.arange(1, 4), h),
    "(as many, x)": lambda f, h: f(THREE.expand(h.shape).clone(), h),
    "(x, tensors)": lambda f, h: f(h, THREE),
    "(other=x)": lambda f, h: f(TWO, other=h),
    "(exponent=x)": lambda f, h: f(2.0, exponent=h),
    "(input=, other=x)": lambda f, h: f(input=THREE, other=h),
    "(self=, exponent=x)": lambda f, h: f(self=2.0, exponent=h),
    "(n=, input=x)": lambda f, h: f(n=1, input=h),
}
SPELLINGS = {
    f"{space}.{name}{form}": (getattr(found, name), FORMS.get(form, lambda f, h: f(h)))
    for forms, names in (((""), ONE), (FORMS, OF_TWO))
    for name in [name + end for name in names for end in ("", "_")]
    for space, found in SPACES.items()
    if hasattr(found, name)
    for form in forms or [""]
}


def attempt(f, range_):
    """``f`` of a linear layer as a model, if torch takes that and has a derivative of it."""

    def model(x):
        return f(range_(x @ W).clone())

    try:
        out, x = model(X), X.clone().requires_grad_()
        torch.autograd.grad(model(x).sum(), x)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):
        return None
    fits = out.shape == (2, 3) and out.is_floating_point()
    return model if fits and bool(out.isfinite().all()) else None


def check(model):
    out, before = model(X), model(X0)
    maps = fa.deep_lift(model, baseline=X0)(X, target=1)
    assert_close(maps.sum(1), (out - before)[:, 1].to(D))


@pytest.mark.parametrize("space", SPACES)
def test_every_spelling_adds_up(space):
    tried = set()
    for name, (function, form) in SPELLINGS.items():
        for range_ in RANGES if name.startswith(f"{space}.") else ():
            model = attempt(lambda h, f=function, form=form: form(f, h), range_)
            if model is not None:
                tried.add(name)
                check(model)
    assert len(tried) > (25 if space == "functional" else 40)
    known = {"torch.div(2., x)", "Tensor.__pow__(tensor, x)", "special.psi", "special.gammaln"}
    assert {name for name in known if name.startswith(f"{space}.")} <= tried


def test_all_of_torch_special_that_is_of_one_tensor():
    rest = {"softmax", "log_softmax", "logsumexp", "round"}  # which are no part of it
    names = [name for name in dir(torch.special) if name[0] != "_" and name not in rest]
    for function in [getattr(torch.special, name) for name in names]:
        model = attempt(function, RANGES[1]) if callable(function) else None
        if model is not None:
            check(model)


def test_in_place_where_the_second_depends():
    def model(x, write):
        h = x @ W + 3
        return write(THREE.expand(h.shape).clone(), h)

    for write in (
        *(torch.Tensor.pow_, torch.Tensor.__ipow__, torch.Tensor.float_power_),
        *(torch.Tensor.div_, torch.Tensor.__itruediv__, torch.Tensor.xlogy_),
    ):
        check(lambda x, write=write: model(x, write))


def test_a_divisor_that_is_written_to_later():
    def model(x):
        h = (x @ W).exp()
        out = TWO / h * 1
        h.add_(1)
        return out + h

    check(model)


def test_quotients_of_two_that_depend_keep_their_derivative():
    model = lambda x: (x @ W) / (x @ W * 2 + 9)
    expected = fa.gradient(model)(X, target=1) * (X - X0)
    assert_close(fa.deep_lift(model, baseline=X0)(X, target=1), expected)


def test_many_targets_and_derivatives_of_maps():
    model = lambda x: torch.div(THREE, (x @ W).exp()) + TWO ** (x @ W) + torch.float_power(2, x @ W)
    attr = fa.deep_lift(model, baseline=X0)
    assert_close(fa.sweep(attr, X, targets=[0, 1])[1], attr(X, target=1))
    f, v = lambda x: attr(x, target=1).square().sum(), X.flip(0)
    numeric = (f(X + 1e-6 * v) - f(X - 1e-6 * v)) / 2e-6
    assert_close((grad(f)(X) * v).sum(), numeric, 1e-5)
    by_baseline = lambda x0: fa.deep_lift(model, baseline=x0)(X, target=1).square().sum()
    v = torch.ones_like(X0)
    numeric = (by_baseline(X0 + 1e-6 * v) - by_baseline(X0 - 1e-6 * v)) / 2e-6
    assert_close((grad(by_baseline)(X0) * v).sum(), numeric, 1e-5)
    assert_close(torch.vmap(lambda x: attr(x[None], target=1)[0])(X), attr(X, target=1))


@pytest.mark.compiled
def test_compiled():
    model = lambda x: torch.div(THREE, (x @ W).exp()) + TWO ** (x @ W) + torch.float_power(2, x @ W)
    attr = fa.deep_lift(model, baseline=0.3)
    compiled = torch.compile(lambda x: attr(x, target=1), backend="aot_eager", fullgraph=True)
    assert_close(compiled(X), attr(X, target=1))


def test_a_row_for_a_function_of_two_acts_on_what_depends():
    seven = lambda x, g: 7 * g
    rows = dict.fromkeys((torch.xlogy, torch.div, torch.pow), seven)
    for f in (lambda x: torch.xlogy(2, x), lambda x: TWO / x, lambda x: TWO.pow(x)):
        attr = fa.rule_backprop(f, seven, sites=rows)
        assert_close(attr(X.abs() + 1, target=1)[:, 1], torch.full((2,), 7.0, dtype=D))


@pytest.mark.parametrize("pool", [False, True])
def test_half_precision(pool):
    """1e-10 is 0 there, and where input and baseline are equal the quotient was 0 / 0."""
    skip_without_halves()
    end = nn.MaxPool1d(2) if pool else nn.Tanh()
    model, x = nn.Sequential(nn.Conv1d(2, 4, 1), end, nn.Flatten()), torch.randn(2, 2, 4)
    with pytest.raises(fa.ArgumentError, match="float16, which is too coarse for DeepLIFT"):
        fa.deep_lift(model.half(), baseline=x.half())(x.half(), target=1)
    model, x = model.bfloat16(), x.bfloat16()
    assert_close(fa.deep_lift(model, baseline=x)(x, target=1), torch.zeros_like(x))
