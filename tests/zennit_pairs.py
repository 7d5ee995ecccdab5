"""What the tests of `funcattr.compat.zennit` share: one call by both libraries."""

import copy

import torch
from helpers import assert_close
from relevance.models import randn
from relevance.zennit_oracle import MergeBatchNorm, skip_as_a_module, torchvision_stub
from torch import nn

from funcattr.compat import zennit as ours

with torchvision_stub():
    from zennit import attribution, canonizers, composites, layer, rules, types

ZENNIT = [attribution, composites, rules, types, layer]
BOX = {"EpsilonGammaBox": (-3.0, 3.0)}


class Theirs:
    """The names of zennit's modules in one place, as here."""

    def __getattr__(self, name):
        return next(getattr(m, name) for m in ZENNIT if hasattr(m, name))


theirs = Theirs()


def both(make, model, x, attributor="Gradient", attr_output=None, seed=None, **how):
    """What ``make(library)``, a composite or None, gives by ours and by theirs."""
    results = []
    for library in ours, theirs:
        own = copy.deepcopy(model)
        composite = make(library)
        if library is theirs and composite is not None:
            composite.canonizers = [
                MergeBatchNorm(),
                canonizers.AttributeCanonizer(skip_as_a_module),
            ]
        if seed is not None:
            torch.manual_seed(seed)
        with getattr(library, attributor)(own, composite, **how) as call:
            out, relevance = call(x.detach().clone(), attr_output)
        results.append((out.detach(), relevance.detach()))
    return results


def assert_same(*args, **kwargs):
    (out, relevance), (their_out, their_relevance) = both(*args, **kwargs)
    assert_close(out, their_out)
    assert_close(relevance, their_relevance)
    assert relevance.any()


def composite_of(name, *args, **kwargs):
    return lambda library: getattr(library, name)(*BOX.get(name, ()), *args, **kwargs)


def not_in_place(model):
    """Zennit's hook would read what comes out of a ReLU, where it means what goes in."""
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False


def signed(x, targets=4):
    return randn(len(x), targets)
