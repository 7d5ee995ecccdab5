"""The slow oracle and zennit, which share nothing, have the same numbers; where zennit has others.

Nothing of funcattr is in here. Where zennit is wrong, that is pinned, so that a repair shows.
"""

import pytest
import torch
from helpers import assert_close
from torch import nn

from relevance import oracle, zennit_oracle
from relevance.functional import NETS, written
from relevance.models import (
    COMPOSITES,
    KINDS,
    LAYERS,
    RULES,
    SEQUENTIAL,
    even,
    network,
    one_layer,
    randn,
    ready,
)


def both(model, chain, x, composite, eps=1e-6, **how):
    args = COMPOSITES[composite]
    ours = oracle.lrp(chain, getattr(oracle, composite)(*args, eps=eps), x, [1, 3], **how)
    composite = zennit_oracle.composite(composite, *args, eps=eps)
    return ours, zennit_oracle.lrp(model, composite, x, [1, 3], **how)


@pytest.mark.parametrize("name", [*SEQUENTIAL, "resnet", *NETS])
def test_the_chain_is_the_model(name):
    model, chain, x = written(name) if name in NETS else network(name)
    with torch.no_grad():
        assert_close(chain(x), model(x), 1e-12)


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", [*SEQUENTIAL, "resnet"])
def test_composites(name, composite):
    model, chain, x = network(name)
    for start, eps in ("value", 1e-6), ("one", 0.1):
        ours, theirs = both(model, chain, x, composite, eps, start=start)
        assert ours.abs().max() > 1e-3
        assert_close(ours, theirs)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", LAYERS)
@even
def test_rules_at_one_layer(layer, rule):
    name, *args = RULES[rule]
    for bias in "bias", "no bias", "zero_bias":
        how = {"eps": 0.1, "zero_bias": bias == "zero_bias"}
        rules = {"linear": oracle.epsilon(), "first": (KINDS, getattr(oracle, name)(*args, **how))}
        theirs = zennit_oracle.first_layer(zennit_oracle.rule(name, *args, **how))
        for signed in True, False:
            model, chain, x = one_layer(layer, bias=bias != "no bias", signed=signed)
            ours = oracle.lrp(chain, rules, x, [2, 0])
            assert ours.abs().amax() > 1e-3
            assert_close(ours, zennit_oracle.lrp(model, theirs, x, [2, 0]))


@pytest.mark.parametrize("name", ["flat", "w_square"])
@pytest.mark.parametrize("net", ["vgg", "three dims"])
def test_rules_that_give_relevance_to_zeros(net, name):
    """Of hidden layers they hand it to dead units, and activations and poolings hand it on."""
    model, chain, x = network(net)
    rules = oracle.table(getattr(oracle, name)(), oracle.epsilon())
    rows = [(zennit_oracle.types.Convolution, zennit_oracle.rule(name))]
    rows += [(nn.Linear, zennit_oracle.rule("epsilon"))]
    rows += zennit_oracle.composites.layer_map_base()
    theirs = zennit_oracle.composites.LayerMapComposite(rows)
    expected = zennit_oracle.lrp(model, theirs, x, 2)
    assert_close(oracle.lrp(chain, rules, x, 2), expected)
    assert (expected[x == 0] != 0).any()


@pytest.mark.parametrize("composite", ["epsilon_plus", "epsilon_alpha2_beta1_flat"])
@pytest.mark.parametrize(
    ("at", "layer"), [("relu", 2), ("maxpool", 3), ("layer1", 4), ("layer2", 5), ("avgpool", 6)]
)
def test_relevance_of_layers(at, layer, composite):
    """Zennit's as the gradient at what comes out of a module, the oracle's half way through."""
    model, chain, x = network("resnet")
    args = COMPOSITES[composite]
    ours = oracle.lrp(chain, getattr(oracle, composite)(*args), x, [1, 3], layer=layer)
    theirs = zennit_oracle.composite(composite, *args)
    assert_close(ours, zennit_oracle.lrp(model, theirs, x, [1, 3], at=at))


# ---------------------------------------------------------------------------- where zennit is wrong

COMPOSITE = {"HeadFirst": "epsilon_plus_flat"}


@pytest.mark.parametrize(
    "name", ["Spelled", "Products", "Skips", "Shared", "InPlace", "HeadFirst", "NormAfterSum"]
)
def test_what_zennit_does_not_see(name):
    """Functions, skip connections, second calls, the order of calls: a wrong map, and no word."""
    model, chain, x = written(name)
    ours, theirs = both(model, chain, x, COMPOSITE.get(name, "epsilon_plus"))
    assert (ours - theirs).norm() > 0.05 * ours.norm()


def test_zennit_leaves_a_merged_norm_its_eps():
    model, chain, x = network("resnet")
    composite = zennit_oracle.composite("epsilon_plus")
    ours, _ = both(model, chain, x, "epsilon_plus")
    theirs = zennit_oracle.lrp(model, composite, x, [1, 3], merge=zennit_oracle.THEIR_MERGE)
    assert 1e-6 < (ours - theirs).abs().max() / ours.abs().max() < 1e-3


def test_zennit_changes_what_a_relu_in_place_is_for():
    """It hands the module a copy, so that the skip path reads what was there before."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(inplace=True)).double()
    ruled = lambda x: model[1](h := model[0](x)) + h
    x = randn(1, 2, 3, 3).requires_grad_()
    plain = ruled(x)
    with zennit_oracle.composite("epsilon_plus").context(model):
        assert not torch.allclose(ruled(x), plain)


@pytest.mark.parametrize(
    ("how", "error"), [({"affine": False}, AttributeError), ({"groups": 3}, RuntimeError)]
)
def test_zennit_cannot_merge_all_norms(how, error):
    """Neither one without weights, nor one behind a transposed convolution with groups."""
    convolution = nn.ConvTranspose2d(3, 6, 3, groups=how.get("groups", 1))
    norm = nn.BatchNorm2d(6, affine=how.get("affine", True))
    model = ready(nn.Sequential(convolution, norm, nn.Flatten()))
    with pytest.raises(error):
        zennit_oracle.lrp(model, zennit_oracle.composite("epsilon_plus"), randn(1, 3, 4, 4), 0)
