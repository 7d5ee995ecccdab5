"""The operators of ``torch.ops``, which exported models call, as the functions that are the same.

Each is known by its name: ``torch.ops.aten.mul.Tensor`` is ``torch.mul``.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from ....core.graph import constant
from ....core.levels import compiling
from ..activation import SPELLINGS

Func = Callable[..., Any]

_BUILT_IN = (types.BuiltinFunctionType, types.MethodDescriptorType)
_SPACES = (torch, F, torch.Tensor, torch.linalg, torch.special)
_PREFIXES = ("", "", "", "linalg_", "special_")
#: Those written in Python that take what their operators take, in the same order.
_IN_PYTHON: tuple[Func, ...] = (
    *(torch.einsum, torch.norm, torch.split, F.pad, F.glu),
    *(F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
)
#: One with other arguments than the function of its name, and one that the compiler does not know.
_OTHERWISE = ("to", "_fused_rms_norm")


def _named() -> Iterator[tuple[int, str, str]]:
    for index, (space, prefix) in enumerate(zip(_SPACES, _PREFIXES)):
        for name in dir(space):
            function = getattr(space, name, None)
            known = isinstance(function, _BUILT_IN) or any([f is function for f in _IN_PYTHON])
            if known and not name.startswith("__"):
                yield index, name, prefix + name


def overloads(name: str) -> list[Func]:
    """The operators of this name, but those that write to ``out``."""
    packet: Any = getattr(torch.ops.aten, name, None)
    if not hasattr(packet, "overloads"):  # none, or a method of the space itself
        return []
    return [packet, *(getattr(packet, o) for o in packet.overloads() if "out" not in o)]


def _places() -> Iterator[tuple[Func, tuple[int, str]]]:
    for index, name, operator in _named():
        for one in overloads(operator) if name not in _OTHERWISE else ():
            # Activations are known by their operators, too, of which some have other arguments.
            if one not in SPELLINGS:
                yield one, (index, name)


#: Of an operator the function, as the space that has it and its name there, first that of torch.
_PLACES: dict[Func, tuple[int, str]] = dict(reversed(list(_places())))
FUNCTIONS: dict[Func, Func] = {
    one: getattr(_SPACES[index], name) for one, (index, name) in _PLACES.items()
}


def function_of(func: Func) -> Func:
    """The function that an operator is; others are themselves."""
    if not compiling():
        return FUNCTIONS.get(func, func)
    index, name = _place(func)  # the compiler does not take functions from a dictionary
    found: Func = getattr(_SPACES[index], name) if name else func
    return found


@constant
def _place(func: Func) -> tuple[int, str]:
    return _PLACES.get(func, (0, ""))
