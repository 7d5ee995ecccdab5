"""Backward rules: what an operation does with a cotangent on its way back.

An *elementwise* rule is a pure function ``(x, g) -> g_in``: it is told the input ``x`` of an
activation and the cotangent ``g`` of its output, both of one shape, and returns the cotangent of
the input, of that shape again. Any function of this form is a rule. `standard`, `guided`,
`deconvnet` and `guided_inclusive` also know what they mean at activations that are no ReLU (`at`).

A rule of any other operation is a *pair* of pure functions, ``prepare`` and ``pull`` (see `Pair`).
Those of relevance propagation are for cotangents that carry relevance over activation,
``c = R / x`` (see `funcattr.lrp`): then what has no rule passes relevance by its true derivative,
as LRP-0.
"""

from .elementwise import (
    BY_EXAMPLE,
    at,
    deconvnet,
    guided,
    guided_inclusive,
    standard,
)
from .pair import Elementwise, Pair, Plain, Rule, is_pair
from .propagation import floored, stabilized
from .relevance import (
    alpha_beta,
    epsilon,
    fixed_scale,
    flat,
    gamma,
    pass_through,
    share,
    stop,
    stop_weights,
    w_square,
    z_box,
    z_plus,
)

__all__ = [
    "BY_EXAMPLE",
    "Elementwise",
    "Pair",
    "Plain",
    "Rule",
    "alpha_beta",
    "at",
    "deconvnet",
    "epsilon",
    "fixed_scale",
    "flat",
    "floored",
    "gamma",
    "guided",
    "guided_inclusive",
    "is_pair",
    "pass_through",
    "share",
    "stabilized",
    "standard",
    "stop",
    "stop_weights",
    "w_square",
    "z_box",
    "z_plus",
]
