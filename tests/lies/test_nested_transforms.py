"""Transforms around a map, and inside of the model, nested: each was wrong, or crashed, once."""

import pytest
import torch
from helpers import METHODS, assert_close, tiny, tiny_input

import funcattr as fa

X = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


NESTED = ["gradient", "guided_backprop", "guided_tanh", "rule_backprop", "layer_input", "grad_cam"]


@pytest.mark.parametrize("method", NESTED)
def test_forward_mode_of_forward_mode(method):
    """Torch loses tangents of tangents in every Function with a jvp of its own, in silence."""
    x, v = tiny_input(), tiny_input(seed=3)
    attr = METHODS[method](tiny())
    f = lambda x: attr(x, target=1)
    once = lambda x: torch.func.jvp(f, (x,), (torch.cos(x),))[1]
    numeric = (once(x + 1e-6 * v) - once(x - 1e-6 * v)) / 2e-6
    assert_close(torch.func.jvp(once, (x,), (v,))[1], numeric, 1e-6)
    assert_close((torch.func.vjp(once, x)[1](numeric)[0] * v).sum(), (numeric**2).sum(), 1e-6)


def test_a_jvp_inside_of_the_model():
    weight = torch.cos(torch.arange(16.0, dtype=torch.float64)).reshape(4, 4)

    def model(x):
        out, tangent = torch.func.jvp(lambda z: torch.relu(z @ weight), (x,), (torch.cos(x),))
        return (out + tangent) ** 2

    number = torch.func.grad(lambda x: model(x)[:, 1].sum())
    attr = fa.rule_backprop(model, fa.rules.standard)
    assert_close(attr(X, target=1), number(X))
    v = X.flip(0)
    for f in (number, lambda x: attr(x, target=1)):
        assert_close(torch.func.jvp(f, (X,), (v,))[1], torch.func.jvp(number, (X,), (v,))[1])
    ruled = fa.relu_rule(model, fa.rules.standard)
    assert_close(torch.func.jvp(ruled, (X,), (v,))[1], torch.func.jvp(model, (X,), (v,))[1])


def test_forward_mode_over_vmap():
    x, v = tiny_input(), tiny_input(seed=3)
    attr = METHODS["guided_backprop"](tiny())
    each = torch.vmap(lambda x: attr(x[None], target=1)[0])
    once = lambda f: lambda x: torch.func.jvp(f, (x,), (torch.cos(x),))[1]
    wanted = once(lambda x: attr(x, target=1))
    assert_close(once(each)(x), wanted(x))
    with pytest.raises(fa.FuncattrError, match=r"torch\.vmap around torch\.func\.jvp"):
        torch.func.jvp(once(each), (x,), (v,))
    one = once(lambda x: attr(x[None], target=1)[0])
    inside = torch.vmap(lambda x, v: torch.func.jvp(one, (x,), (v,))[1])
    assert_close(inside(x, v), torch.func.jvp(wanted, (x,), (v,))[1])


@pytest.mark.parametrize("inner", ["grad", "vjp", "jvp", "jacrev", "vmap"])
def test_transforms_inside_of_the_model(inner):
    """Inside, sites have their true derivative; outside, their rule."""
    weight = torch.cos(torch.arange(16.0, dtype=torch.float64)).reshape(4, 4)
    part = lambda z: torch.relu(z @ weight) ** 2

    def model(x):
        if inner == "grad":
            more = torch.func.grad(lambda z: part(z).sum())(x)
        elif inner == "vjp":
            out, pull = torch.func.vjp(part, x)
            more = pull(torch.cos(out))[0]
        elif inner == "jvp":
            more = torch.func.jvp(part, (x,), (torch.cos(x),))[1]
        elif inner == "jacrev":
            more = torch.func.jacrev(part)(x).sum((0, 1))
        else:
            more = torch.vmap(part)(x)
        return torch.relu(x) + more

    attr = fa.rule_backprop(model, fa.rules.standard)
    wanted = torch.func.grad(lambda x: model(x)[:, 1].sum())
    assert_close(attr(X, target=1), wanted(X))
    assert_close(fa.sweep(attr, X, targets=[1])[0], wanted(X))
    each = torch.vmap(lambda x: attr(x[None], target=1)[0])
    assert_close(each(X), torch.vmap(lambda x: wanted(x[None])[0])(X))
    total = lambda f: torch.func.grad(lambda x: (f(x) ** 2).sum())(X)
    assert_close(total(lambda x: attr(x, target=1)), total(wanted))
