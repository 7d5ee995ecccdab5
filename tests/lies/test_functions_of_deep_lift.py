"""DeepLIFT compares every elementwise function with the baseline, in place and as a power too."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close
from torch.func import grad, jvp

import funcattr as fa

W = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) / 4
linear = lambda x: x @ W + 0.1
THREE = torch.tensor([2.0, 0.5, -1.0], dtype=torch.float64)


def ipow(h):
    h **= 2
    return h


FUNCTIONS = {
    f"{name}{'_' * in_place}": lambda x, name=name, in_place=in_place: getattr(
        linear(x), name + "_" * in_place
    )()
    for name in (
        *("exp", "square", "sqrt", "log", "log2", "log10", "sin", "tan", "atan", "erf", "erfc"),
        *("reciprocal", "rsqrt", "expm1", "sinc", "lgamma", "sinh", "asinh"),
    )
    for in_place in (False, True)
} | {
    "torch.exp_": lambda x: torch.exp_(linear(x)),
    "a power": lambda x: linear(x) ** 3,
    "pow by name": lambda x: torch.pow(linear(x), exponent=0.5),
    "pow_": lambda x: linear(x).pow_(2),
    "**=": lambda x: ipow(linear(x)),
    "a power of a number": lambda x: 2 ** linear(x),
    "pow of a number": lambda x: torch.pow(2.0, linear(x)),
    "powers": lambda x: linear(x) ** THREE,
    "float_power": lambda x: torch.float_power(linear(x), 2.5),
    "a number by it": lambda x: 1 / linear(x),
    "a view of what was written to": lambda x: (lambda h: (h[:, :2].exp_(), h)[1])(linear(x)),
    "erf of torch.special": lambda x: torch.special.log_ndtr(linear(x)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_adds_up(name):
    f, x = FUNCTIONS[name], torch.rand(2, 4, dtype=torch.float64)
    baseline = torch.rand(1, 4, dtype=torch.float64)
    attr = fa.deep_lift(f, baseline=baseline)
    maps = attr(x, target=1)
    assert_close(maps.sum(1), (f(x) - f(baseline))[:, 1])
    assert_close(fa.sweep(attr, x, targets=[1, 0])[0], maps)
    slope = (f(x) - f(baseline)) / (linear(x) - linear(baseline))
    assert_close(maps, (slope[:, 1:2] * W[:, 1]) * (x - baseline))


def test_the_derivative_of_a_map():
    attr = fa.deep_lift(lambda x: linear(x).exp_().pow_(2), baseline=0.2)
    f = lambda x: attr(x, target=1).square().sum()
    x, v = torch.rand(2, 2, 4, dtype=torch.float64)
    numeric = (f(x + 1e-5 * v) - f(x - 1e-5 * v)) / 2e-5
    assert_close((grad(f)(x) * v).sum(), numeric, 1e-6)
    assert_close(jvp(f, (x,), (v,))[1], numeric, 1e-6)


def test_powers_by_what_depends_on_the_input():
    """The base is compared at one exponent, and the exponent has its derivative."""
    base, exponent = (lambda x: linear(x)), (lambda x: (x @ W).sin())
    x, x0 = torch.rand(2, 1, 4, dtype=torch.float64)
    y, y0, e = base(x), base(x0), exponent(x)
    by_base = (y**e - y0**e) / (y - y0)
    by_exponent = y**e * y.log() * (x @ W).cos()
    expected = ((by_base + by_exponent)[:, 1:2] * W[:, 1]) * (x - x0)
    # The sine is compared as well.
    sine = (e - exponent(x0)) / (x @ W - x0 @ W)
    expected = ((by_base + y**e * y.log() * sine)[:, 1:2] * W[:, 1]) * (x - x0)
    attr = fa.deep_lift(lambda x: base(x) ** exponent(x), baseline=x0)
    assert_close(attr(x, target=1), expected)


def test_a_table_of_powers_has_its_derivative():
    f = lambda x: (linear(x)[:, :, None] ** THREE).sum(2)
    x = torch.rand(2, 4, dtype=torch.float64)
    expected = fa.input_x_gradient(f)(x, target=1)
    assert_close(fa.deep_lift(f)(x, target=1), expected)


def test_a_row_for_a_function_in_place():
    rule = lambda x, g: g * 3
    composite = fa.Composite([(torch.Tensor.exp_, rule)])
    f = lambda x: linear(x).exp_()
    x = torch.rand(2, 4, dtype=torch.float64)
    ruled = fa.with_rules(f, composite)
    assert torch.equal(ruled(x), f(x))
    assert_close(fa.gradient(ruled)(x, target=1), (3 * W[:, 1]).expand(2, 4))


def test_a_row_for_what_is_called_with_a_number():
    composite = fa.Composite([(torch.special.zeta, lambda x, g: g)])
    with pytest.raises(fa.ArgumentError, match="acts on its first argument, which is a tensor"):
        fa.gradient(fa.with_rules(lambda x: torch.special.zeta(2, x), composite))(torch.ones(1, 2))


@pytest.mark.compiled
@pytest.mark.parametrize("name", ["exp_", "**=", "a number by it", "pow of a number", "powers"])
def test_compiled(name):
    attr = fa.deep_lift(FUNCTIONS[name], baseline=0.3)
    x = torch.rand(2, 4, dtype=torch.float64)
    compiled = torch.compile(lambda x: attr(x, target=1), backend="aot_eager", fullgraph=True)
    assert_close(compiled(x), attr(x, target=1))


@pytest.mark.compiled
def test_made_and_compiled():
    """The attribution is made inside of compiled code, and of ids as well."""
    words = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.GELU(), torch.nn.Linear(4, 9))
    make = lambda ids: fa.deep_lift(fa.over_embeddings(words), baseline=0.1)(ids, target=(-1, 3))
    ids = torch.tensor([[1, 2, 3]])
    compiled = torch.compile(make, backend="aot_eager")
    assert_close(compiled(ids), make(ids))
    x = torch.rand(2, 3, 4)
    make = lambda x: fa.deep_lift(words[1:], baseline=0.1)(x, target=(-1, 3))
    assert_close(torch.compile(make, backend="aot_eager", fullgraph=True)(x), make(x))


def test_what_keeps_its_derivative():
    """Documented: of these the maps do not add up."""
    x = torch.rand(2, 4, dtype=torch.float64)
    for f in (lambda x: F.glu(linear(x).repeat(1, 2)), lambda x: linear(x) / (linear(x) + 1)):
        assert_close(fa.deep_lift(f)(x, target=1), fa.input_x_gradient(f)(x, target=1))
