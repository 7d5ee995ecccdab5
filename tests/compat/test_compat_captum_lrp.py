"""LRP against Captum's, where that is right; and both numbers where it is not."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from captum_relevance import X, assert_same, dense, net, off, one, ours, quietly, theirs
from helpers import assert_close, assert_unchanged, snapshot
from relevance.models import in_one_dim, randn, ready
from torch import nn

import funcattr as fa

lrp_rules = pytest.importorskip("captum.attr._utils.lrp_rules")


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("norm", [False, True])
def test_lrp(norm, act):
    model = net(norm, act)
    for target in 1, [1, 3]:
        maps, delta = assert_same(
            "LRP", model, X.clone(), target=target, return_convergence_delta=True
        )
        assert maps.any() and delta.shape == (2,)


RULES = {
    "epsilon": {"layers.0": lambda: ours.EpsilonRule(0.1), "layers.9": ours.EpsilonRule},
    "gamma": {"layers.0": lambda: ours.GammaRule(0.5, set_bias_to_zero=True)},
    "alpha 1 beta 0": {"layers.0": lambda: ours.Alpha1_Beta0_Rule(set_bias_to_zero=True)},
    "both, further back": {
        "layers.0": lambda: ours.Alpha1_Beta0_Rule(True),
        "layers.4": lambda: ours.GammaRule(0.3, True),
    },
    "identity": {"layers.1": ours.IdentityRule},
    "a pooling": {"layers.3": lambda: ours.EpsilonRule(0.2)},
}


@pytest.mark.parametrize("name", RULES)
def test_rules_on_modules(name):
    """For inputs and outputs that are not negative, which the rules that Captum has are for."""
    assert_same("LRP", net(norm=name != "gamma"), X.abs(), target=2, rule=RULES[name])


def test_rules_are_captums_own_classes():
    for name in "EpsilonRule", "GammaRule", "Alpha1_Beta0_Rule", "IdentityRule":
        assert getattr(ours, name) is getattr(lrp_rules, name)


def test_several_inputs_and_arguments():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 2), nn.Linear(4, 2)

        def forward(self, a, b, scale):
            return self.two(torch.cat((self.one(a), b), 1)) * (scale > 0)

    model, inputs = ready(Two()), (randn(2, 3), randn(2, 2))
    for name in "LRP", "DeepLift":
        assert_same(name, model, inputs, target=1, additional_forward_args=1)


def test_what_is_printed(capsys):
    model = net()
    quietly(ours, "LRP", model, X, target=1, verbose=True)
    own = capsys.readouterr().out
    quietly(theirs, "LRP", model, X, target=1, verbose=True)
    strip = lambda text: [line.split(" on layer ")[1] for line in text.splitlines()]
    assert strip(own) == strip(capsys.readouterr().out)


def test_the_bias_and_the_sign_of_inputs():
    """Captum's own rules for signed inputs and with a bias, and what they are off by."""
    alpha, gamma = ours.Alpha1_Beta0_Rule, ours.GammaRule
    for make, x, least in (
        (alpha, X.abs(), 0.01),
        (lambda: alpha(True), X, 0.5),
        (gamma, X.abs(), 0.001),
        (lambda: gamma(0.25, True), X, 0.01),
    ):
        rule = {"layers.0": make}
        model = net(norm=False)
        own, other = (quietly(of, "LRP", model, x, target=1, rule=rule) for of in (ours, theirs))
        assert off(other, own) > least
        zero = getattr(make(), "set_bias_to_zero", False)
        kind = fa.rules.z_plus if make is alpha or type(make()) is alpha else fa.rules.gamma
        first = (fa.first("convolution"), kind(eps=1e-9, zero_bias=zero))
        rest = [(k, fa.rules.epsilon(1e-9)) for k in ("convolution", "linear", "max_pool", "mean")]
        composite = fa.Composite([first, ("activation", fa.rules.pass_through), *rest])
        assert_close(own, fa.lrp(model, composite)(x, target=1), 1e-8)


# name -> (model, sum of relevance over output by Captum, or its error)
WRONG = {
    "x + f(x)": (lambda: one(lambda m, x: m[1](x + m[0](x)), *dense(3, 3, 2)), 0.43),
    "F.linear": (
        lambda: one(lambda m, x: m[1](F.linear(x, m[0].weight)), *dense(3, 3, 2)),
        -1.37,
    ),
    "torch.tanh": (lambda: one(lambda m, x: m[1](m[0](x).tanh()), *dense(3, 3, 2)), None),
    "twice": (lambda: one(lambda m, x: m[1](m[0](m[0](x))), *dense(3, 3, 2)), RuntimeError),
    "ELU": (lambda: ready(nn.Sequential(*dense(3, 3), nn.ELU(), *dense(3, 2))), TypeError),
    "Flatten": (lambda: ready(nn.Sequential(nn.Flatten(), *dense(3, 2))), TypeError),
    "conv1d": (lambda: ready(in_one_dim()), TypeError),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_captums_lrp_does_not_see(name):
    make, expected = WRONG[name]
    model, x = make(), randn(2, 32) if name == "conv1d" else randn(2, 3)
    x = randn(2, 2, 32) if name == "conv1d" else x
    _, delta = quietly(ours, "LRP", model, x, target=1, return_convergence_delta=True)
    if name != "conv1d":  # which has biases
        assert_close(delta, torch.zeros_like(delta), 1e-6)
    if isinstance(expected, type):
        with pytest.raises(expected):
            quietly(theirs, "LRP", model, x, target=1)
        return
    other = quietly(theirs, "LRP", model, x, target=1)
    ratio = (other.sum(1) / model(x)[:, 1]).detach()
    if expected is not None:
        assert_close(float(ratio[0]), expected, 0.01)
    assert (ratio - 1).abs().max() > 0.1


def test_rules_stay():
    """Captum takes them off, so that its next map is another."""
    model = net(norm=False)
    model.layers[0].rule = ours.GammaRule(1.0, True)
    before = snapshot(model)
    maps = [ours.LRP(model).attribute(X.abs(), target=1) for _ in range(2)]
    assert torch.equal(*maps)
    assert_unchanged(model, before)
    captums = theirs.LRP(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = [captums.attribute(X.abs(), target=1).detach() for _ in range(2)]
    assert off(*both) > 0.01
    assert_close(both[0], maps[0])


def test_wrong_rules():
    model = net()
    for rule in "epsilon", lrp_rules.EpsilonRule, type("Own", (lrp_rules.EpsilonRule,), {})():
        model.layers[0].rule = rule
        with pytest.raises(TypeError, match="EpsilonRule, GammaRule"):
            ours.LRP(model)
