"""Relevance is neither made nor lost: without biases, all of the output arrives at the input.

What is lost is the stabilisers', and falls with them. By the formulas that needs contributions of
the sign a rule shares out to wherever there is relevance, which a narrow network does not always
have; so the networks are such that the slow oracle conserves as well.
"""

import pytest
import torch
from helpers import assert_close

import funcattr as fa
from relevance import oracle
from relevance.functional import NETS, written
from relevance.models import COMPOSITES, ResNet, chain_of, network, randn, ready, resnet_chain

TARGETS = [1, 3]
SIGNED = {"epsilon_gamma_box": (-3.0, 3.0)}  # where sums of both signs go into convolutions
# name -> (seed, composites)
CASES = {
    "wide resnet": (2, COMPOSITES),
    "vgg with batch norm": (0, COMPOSITES),
    "Spelled": (1, COMPOSITES),
    "Shared": (2, COMPOSITES),
    "Skips": (0, SIGNED),
    "Moved": (0, SIGNED),
}
PAIRS = [(name, composite) for name, (_, composites) in CASES.items() for composite in composites]


def without_biases(name):
    """A model, its chain and an input; batch norms keep their scales, with no mean and no shift."""
    seed = CASES[name][0]
    if name == "wide resnet":
        model, x = ready(ResNet(20), seed), randn(2, 2, 6, 6, seed=seed)
        chain = lambda: resnet_chain(model)
    else:
        model, _, x = written(name, seed) if name in NETS else network(name, seed)
        chain = model.chain if name in NETS else lambda: chain_of(model)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith(("bias", "running_mean")):
                tensor.zero_()
    return model, chain, x


def explained(model, x):
    return model(x).detach()[range(len(x)), TARGETS]


@pytest.mark.parametrize(("name", "composite"), PAIRS)
def test_what_is_lost_falls_with_eps(name, composite):
    model, _, x = without_biases(name)
    lost = {}
    for eps in 1e-6, 1e-9, 1e-12:
        rules = getattr(fa.composites, composite)(*COMPOSITES[composite], eps=eps)
        arrived = fa.lrp(model, rules)(x, target=TARGETS).flatten(1).sum(1)
        lost[eps] = (arrived / explained(model, x) - 1).abs().max().item()
    assert all(part < 1e3 * eps for eps, part in lost.items()), lost
    assert lost[1e-6] > 100 * lost[1e-9]


def test_every_layer_has_all_of_it():
    model, _, x = without_biases("wide resnet")
    layers = ["bn1", "relu", "maxpool", "layer1", "layer2", "avgpool", "fc"]
    ruled = fa.with_rules(model, fa.composites.epsilon_plus(eps=1e-12))
    for relevance in fa.layer_gradient_x_activation(ruled, layers)(x, target=TARGETS):
        assert_close(relevance.flatten(1).sum(1), explained(model, x))


@pytest.mark.parametrize(("name", "composite"), PAIRS)
def test_the_formulas_conserve(name, composite):
    """That the above is a property of the rules, not of how they are computed."""
    model, chain, x = without_biases(name)
    rules = getattr(oracle, composite)(*COMPOSITES[composite], eps=1e-12)
    arrived = oracle.lrp(chain(), rules, x, TARGETS).flatten(1).sum(1)
    assert_close(arrived, explained(model, x))
