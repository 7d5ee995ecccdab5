"""The ready-made composites on small networks of the usual shapes, against zennit's."""

import pytest
import torch
from helpers import assert_close, assert_unchanged, snapshot

import funcattr as fa
from relevance import oracle, zennit_oracle
from relevance.models import COMPOSITES, RECTIFIED, SEQUENTIAL, chain_of, network, randn

TARGETS = [1, 3]
# Excitation backprop is for ReLUs; zennit multiplies relevance by the slope of what else there is.
CASES = [
    (name, composite)
    for name in [*SEQUENTIAL, "resnet"]
    for composite in COMPOSITES
    if name in RECTIFIED or composite != "excitation_backprop"
]


def by_funcattr(model, name, x, *, eps=1e-6, start="value", target=TARGETS):
    composite = getattr(fa.composites, name)(*COMPOSITES[name], eps=eps)
    return fa.lrp(model, composite, start=start)(x, target=target)


def by_zennit(model, name, x, *, eps=1e-6, target=TARGETS, **how):
    composite = zennit_oracle.composite(name, *COMPOSITES[name], eps=eps)
    return zennit_oracle.lrp(model, composite, x, target, **how)


@pytest.mark.parametrize(("name", "composite"), CASES)
def test_composites_are_zennits(name, composite):
    model, _, x = network(name)
    for start, eps in ("value", 1e-6), ("one", 0.1):
        ours = by_funcattr(model, composite, x, eps=eps, start=start)
        assert_close(ours, by_zennit(model, composite, x, eps=eps, start=start))


@pytest.mark.parametrize("composite", COMPOSITES)
def test_what_is_left_out_is_as_documented(composite):
    model, _, x = network("resnet")
    ours = fa.lrp(model, getattr(fa.composites, composite)(*COMPOSITES[composite]))
    assert_close(ours(x, target=2), by_zennit(model, composite, x, target=2))


@pytest.mark.parametrize("name", ["vgg with batch norm", "resnet"])
def test_values_are_the_models_own(name):
    """The model's to the bit, although a batch norm is merged where relevance is concerned."""
    model, _, x = network(name)
    before = snapshot(model)
    attr = fa.lrp(model, fa.composites.epsilon_plus())
    with torch.no_grad():
        assert torch.equal(attr.linearize(x)[0], model(x))
    attr(x, target=1)
    assert_unchanged(model, before)


@pytest.mark.parametrize("composite", COMPOSITES)
def test_many_targets_of_one_pass(composite):
    model, _, x = network("resnet")
    attr = fa.lrp(model, getattr(fa.composites, composite)(*COMPOSITES[composite]))
    expected = torch.stack([by_zennit(model, composite, x, target=t) for t in range(4)])
    assert_close(fa.sweep(attr, x, targets=range(4), chunk_size=3), expected)
    _, explain = attr.linearize(x)
    assert_close(torch.func.vmap(explain)(torch.arange(4)), expected)


# ------------------------------------------------------------------------------------------ details


@pytest.mark.parametrize("form", ["numbers", "per channel", "per pixel"])
def test_gamma_box(form):
    """The box of normalised pictures, in every form; another gamma."""
    model, _, x = network("vgg with batch norm")
    low, high = {
        "numbers": (-2.0, 2.5),
        "per channel": (torch.tensor([-2.1, -1.8]), torch.tensor([2.2, 2.6])),
        "per pixel": (-randn(2, 2, 8, 8).abs() - 2, randn(1, 2, 8, 8).abs() + 2),
    }[form]
    if form == "per channel":
        low, high = low[None, :, None, None], high[None, :, None, None]
    ours = fa.lrp(model, fa.composites.epsilon_gamma_box(low, high, gamma=0.5))
    theirs = zennit_oracle.composite("epsilon_gamma_box", low, high, gamma=0.5)
    assert_close(ours(x, target=TARGETS), zennit_oracle.lrp(model, theirs, x, TARGETS))


LAYERS = {
    "vgg with batch norm": ["1", "2", "3", "5", "6", "9", "10", "11", "12", "13", "14"],
    "resnet": ["bn1", "relu", "maxpool", "layer1.bn1", "layer1.bn2", "layer1", "layer2", "avgpool"],
    "one dim": ["1", "3", "5", "6", "9", "11"],
    "three dims": ["1", "2", "3", "5", "6"],
}


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", LAYERS)
def test_relevance_of_layers(name, composite):
    """Layer gradient x activation of the model with rules; zennit's is the gradient at a tensor."""
    model, _, x = network(name)
    ruled = fa.with_rules(model, getattr(fa.composites, composite)(*COMPOSITES[composite]))
    together = fa.layer_gradient_x_activation(ruled, LAYERS[name])(x, target=TARGETS)
    for at, one_of_many in zip(LAYERS[name], together):
        expected = by_zennit(model, composite, x, at=at)
        alone = fa.layer_gradient_x_activation(ruled, at)(x, target=TARGETS)
        assert_close(alone, expected)
        assert_close(one_of_many, expected)


def test_relevance_of_a_neuron():
    """Of a unit in the middle: the part of the model up to there is a model of its own."""
    model, _, x = network("vgg")
    attr = fa.lrp(fa.layer_output(model, "6"), fa.composites.epsilon_plus())
    part = model[:7]
    chain = chain_of(part)
    r = torch.zeros_like(chain(x))
    r[:, 2, 1, 0] = chain(x)[:, 2, 1, 0]
    rules = oracle.epsilon_plus()
    expected = chain.relevance(x, r, lambda layer: rules.get(layer.kind, oracle.gradient))
    assert expected.abs().max() > 1e-3
    assert_close(attr(x, target=(2, 1, 0)), expected)


@pytest.mark.parametrize("composite", COMPOSITES)
def test_single_precision(composite):
    model, chain, x = network("resnet")
    expected = oracle.lrp(chain, getattr(oracle, composite)(*COMPOSITES[composite]), x, TARGETS)
    ours = by_funcattr(model.float(), composite, x.float())
    assert ours.dtype == torch.float32
    assert_close(ours.double(), expected, 1e-4)
