"""Compiled code, for a few networks: it is slow to make."""

import warnings

import torch

import funcattr as fa

from .case import RULES, close
from .oracles import tensors

COMPILED = 200  # of so many networks one is compiled
REFUSED = (fa.errors.HiddenSiteError, fa.LayerError)


def compiled(case):
    """A compiled attribution gives the oracle's maps; of relevance, and at a layer, the eager ones.

    Those the other checks compare with oracles.
    """
    name, (ours, theirs) = case.rule(), case.target()
    attr = fa.rule_backprop(case.model, RULES[name], case.argnums)
    close(by_compiler(case, attr, ours), case.oracle.maps(name, theirs), f"compiled {name}", 1e-8)
    others = [fa.lrp(case.model, fa.composites.epsilon_plus(), case.argnums)]
    if case.layers:
        layer, at_input = case.random.choice(case.layers), case.random.random() < 0.5
        how = {"attribute_to_layer_input": at_input}
        others.append(fa.layer_gradient_x_activation(case.model, layer.name, **how))
    for attr in others:
        maps = tensors(attr(*case.args, **case.kwargs, target=ours))
        close(by_compiler(case, attr, ours), maps, f"compiled {attr!r}", 1e-8)


def by_compiler(case, attr, target):
    """The maps of compiled code; where it refuses, the error as it is without the compiler."""
    torch.compiler.reset()
    code = torch.compile(attr, backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the compiler remarks while it traces, as on .grad
        try:
            return tensors(code(*case.args, **case.kwargs, target=target))
        except Exception as error:
            for kind in REFUSED:
                if kind.__name__ in str(error):
                    raise kind("compiled code cannot follow") from error
            raise
