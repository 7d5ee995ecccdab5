"""Which operations the rows of a composite mean, by what relevance becomes of them."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close
from torch import nn

import funcattr as fa
from relevance import oracle
from relevance.layers import Chain, Linear, Routed, weighted
from relevance.models import ResNet, chain_of, randn, ready, resnet_chain

X = randn(2, 2, 6, 6)
PASS, EPSILON = fa.rules.pass_through, fa.rules.epsilon(0.1)


def net():
    model = nn.Sequential(
        *(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 3, 2), nn.ReLU(), nn.MaxPool2d(2, 1)),
        *(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 4)),
    )
    model = ready(model)
    return model, chain_of(model)


def expected(chain, rules):
    """``rules``: by the place of a layer in the chain; the others have none."""
    rules = {id(chain.layers[i]): rule for i, rule in rules.items()}
    rule_of = lambda part: rules.get(id(part), oracle.lrp_0)
    r = chain(X) * torch.tensor([0.0, 1.0, 0.0, 0.0])
    return chain.relevance(X, r, rule_of)


E = oracle.epsilon(0.1)
LINEAR, CONVOLUTION, ACTIVATION = {7: E, 9: E}, {0: E, 2: E}, {1: E, 3: E, 8: E}
P = oracle.pass_through
# name -> (rows, the rule of each layer that has one, by its place)
ROWS = {
    "convolution": (lambda: [("convolution", EPSILON)], CONVOLUTION),
    "linear": (lambda: [("linear", EPSILON)], LINEAR),
    "activation": (lambda: [("activation", PASS)], dict.fromkeys(ACTIVATION, P)),
    "relu": (lambda: [("relu", PASS), ("activation", EPSILON)], {1: E, 3: P, 8: P}),
    "an activation by its derivative": (lambda: [("activation", EPSILON)], ACTIVATION),
    "norm": (lambda: [("norm", PASS)], {5: P}),
    "norm by its derivative": (lambda: [("norm", EPSILON)], {5: E}),
    "max_pool": (lambda: [("max_pool", EPSILON)], {4: E}),
    "the first row wins": (
        lambda: [(lambda path: path == "2", EPSILON), ("convolution", fa.rules.epsilon(5.0))],
        {0: oracle.epsilon(5.0), 2: E},
    ),
    "two of the same": (
        lambda: [("linear", EPSILON), ("linear", fa.rules.flat())],
        LINEAR,
    ),
    "a function": (lambda: [(F.linear, EPSILON), (torch.tanh, PASS)], LINEAR | {1: P}),
    "a class": (lambda: [(nn.Conv2d, EPSILON), (nn.Tanh, PASS)], CONVOLUTION | {1: P}),
    "a class before a kind": (
        lambda: [(nn.ReLU, PASS), ("activation", EPSILON)],
        {1: E, 3: P, 8: P},
    ),
    "a path": (lambda: [(lambda path: path == "7", EPSILON)], {7: E}),
    "all of a tuple": (lambda: [(("linear", lambda path: path != "7"), EPSILON)], {9: E}),
    "the first": (lambda: [(fa.first("convolution"), EPSILON)], {0: E}),
    "the first of two kinds": (
        lambda: [(fa.first("linear", "convolution"), EPSILON), ("linear", EPSILON)],
        LINEAR | {0: E},
    ),
    "the first linear one": (lambda: [(fa.first("linear"), EPSILON)], {7: E}),
    "the first, behind a row that fits it too": (
        lambda: [("convolution", fa.rules.epsilon(5.0)), (fa.first("convolution"), EPSILON)],
        dict.fromkeys(CONVOLUTION, oracle.epsilon(5.0)),
    ),
    "stop": (lambda: [(lambda path: path == "2", fa.rules.stop)], {2: oracle.stop}),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows(name):
    rows, rules = ROWS[name]
    model, chain = net()
    assert_close(fa.lrp(model, fa.Composite(rows()))(X, target=1), expected(chain, rules))


def test_sums_and_means():
    """A rule at each of them by itself."""
    model = ready(ResNet())
    for kind in "sum", "mean":
        composite = fa.Composite([(kind, EPSILON)])
        ours = fa.lrp(model, composite)(X, target=[1, 3])
        assert_close(ours, oracle.lrp(resnet_chain(model), {kind: E}, X, [1, 3]))


class Body(nn.Module):
    """Two convolutions and nothing between: linear, so that its derivative is a matrix."""

    def __init__(self):
        super().__init__()
        self.one, self.two = (nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x):
        return self.two(self.one(x))


@pytest.mark.parametrize("rule", ["pass_through", "epsilon", "stop"])
def test_one_rule_for_a_whole_module(rule):
    """From what comes out to what goes in; the rows for what is inside have no say."""
    body = Body()
    model = ready(nn.Sequential(nn.Conv2d(2, 3, 3), body, nn.Flatten(), nn.Linear(48, 4)))
    theirs, ours = (getattr(place, rule) for place in (oracle, fa.rules))
    theirs, ours = (theirs(0.1), ours(0.1)) if rule == "epsilon" else (theirs, ours)
    whole = Linear("body", lambda x, _: body(x).detach())
    chain = Chain(weighted(model[0]), whole, Routed(), weighted(model[3]))
    rows = [(Body, ours), ("convolution", fa.rules.z_plus()), ("linear", EPSILON)]
    expected = oracle.lrp(
        chain, {"body": theirs, "convolution": oracle.z_plus(), "linear": E}, X, 1
    )
    assert_close(fa.lrp(model, fa.Composite(rows))(X, target=1), expected)


def test_a_composite_with_a_row_before_it():
    """Its other rows stay."""
    model, chain = net()
    box = fa.Composite([(fa.first("convolution"), fa.rules.z_box(-3.0, 3.0))])
    ours = fa.lrp(model, box + fa.composites.epsilon_plus())(X, target=1)
    rules = oracle.epsilon_plus() | {"first": (("convolution",), oracle.z_box(-3.0, 3.0))}
    assert_close(ours, oracle.lrp(chain, rules, X, 1))


def test_stacked_composites_the_outer_row_comes_first():
    model, chain = net()
    inner = fa.with_rules(model, fa.composites.epsilon_plus())
    outer = fa.lrp(inner, fa.Composite([("linear", fa.rules.z_plus())]))
    rules = oracle.epsilon_plus() | {"linear": oracle.z_plus()}
    assert_close(outer(X, target=1), oracle.lrp(chain, rules, X, 1))
