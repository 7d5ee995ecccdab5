"""Networks as people write them, against the slow oracle alone: hooks on modules miss what is here.

`test_oracle` pins that zennit gets them wrong.
"""

import pytest
import torch
from helpers import assert_close
from torch import nn

import funcattr as fa
from relevance import oracle
from relevance.functional import NETS, NOT_RECTIFIED, UNSETTLED, Shared, Skips, written
from relevance.layers import Chain, Routed, Sum, relu, weighted
from relevance.models import COMPOSITES, randn, ready

TARGETS = [1, 3]


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", NETS)
def test_composites(name, composite):
    if composite == "excitation_backprop" and name in NOT_RECTIFIED:
        pytest.skip("not what it is for")
    args = COMPOSITES[composite]
    model, chain, x = written(name)
    for eps in [1e-12] if name in UNSETTLED else [1e-6, 0.1]:
        rules = getattr(oracle, composite)(*args, eps=eps)
        ours = fa.lrp(model, getattr(fa.composites, composite)(*args, eps=eps))
        expected = oracle.lrp(chain, rules, x, TARGETS)
        assert expected.abs().max() > 1e-3
        assert_close(ours(x, target=TARGETS), expected)


@pytest.mark.parametrize("name", NETS)
def test_without_stabilisers_to_speak_of(name):
    """A rule for each kind of layer, none for sums and means: these have their derivative."""
    model, chain, x = written(name)
    rows = [("activation", fa.rules.pass_through), ("norm", fa.rules.pass_through)]
    rows += [("convolution", fa.rules.gamma(0.1)), ("linear", fa.rules.z_plus())]
    rules = {"activation": oracle.pass_through, "norm": oracle.pass_through}
    rules |= {"convolution": oracle.gamma(0.1), "linear": oracle.z_plus()}
    ours = fa.lrp(model, fa.Composite(rows))(x, target=TARGETS)
    assert_close(ours, oracle.lrp(chain, rules, x, TARGETS))


def test_functional_form():
    """Parameters come as an argument; the norm is merged into the weights that are given."""
    model, chain, x = written("Spelled")
    f, params = fa.make_functional(model)
    doubled = {name: 2 * p for name, p in params.items()}
    composite = fa.composites.epsilon_plus()
    ours = fa.lrp(f, composite, argnums=1)
    rules = oracle.epsilon_plus()
    assert_close(ours(params, x, target=1), oracle.lrp(chain, rules, x, 1))
    model.load_state_dict(doubled, strict=False)
    assert_close(ours(doubled, x, target=1), oracle.lrp(model.chain(), rules, x, 1))


def test_a_function_and_what_it_closes_over():
    w, v = randn(5, 6), randn(4, 5)
    attr = fa.lrp(lambda x: torch.relu(x @ w.mT) @ v.mT, fa.composites.epsilon_alpha2_beta1())
    first, last = nn.Linear(6, 5, bias=False), nn.Linear(5, 4, bias=False)
    first.weight.data, last.weight.data = w, v
    chain = Chain(weighted(first), relu(), weighted(last))
    x = randn(2, 6)
    assert_close(attr(x, target=2), oracle.lrp(chain, oracle.epsilon_plus(), x, 2))


def test_two_inputs():
    """Relevance is shared out between them; rules do not mind where an input comes in."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(3, 6), nn.Linear(4, 6), nn.Linear(6, 4)

        def forward(self, x, y):
            return self.head(torch.relu(self.a(x) + self.b(y)))

    model = ready(Both())
    x, y = randn(2, 3), randn(2, 4)
    parts = (
        Chain(Routed(lambda t: t[:, :3]), weighted(model.a)),
        Chain(Routed(lambda t: t[:, 3:]), weighted(model.b)),
    )
    chain = Chain(Sum(*parts), relu(), weighted(model.head))
    ours = fa.lrp(model, fa.composites.epsilon_plus(), argnums=(0, 1))(x, y, target=TARGETS)
    expected = oracle.lrp(chain, oracle.epsilon_plus(), torch.cat([x, y], 1), TARGETS)
    assert_close(torch.cat(ours, 1), expected)
    only = fa.lrp(model, fa.composites.epsilon_plus(), argnums=1)(x, y, target=TARGETS)
    assert_close(only, expected[:, 3:])


def test_a_part_of_the_output():
    class Dicts(Skips):
        def forward(self, x):
            return {"logits": super().forward(x), "other": x.sum()}

    model = ready(Dicts())
    x = randn(2, 2, 6, 6)
    ours = fa.lrp(model, fa.composites.epsilon_plus(), output="logits")(x, target=TARGETS)
    assert_close(ours, oracle.lrp(model.chain(), oracle.epsilon_plus(), x, TARGETS))


@pytest.mark.parametrize(("layer", "place"), [("norm:0", 2), ("relu:0", 3), ("norm:1", 4)])
def test_a_layer_that_is_called_more_than_once(layer, place):
    """Each call has relevance of its own."""
    model = ready(Shared())
    chain = model.chain()
    x = randn(2, 2, 6, 6)
    ruled = fa.with_rules(model, fa.composites.epsilon_plus())
    ours = fa.layer_gradient_x_activation(ruled, layer)(x, target=TARGETS)
    rules = oracle.epsilon_plus()
    assert_close(ours, oracle.lrp(chain, rules, x, TARGETS, layer=place))


def test_first_is_the_first_that_runs():
    """Of a layer that runs twice the first call alone, whatever was registered before it."""
    model, chain, x = written("HeadFirst")
    composite = (
        fa.Composite([(fa.first("convolution", "linear"), fa.rules.w_square())])
        + fa.composites.epsilon_plus()
    )
    rules = oracle.epsilon_plus() | {"first": (("convolution", "linear"), oracle.w_square())}
    assert_close(fa.lrp(model, composite)(x, target=1), oracle.lrp(chain, rules, x, 1))
    twice = ready(nn.Conv2d(2, 2, 3, padding=1))
    f = lambda x: twice(torch.relu(twice(x))).flatten(1)
    chain = Chain(weighted(twice), relu(), weighted(twice), Routed())
    assert_close(fa.lrp(f, composite)(x, target=7), oracle.lrp(chain, rules, x, 7))
