"""Rules of linear operations: epsilon by hand, in every composition, and which row of a composite
an operation gets."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close, tiny, tiny_input
from torch import nn

import funcattr as fa

X = tiny_input()
EPS = 0.3
EPSILON = fa.Composite([("convolution", fa.rules.epsilon(EPS)), ("linear", fa.rules.epsilon(EPS))])


def by_hand(layer, x, relevance):
    """Bach et al. 2015, equation 58, one example and one output after the other."""
    result = torch.zeros_like(x)
    for b in range(len(x)):
        z = layer(x[b : b + 1])
        share = relevance[b] / (z + EPS * (1 - 2 * (z < 0).double()))[0]
        f = lambda v: layer(v)[0]
        jacobian = torch.func.jacrev(f)(x[b : b + 1]).squeeze(z.dim() - 1)
        weights = jacobian.flatten(0, z.dim() - 2) * share.reshape(-1, *[1] * (x.dim() - 1))
        result[b] = x[b] * weights.sum(0)
    return result


LAYERS = {
    "linear": (nn.Linear(5, 3), (2, 5)),
    "linear without bias": (nn.Linear(5, 3, bias=False), (2, 5)),
    "convolution": (nn.Conv2d(2, 3, 3, padding=1, stride=2), (2, 2, 5, 5)),
    "in one dim": (nn.Conv1d(2, 4, 3, groups=2), (2, 2, 7)),
    "in three dims": (nn.Conv3d(1, 2, 2), (2, 1, 3, 3, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_epsilon_by_hand(name):
    layer, shape = LAYERS[name]
    layer.double()
    x = torch.randn(*shape, dtype=torch.float64)
    out = layer(x)
    cot = torch.randn_like(out)
    ruled = fa.with_rules(layer, EPSILON)
    assert torch.equal(ruled(x), out)
    (c,) = torch.func.vjp(ruled, x)[1](cot)
    assert_close(x * c, by_hand(layer, x, cot * out), 1e-12)


@pytest.mark.parametrize("spelling", ["x @ w", "w @ x", "torch.matmul", "mm", "F.linear", "view"])
def test_products_with_a_weight_in_every_spelling(spelling):
    w = nn.Parameter(torch.randn(5, 3, dtype=torch.float64))
    plain = {
        "x @ w": lambda x: x @ w,
        "w @ x": lambda x: (w.mT @ x.mT).mT,
        "torch.matmul": lambda x: torch.matmul(x, w),
        "mm": lambda x: x.mm(w),
        "F.linear": lambda x: F.linear(x, weight=w.mT),
        "view": lambda x: x @ w.mT.mT,
    }[spelling]
    x = torch.randn(2, 5, dtype=torch.float64)
    attr = fa.input_x_gradient(fa.with_rules(plain, EPSILON))
    hot = torch.zeros(2, 3, dtype=torch.float64)
    hot[:, 1] = 1
    expected = by_hand(lambda x: x @ w.detach(), x, hot * (x @ w.detach()))
    assert_close(attr(x, target=1), expected, 1e-12)
    assert_close(fa.sweep(attr, x, targets=[0, 1])[1], expected, 1e-12)
    ruled = fa.with_rules(plain, EPSILON)
    slope = torch.func.grad(lambda x: ruled(x)[:, 1].sum())(x)
    assert_close(x * slope, expected, 1e-12)


def test_a_bundle_of_composites_shares_a_forward_pass():
    model, calls = tiny(), []
    model.conv.register_forward_pre_hook(lambda *_: calls.append(1))
    other = fa.Composite([("convolution", fa.rules.epsilon(1.0)), ("relu", fa.rules.guided)])
    parts = [
        fa.input_x_gradient(fa.with_rules(model, EPSILON)),
        fa.gradient(fa.with_rules(model, other)),
        fa.guided_backprop(model),
        fa.gradient(model),
        fa.layer_gradient_x_activation(fa.with_rules(model, EPSILON), "relu:0"),
    ]
    expected = [part(X, target=1) for part in parts]
    assert all(not torch.allclose(expected[0], e) for e in expected[1:4])
    calls.clear()
    for came, wanted in zip(fa.bundle(*parts)(X, target=1), expected):
        assert_close(came, wanted, 1e-12)
    assert len(calls) == 1
    swept = fa.sweep(fa.bundle(*parts), X, targets=range(4), chunk_size=3)
    for came, wanted in zip(swept, expected):
        assert_close(came[1], wanted, 1e-12)


def test_rows():
    model = nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.ReLU6()
    ).double()
    x = torch.randn(2, 4, dtype=torch.float64)
    a, b, own = fa.rules.epsilon(0.1), fa.rules.epsilon(0.2), lambda x, g: 3 * g
    composite = fa.Composite(
        [
            (("linear", lambda path: path == "2"), a),
            (lambda path: path == "4", b),
            ("linear", fa.rules.epsilon()),
            (F.gelu, own),
            ("relu", fa.rules.guided),
        ]
    )
    report = fa.sites(fa.with_rules(model, composite), x)
    assert [(s.path, s.rule) for s in report] == [
        ("0", fa.rules.epsilon()),
        ("1", fa.rules.guided),
        ("2", a),
        ("3", own),
        ("4", b),
        ("5", fa.rules.guided),
    ]
    assert "6 of 6 operations follow a rule" in str(report)
    assert "epsilon" in str(report) and "guided" in str(report)


def test_stacked_rules_the_outer_row_comes_first():
    inner = fa.with_rules(torch.relu, fa.Composite([("relu", fa.rules.deconvnet)]))
    outer = fa.with_rules(inner, fa.Composite([("relu", lambda x, g: 7 * g)]))
    x, g = torch.tensor([-1.0, 2.0]), torch.tensor([1.0, 1.0])
    assert torch.equal(torch.func.vjp(outer, x)[1](g)[0], 7 * g)
    only = fa.with_rules(inner, fa.Composite([("gelu", lambda x, g: 7 * g)]))
    assert torch.equal(torch.func.vjp(only, x)[1](g)[0], g)
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    stacked = fa.relu_rule(fa.relu_rule(model, fa.rules.deconvnet), sites=lambda path: path == "1")
    assert [s.rule for s in fa.sites(stacked, torch.ones(1, 3))] == [fa.rules.guided]
    neuron = fa.layer_output(fa.relu_rule(model, lambda x, g: 5 * g), "1")
    (slope,) = torch.func.vjp(neuron, torch.ones(1, 3))[1](torch.ones(1, 3))
    assert_close(slope, 5 * model[0].weight.sum(0, keepdim=True), 1e-6)


class Halved:
    """A pair of the user's, with what it prepares."""

    def prepare(self, operation):
        return (torch.full_like(operation.value(), 0.5),)

    def pull(self, operation, g, half):
        return operation.pull(half * g)


def test_a_pair_of_the_users():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    attr = fa.gradient(fa.with_rules(model, fa.Composite([("linear", Halved())])))
    x = torch.randn(2, 3, dtype=torch.float64)
    assert_close(attr(x, target=0), fa.gradient(model)(x, target=0) / 4, 1e-12)


BAD = {
    "no pair": (lambda: fa.Composite(["linear"]), "a pair"),
    "kind": (lambda: fa.Composite([("linaer", fa.rules.epsilon())]), "Did you mean 'linear'"),
    "rule": (lambda: fa.Composite([("linear", "epsilon")]), "got 'epsilon'"),
    "where": (lambda: fa.Composite([(3, fa.rules.guided)]), "got 3"),
    "eps": (lambda: fa.rules.epsilon(-1), "zero or more; got -1"),
    "eps type": (lambda: fa.rules.epsilon("a"), "got 'a'"),
    "composite": (lambda: fa.with_rules(tiny(), fa.rules.guided), "is a Composite"),
    "paths": (
        lambda: fa.with_rules(torch.relu, fa.Composite([(lambda p: True, fa.rules.guided)])),
        "a plain function has none",
    ),
    "shape": (
        lambda: fa.gradient(
            fa.with_rules(torch.relu, fa.Composite([("relu", lambda x, g: g.sum())]))
        )(torch.ones(1, 1)),
        "shape of x",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(fa.ArgumentError, match=message):
        call()


def test_a_composite_that_never_fits():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    attr = fa.gradient(fa.with_rules(model, fa.Composite([("convolution", fa.rules.epsilon())])))
    with pytest.raises(fa.NoSiteError, match="convolution"):
        attr(torch.ones(1, 3), target=0)
