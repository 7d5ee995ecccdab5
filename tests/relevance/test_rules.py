"""Every rule at one layer, against its formula and against zennit's rule of the same name.

A linear head behind the layer gives it relevance of both signs everywhere. The stabiliser is large,
so that one in the wrong place shows.
"""

import pytest
import torch
from helpers import assert_close
from torch import nn

import funcattr as fa
from relevance import oracle, zennit_oracle
from relevance.models import KINDS, LAYERS, RULES, even, network, one_layer, randn

TARGETS = [2, 0]


def rule_of(name, **how):
    name, *args = RULES[name]
    if name in ("flat", "z_box"):  # where a bias has no part, or cancels
        how.pop("zero_bias", None)
    return getattr(fa.rules, name)(*args, **how)


def at_the_layer(rule):
    """The rule for the layer, epsilon for the head."""
    rows = [(lambda path: path == "layer", rule), ("linear", fa.rules.epsilon())]
    return fa.Composite(rows)


def by_formula(chain, rule, x, target=TARGETS, **how):
    rules = {"linear": oracle.epsilon(), "first": (KINDS, rule)}
    return oracle.lrp(chain, rules, x, target, **how)


@pytest.mark.parametrize("bias", ["bias", "no bias", "zero_bias"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", LAYERS)
@even
def test_rule(layer, rule, bias):
    name, *args = RULES[rule]
    how = {"eps": 0.1, "zero_bias": bias == "zero_bias"}
    theirs = zennit_oracle.first_layer(zennit_oracle.rule(name, *args, **how))
    for signed in True, False:
        model, chain, x = one_layer(layer, bias=bias != "no bias", signed=signed)
        ours = fa.lrp(model, at_the_layer(rule_of(rule, **how)))(x, target=TARGETS)
        assert_close(ours, by_formula(chain, getattr(oracle, name)(*args, **how), x))
        assert_close(ours, zennit_oracle.lrp(model, theirs, x, TARGETS))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", ["linear", "conv2d, strided, padded"])
def test_what_is_left_out_is_as_documented(layer, rule):
    """A stabiliser of 1e-6, and biases that take part."""
    name, *args = RULES[rule]
    model, chain, x = one_layer(layer)
    ours = fa.lrp(model, at_the_layer(rule_of(rule)))(x, target=TARGETS)
    assert_close(ours, by_formula(chain, getattr(oracle, name)(*args), x))


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "alpha_beta"])
def test_numbers_that_are_left_out(rule):
    model, chain, x = one_layer("conv2d")
    ours = fa.lrp(model, at_the_layer(getattr(fa.rules, rule)()))(x, target=TARGETS)
    assert_close(ours, by_formula(chain, getattr(oracle, rule)(), x))


@pytest.mark.parametrize("start", ["value", "one"])
def test_what_relevance_the_output_has(start):
    model, chain, x = one_layer("conv2d")
    ours = fa.lrp(model, at_the_layer(fa.rules.z_plus()), start=start)
    expected = by_formula(chain, oracle.z_plus(), x, start=start)
    assert_close(ours(x, target=TARGETS), expected)
    assert_close(ours(x, target=2)[:1], expected[:1])


def test_the_default_start_is_the_value():
    model, _, x = one_layer("linear")
    composite = at_the_layer(fa.rules.epsilon())
    default, value = fa.lrp(model, composite), fa.lrp(model, composite, start="value")
    assert_close(default(x, target=1), value(x, target=1), 0)


BOXES = {
    "per channel": (torch.tensor([-2.0, -3.0])[None, :, None, None], 3.0),
    "per number": (-randn(2, 2, 5, 4).abs() - 2.5, randn(1, 2, 5, 4).abs() + 2.5),
    "zero and one": (0, 1),
    "without a batch": (torch.tensor([-2.0, -3.0])[:, None, None], torch.tensor(3.0)),
}


@pytest.mark.parametrize("box", BOXES)
def test_boxes(box):
    model, chain, x = one_layer("conv2d")
    ours = fa.lrp(model, at_the_layer(fa.rules.z_box(*BOXES[box])))(x, target=TARGETS)
    assert_close(ours, by_formula(chain, oracle.z_box(*BOXES[box]), x))
    if box != "without a batch":  # zennit appends dims instead
        theirs = zennit_oracle.first_layer(zennit_oracle.rule("z_box", *BOXES[box]))
        assert_close(ours, zennit_oracle.lrp(model, theirs, x, TARGETS))


@pytest.mark.parametrize("rule", ["flat", "w_square", "z_box"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_black_pixels_have_relevance(rule, dtype):
    """These rules do not look at the input, so an input of zeros has relevance as any other."""
    name, *args = RULES[rule]
    model, chain, x = one_layer("conv2d, strided, padded")
    x = torch.zeros_like(x)
    ours = fa.lrp(model.to(dtype), at_the_layer(rule_of(rule)))(x.to(dtype), target=TARGETS)
    expected = by_formula(chain, getattr(oracle, name)(*args), x)
    assert ours.dtype == dtype and expected.abs().max() > 1e-3
    assert_close(ours.double(), expected, 1e-9 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("rule", ["flat", "w_square"])
@pytest.mark.parametrize("net", ["vgg", "three dims"])
def test_dead_units_have_relevance(net, rule):
    """Hidden layers give some to units that are off, and ReLUs and poolings hand it on."""
    model, chain, x = network(net)
    rows = [("activation", fa.rules.pass_through), ("convolution", rule_of(rule))]
    rows += [("linear", fa.rules.epsilon()), ("mean", fa.rules.epsilon())]
    rules = oracle.table(getattr(oracle, rule)(), oracle.epsilon())
    expected = oracle.lrp(chain, rules, x, TARGETS)
    assert_close(fa.lrp(model, fa.Composite(rows))(x, target=TARGETS), expected)


def test_alpha_one_is_z_plus():
    model, _, x = one_layer("conv2d")
    one, other = fa.rules.alpha_beta(1.0, 0.0), fa.rules.z_plus()
    ours = [fa.lrp(model, at_the_layer(rule))(x, target=1) for rule in (one, other)]
    assert_close(*ours, 1e-12)


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 0.0), (1.0, 1.0), (0.0, -1.0)])
def test_alpha_and_beta_that_lose_relevance(alpha, beta):
    with pytest.raises(fa.ArgumentError):
        fa.rules.alpha_beta(alpha, beta)


def test_a_start_of_no_meaning():
    with pytest.raises(fa.ArgumentError):
        fa.lrp(nn.Linear(2, 2), fa.Composite([("linear", fa.rules.epsilon())]), start="two")
