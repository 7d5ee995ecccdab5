"""Compiled code, for a few networks: it is slow to make."""

import warnings

import torch

import funcattr as fa

from .case import RULES, close
from .oracles import tensors

COMPILED = 500  # of so many networks one is compiled


def compiled(case):
    """A compiled attribution gives the oracle's maps."""
    name, (ours, theirs) = case.rule(), case.target()
    attr = fa.rule_backprop(case.model, RULES[name], case.argnums)
    torch.compiler.reset()
    code = torch.compile(attr, backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the compiler remarks while it traces, as on .grad
        maps = tensors(code(*case.args, **case.kwargs, target=ours))
    close(maps, case.oracle.maps(name, theirs), f"compiled {name}", 1e-8)
