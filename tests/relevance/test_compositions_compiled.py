"""Relevance in compiled code: equal to eager, in as few graphs as promised."""

import pytest
import torch
from helpers import assert_close
from torch import nn
from torch.func import grad, jvp

import funcattr as fa
from relevance.composed import COMPOSITES, EPS, TARGETS, V, X, dot, looped, lrp, net
from relevance.models import ready

pytestmark = pytest.mark.compiled
INPUTS = (X, X.abs(), -X.abs(), 2 * X)  # known not to be negative, and not


@pytest.fixture(autouse=True)
def _reset():
    torch.compiler.reset()


@pytest.fixture(params=COMPOSITES)
def composite(request):
    return COMPOSITES[request.param](EPS)


def whole(f):
    # aot_eager traces forward and backward as inductor does, and leaves out only the code.
    return torch.compile(f, fullgraph=True, backend="aot_eager")


def test_a_call(composite):
    attr = lrp(composite)
    compiled = whole(attr)
    for i, x in enumerate(INPUTS):
        assert_close(compiled(x, target=torch.tensor(i)), attr(x, target=i), 1e-10)


@pytest.mark.parametrize("name", ["epsilon_plus", "gamma_box", "whole_module"])
def test_a_sweep(name, monkeypatch):
    """One compilation for inputs of the same signs, as far as these matter."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter, real = CompileCounterWithBackend("aot_eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **kwargs: real(f, backend=counter, **kwargs))
    attr = lrp(COMPOSITES[name](EPS))
    for x in (X, X.abs(), 2 * X):
        maps = fa.sweep(attr, x, targets=TARGETS, chunk_size=3, compile=True)
        assert_close(maps, looped(attr, x), 1e-10)
    assert counter.frame_count <= 2  # what is known of the input is a part of the code


@pytest.mark.parametrize("name", ["gamma_box", "whole_module"])
def test_derivatives(name):
    attr = lrp(COMPOSITES[name](EPS))

    def f(x):
        g = grad(lambda x: dot(attr(x, target=1)))(x)
        return g, jvp(lambda x: attr(x, target=1), (x,), (V,))[1]

    assert_close(whole(f)(X), f(X), 1e-10)


def test_backward_outside():
    attr = lrp(COMPOSITES["gamma_box"](EPS))
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    dot(whole(attr)(x, target=torch.tensor(1))).backward()
    dot(attr(y, target=1)).backward()
    assert_close(x.grad, y.grad, 1e-10)


def test_by_parameters():
    f, params = fa.make_functional(net())
    attr = lrp(COMPOSITES["epsilon_plus"](EPS), f, argnums=1)
    by = lambda p: grad(lambda p: dot(attr(p, X, target=1)))(p)
    for came, expected in zip(whole(by)(params).values(), by(params).values()):
        assert_close(came, expected, 1e-10)


def test_composites_that_differ_in_numbers_do_not_share_code():
    model = net()
    attrs = [
        lrp(fa.composites.epsilon_gamma_box(-b, b, gamma, EPS), model)
        for b, gamma in [(4.0, 0.25), (5.0, 0.25), (4.0, 2.0)]
    ]
    f = lambda x, t: [a(x, target=t) for a in attrs]
    assert_close(whole(f)(X, torch.tensor(1)), f(X, 1), 1e-10)


def test_signs_of_many_patterns(monkeypatch):
    """Each pattern is compiled; there is no number of them at which the compiler gives up."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **kwargs: real(f, backend="eager", **kwargs))
    layers = [nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 3)]
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for layer, bias in (layers[0], 0.5), (layers[2], -0.2):
            layer.weight.fill_(1.0)
            layer.bias.fill_(bias)
    attr = fa.lrp(model, fa.composites.excitation_backprop())
    for x in torch.tensor([[[1.0]], [[0.1]], [[-0.1]], [[-1.0]]]).double() - 0.2:
        maps = fa.sweep(attr, x, targets=range(3), compile=True)
        expected = torch.stack([attr(x, target=t) for t in range(3)])
        assert_close(maps, expected, 1e-10)


def test_the_code_of_a_sweep():
    """With the default backend, which writes code."""
    layers = (nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
    attr = lrp(COMPOSITES["gamma_box"](EPS), ready(nn.Sequential(*layers, nn.Linear(48, 4))))
    maps = fa.sweep(attr, X, targets=TARGETS, chunk_size=3, compile=True)
    assert_close(maps, looped(attr), 1e-10)
