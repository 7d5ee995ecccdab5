"""Relevance rules at all linear operations, beside rules at ReLUs, against plain autograd."""

import torch

import funcattr as fa

from . import networks
from .case import RULES, Skip, close
from .linear_oracle import FORMULAS, STEADY, Linears
from .networks import CLASSES
from .oracles import tensors

LARGEST = 1e6
LINEAR_RULES = {
    "epsilon": fa.rules.epsilon(STEADY),
    "z_plus": fa.rules.z_plus(eps=STEADY),
    "alpha_beta": fa.rules.alpha_beta(2.0, 1.0, eps=STEADY),
    "gamma": fa.rules.gamma(0.25, eps=STEADY),
    "flat": fa.rules.flat(eps=STEADY),
    "w_square": fa.rules.w_square(eps=STEADY),
}


def relevance(case):
    """A composite's maps, relevance by it, and a sweep are the oracle's."""
    if any(f"'how': '{how}'" in repr(case.spec) for how in ("grad", "vjp", "jvp")):
        raise Skip("a derivative inside of the network")
    named = {kind: case.random.choice(list(FORMULAS)) for kind in ("convolution", "linear")}
    relu = case.rule()
    composite = fa.Composite(
        [
            *((kind, LINEAR_RULES[name]) for kind, name in named.items()),
            ("relu", RULES[relu]),
        ]
    )
    what = ", ".join((*named.values(), relu))
    ruled = fa.gradient(fa.with_rules(case.model, composite), case.argnums)
    attr = fa.lrp(case.model, composite, case.argnums)
    ours, theirs = case.target()
    maps = case.maps(ruled, ours)
    case.oracle.net.requires_grad_(False)
    linears = Linears({kind: FORMULAS[name] for kind, name in named.items()})

    def expected(target):
        with linears.replaced():
            maps = case.oracle.maps(relu, target)
        if any(m.abs().max() > LARGEST for m in maps):
            raise Skip("relevance over next to nothing")  # where rounding says what comes out
        return maps

    close(maps, expected(theirs), what, 1e-7)
    times = [m * x for m, x in zip(expected(theirs), tensors(case.args))]
    close(case.maps(attr, ours), times, f"lrp by {what}", 1e-7)
    targets = range(CLASSES)
    if not case.indexed:
        targets = [lambda out, t=t: networks.scores(out)[:, t] for t in range(CLASSES)]
    maps = fa.sweep(ruled, *case.args, targets=targets, chunk_size=3, **case.kwargs)
    rows = [torch.stack(column) for column in zip(*(expected(t) for t in range(CLASSES)))]
    close(tensors(maps), rows, f"sweep by {what}", 1e-7)
