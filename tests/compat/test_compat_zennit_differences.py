"""Where the numbers differ from zennit's, and both of them; docs/zennit.md has the table."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close
from relevance.models import network, randn, ready
from torch import nn
from zennit_pairs import both, canonizers, composite_of, not_in_place, ours, signed, theirs

import funcattr as fa


class Made(nn.Module):
    """A model of some layers and a function of them."""

    def __init__(self, forward, *layers):
        super().__init__()
        self.layers, self.function = nn.ModuleList(layers), forward

    def forward(self, x):
        return self.function(self.layers, x)


def linear(ins, outs):
    return nn.Linear(ins, outs, bias=False)


# name -> (model, sum of relevance over output by funcattr and by zennit)
SUMS = {
    "F.linear": (
        lambda: Made(lambda m, x: m[1](F.linear(x, m[0].weight)), linear(3, 3), linear(3, 2)),
        (1.0, -1.37),
    ),
    "x + f(x)": (
        lambda: Made(lambda m, x: m[1](x + m[0](x)), linear(3, 3), linear(3, 2)),
        (1.0, 2.0),
    ),
    "0.1 * f(x)": (
        lambda: Made(lambda m, x: m[1](0.1 * m[0](x)), linear(3, 3), linear(3, 2)),
        (1.0, 0.1),
    ),
    "F.gelu": (
        lambda: Made(lambda m, x: m[1](F.gelu(m[0](x))), linear(3, 3), linear(3, 2)),
        (1.0, 1.04),
    ),
}


def hot(out):
    """The relevance of the output 1, which is its value."""
    return out * F.one_hot(torch.ones(len(out), dtype=torch.long), out.shape[1]).to(out)


@pytest.mark.parametrize("name", SUMS)
def test_functional_code_skips_and_scales_conserve_relevance(name):
    make, expected = SUMS[name]
    found = both(composite_of("EpsilonPlus"), ready(make()), randn(2, 3), attr_output=hot)
    ratios = [float(r[0].sum() / out[0, 1]) for out, r in found]
    assert_close(ratios, list(expected), 0.02)


def maps(make, model, x, attr_output=None, canonizer=None):
    """The two maps, and the two outputs; with a canonizer for zennit or without."""
    found = []
    for library in ours, theirs:
        composite = make(library)
        composite.canonizers = [] if canonizer is None else [canonizer]
        own = copy.deepcopy(model)
        with library.Gradient(own, composite) as attributor:
            found.append([t.detach() for t in attributor(x.clone(), attr_output)])
    (out, ours_), (their_out, theirs_) = found
    return ours_, theirs_, out, their_out


def off(a, b):
    return float((a - b).abs().max() / b.abs().max())


def test_merged_norms_keep_no_eps():
    model, _, x = network("vgg with batch norm")
    merge = canonizers.SequentialMergeBatchNorm()
    own, other, out, their_out = maps(composite_of("EpsilonPlus"), model, x, signed(x), merge)
    assert torch.equal(out, model(x))
    assert_close(off(their_out, out), 1.4e-5, 1e-6)
    assert_close(off(other, own), 2.7e-5, 1e-6)


def test_norms_merge_without_a_canonizer():
    """As in zennit with one. Without, relevance passes the norm as it is."""
    model, _, x = network("vgg with batch norm")
    own, other, *_ = maps(composite_of("EpsilonPlus"), model, x, signed(x))
    assert_close(off(other, own), 0.71, 0.01)
    assert_close(own, both(composite_of("EpsilonPlus"), model, x, attr_output=signed(x))[1][1])


def test_the_first_layer_is_the_first_that_runs():
    late, early = nn.Linear(3, 2), nn.Linear(3, 3)
    model = ready(Made(lambda m, x: m[0](m[1](x).relu()), late, early))
    own, other, *_ = maps(composite_of("EpsilonPlusFlat"), model, randn(2, 3), signed(randn(2), 2))
    in_order = nn.Sequential(early, nn.ReLU(), late)
    _, right, *_ = maps(composite_of("EpsilonPlusFlat"), in_order, randn(2, 3), signed(randn(2), 2))
    assert_close(own, right)
    assert off(other, right) > 0.1


def test_shared_layers():
    """Zennit's hook remembers the input of the last call, and takes it for that of all."""
    shared, last = linear(3, 3), linear(3, 2)
    apart = nn.Sequential(shared, copy.deepcopy(shared), last)
    model = ready(apart)
    model[1].load_state_dict(model[0].state_dict())
    twice = Made(lambda m, x: m[1](m[0](m[0](x))), model[0], model[2])
    own, other, *_ = maps(composite_of("EpsilonPlus"), twice, randn(2, 3))
    right = maps(composite_of("EpsilonPlus"), model, randn(2, 3))[1]
    assert_close(own, right)
    assert_close(off(other, right), 1.52, 0.01)


def test_layers_without_a_rule_conserve_relevance():
    """By LRP-0; zennit takes the gradient there, of what is a relevance behind it."""
    model = ready(nn.Sequential(linear(3, 4), nn.ReLU(), linear(4, 2)))
    make = lambda of: of.NameMapComposite([(("2",), of.Epsilon())])
    own, other, out, _ = maps(make, model, randn(2, 3), hot)
    assert_close(own.sum(1), out[:, 1], 1e-4)
    assert_close(float(other[0].sum() / out[0, 1]), -0.10, 0.01)


@pytest.mark.parametrize("name", ["GuidedBackprop", "DeconvNet", "BetaSmooth"])
def test_relus_in_every_spelling(name):
    """And its clipped forms; zennit knows the module alone."""
    spellings = {"F.relu": F.relu, "Tensor.relu": torch.Tensor.relu, "F.relu6": F.relu6}
    layers = nn.Linear(3, 4), nn.Linear(4, 2)
    module = ready(nn.Sequential(layers[0], nn.ReLU(), layers[1]))
    x = randn(2, 3)
    right = maps(composite_of(name), module, x, signed(x, 2))[1]
    for spelling in spellings.values():
        model = Made(lambda m, x, relu=spelling: m[1](relu(m[0](x))), *layers)
        own, other, *_ = maps(composite_of(name), model, x, signed(x, 2))
        assert_close(own, right)
        assert off(other, right) > 1e-3


def test_beta_smooth_of_relus_in_place_or_shared():
    """Zennit reads what came out of the one, and what went into the last call of the other."""
    in_place, _, x = network("vgg with batch norm")
    apart = copy.deepcopy(in_place)
    not_in_place(apart)
    own, other, *_ = maps(composite_of("BetaSmooth"), in_place, x, signed(x))
    right = maps(composite_of("BetaSmooth"), apart, x, signed(x))[1]
    assert_close(own, right)
    assert off(other, right) > 0.1
    shared, (one, two) = nn.ReLU(), (nn.Linear(3, 3), nn.Linear(3, 2))
    model = ready(nn.Sequential(one, nn.ReLU(), copy.deepcopy(one), nn.ReLU(), two))
    twice = nn.Sequential(*(shared if isinstance(m, nn.ReLU) else m for m in model))
    own, other, *_ = maps(composite_of("BetaSmooth"), twice, randn(2, 3))
    right = maps(composite_of("BetaSmooth"), model, randn(2, 3))[1]
    assert_close(own, right)
    assert off(other, right) > 1e-3


def test_the_input_and_the_output_have_no_graph():
    model, x = nn.Linear(3, 2), randn(2, 3).float()
    assert theirs.Gradient(model)(x, torch.ones(2, 2))[0].requires_grad
    out, gradient = ours.Gradient(model)(x, torch.ones(2, 2))
    assert not out.requires_grad
    assert_close(gradient, fa.gradient(model)(x, target=torch.sum))
