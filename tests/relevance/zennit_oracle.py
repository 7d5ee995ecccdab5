"""Zennit's relevance, as a second opinion where zennit is right.

It is told by hand what it cannot see: which batch norms to merge, and where a block adds up.
"""

import contextlib
import copy
import importlib
import importlib.util
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from relevance.models import Block


@contextlib.contextmanager
def torchvision_stub():
    """Zennit imports two classes of torchvision, for canonizers not used here: empty ones do.

    Only while zennit is imported: other tests must still find torchvision missing where it is.
    """
    names = ["torchvision", "torchvision.models", "torchvision.models.resnet"]
    if importlib.util.find_spec("torchvision") is not None:
        names = []
    try:
        for name in names:
            sys.modules[name] = ModuleType(name)
            sys.modules[name].Bottleneck = sys.modules[name].BasicBlock = type("Block", (), {})
        yield
    finally:
        for name in names:
            del sys.modules[name]


with torchvision_stub():
    pytest.importorskip("zennit")
    from zennit import canonizers, composites, layer, rules, types

COMPOSITES = {
    "epsilon_plus": composites.EpsilonPlus,
    "epsilon_plus_flat": composites.EpsilonPlusFlat,
    "epsilon_alpha2_beta1": composites.EpsilonAlpha2Beta1,
    "epsilon_alpha2_beta1_flat": composites.EpsilonAlpha2Beta1Flat,
    "epsilon_gamma_box": composites.EpsilonGammaBox,
    "excitation_backprop": composites.ExcitationBackprop,
}
RULES = {
    "epsilon": rules.Epsilon,
    "z_plus": rules.ZPlus,
    "alpha_beta": rules.AlphaBeta,
    "gamma": rules.Gamma,
    "flat": rules.Flat,
    "w_square": rules.WSquare,
    "z_box": rules.ZBox,
}


THEIR_MERGE = canonizers.SequentialMergeBatchNorm


class MergeBatchNorm(canonizers.SequentialMergeBatchNorm):
    """Zennit's, which leaves the merged norm its eps, so that what is left is no identity."""

    @staticmethod
    def merge_batch_norm(modules, batch_norm):
        canonizers.SequentialMergeBatchNorm.merge_batch_norm(modules, batch_norm)
        batch_norm.eps = 0.0


def skip_as_a_module(name, module):
    """A block's forward pass with the sum of its branches where a hook can see it."""
    if not isinstance(module, Block):
        return None

    def forward(x):
        return module.relu(module.sum(torch.stack(module.branches(x), -1)))

    return {"forward": forward, "sum": layer.Sum()}


def rule(name, *args, eps=1e-6, zero_bias=False):
    """Zennit's rule of the same name as funcattr's."""
    stabiliser = {"epsilon" if name == "epsilon" else "stabilizer": eps}
    return RULES[name](*args, **stabiliser, zero_params="bias" if zero_bias else None)


def composite(name, *args, eps=1e-6, **kwargs):
    """Zennit's composite of the same name as funcattr's."""
    both = {} if name == "excitation_backprop" else {"epsilon": eps}
    return COMPOSITES[name](*args, stabilizer=eps, **both, **kwargs)


def first_layer(rule):
    """One rule for the first layer with a weight, epsilon for linear layers behind it."""
    return composites.SpecialFirstLayerMapComposite(
        [(types.Activation, rules.Pass()), (nn.Linear, rules.Epsilon())], [(types.Linear, rule)]
    )


def lrp(model, composite, x, target, *, start="value", at=None, merge=MergeBatchNorm):
    """Relevance of the input, or of what comes out of the module at path ``at``; on a copy.

    ``target`` is an int or a list with one per example.
    """
    model = copy.deepcopy(model).double().eval()
    composite.canonizers = [merge(), canonizers.AttributeCanonizer(skip_as_a_module)]
    x, seen = x.detach().clone().requires_grad_(), []
    with composite.context(model) as modified:
        if at is not None:
            # Last of the hooks, so that what it sees is what the next module gets.
            modified.get_submodule(at).register_forward_hook(lambda m, i, out: seen.append(out))
        out = modified(x)
        one_hot = nn.functional.one_hot(torch.as_tensor(target).expand(len(x)), out.shape[1]).to(x)
        relevance = one_hot * out.detach() if start == "value" else one_hot
        (result,) = torch.autograd.grad(out, seen[-1] if seen else x, relevance)
    return result.detach()
