"""Every way to write every activation."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_IN_PLACE_AT = {  # position of the argument ``inplace`` in torch.nn.functional
    **dict.fromkeys(("relu", "relu6", "selu", "silu", "mish", "hardswish", "hardsigmoid"), 1),
    **dict.fromkeys(("leaky_relu", "elu", "celu"), 2),
    **dict.fromkeys(("hardtanh", "threshold"), 3),
}


ACTIVATIONS = (*_IN_PLACE_AT, "prelu", "gelu", "softplus", "sigmoid", "tanh", "clamp")


RELUS = {"relu": ("relu", "relu6", "hardtanh(0, c)")}  # max(x, 0) and its clipped forms


_INFINITY = float("inf")


class Spelling(NamedTuple):
    """One way to write an activation."""

    activation: str
    text: str
    call: Callable[..., Tensor]  # the same, not in place
    in_place: bool = False
    flag: int | None = None  # position of the argument ``inplace``


def _spellings() -> dict[Callable[..., Any], Spelling]:
    spaces = (
        ("nn.functional.", F),
        ("torch.", torch),
        ("Tensor.", torch.Tensor),
        ("ops.aten.", torch.ops.aten),
    )
    names = [(a, a) for a in ACTIVATIONS]
    names += [("clamp", alias) for alias in ("clip", "clamp_min", "clamp_max")]
    table: dict[Callable[..., Any], Spelling] = {}
    for (activation, name), (prefix, space), suffix in itertools.product(names, spaces, ("", "_")):
        func = getattr(space, name + suffix, None)
        if func is None:
            continue
        call = getattr(space, name, None) or getattr(F, name)
        flag = _IN_PLACE_AT.get(name) if space is F and not suffix else None
        spelling = Spelling(activation, prefix + name + suffix, call, bool(suffix), flag)
        table.setdefault(func, spelling)
        for overload in getattr(func, "overloads", list)():
            if "out" not in overload:  # those have no derivative to begin with
                table[getattr(func, overload)] = spelling._replace(
                    text=f"{spelling.text}.{overload}", call=getattr(call, overload, call)
                )
    return table


SPELLINGS = _spellings()


def ceiling_of(activation: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    """Where a ReLU is clipped: infinity for none, and None for what is no ReLU."""
    if activation == "relu":
        return _INFINITY
    if activation == "relu6":
        return 6.0
    if activation == "hardtanh":
        low = args[0] if args else kwargs.get("min_val", -1.0)
        high = args[1] if len(args) > 1 else kwargs.get("max_val", 1.0)
        return float(high) if low == 0 else None
    return None
