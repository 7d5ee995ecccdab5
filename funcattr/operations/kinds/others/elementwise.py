"""Calls of any elementwise torch function that has no kind of its own, as operations.

Of some functions of two tensors either can be what depends on the input (``2 ** x``, ``x ** 2``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import resolve_name

from ....core.graph import constant, name_of, show
from ....errors import ArgumentError, short
from ...operation import Args, Call, Depends, Kind, Kwargs, Operation
from ..activation import Activation, Spelling, call_of
from ..outcome import spelled

#: Functions that write to their first argument, and those that return the result.
_RESULT = {
    getattr(space, name): getattr(space, name[:-1])
    for space in (torch, torch.Tensor)
    for name in dir(space)
    if name.endswith("_") and not name.endswith("__") and hasattr(space, name[:-1])
} | {torch.Tensor.__ipow__: torch.Tensor.pow}
show(*_RESULT)

_QUOTIENTS = spelled("div", "divide", "true_divide", "div_", "divide_", "true_divide_")
_OF_TWO = _QUOTIENTS | spelled(
    *("pow", "float_power", "xlogy", "xlog1py", "polygamma", "__pow__", "__rpow__", "__rdiv__"),
    *("pow_", "float_power_", "xlogy_", "__ipow__"),
)
#: What their arguments are called, the first before the second.
_NAMES = ("n", "input", "self", "other", "exponent")


def other(func: Callable[..., Any], args: Args, kwargs: Kwargs, depends: Depends) -> Call:
    """A call of any elementwise torch function that is not among the activations.

    Raises:
        ArgumentError: its first argument is no tensor, on which rules act.
    """
    shown, name, in_place, of_two, quotient = _known(func)
    spelling = Spelling(shown, name, func, in_place)
    if of_two:
        return _of_two(spelling, quotient, args, kwargs, depends)._replace(spelling=shown)
    if args and not isinstance(args[0], Tensor):
        raise ArgumentError(
            f"a rule for {shown} acts on its first argument, which is a tensor then; the function "
            f"calls it with {short(args[0])}."
        )
    return call_of(spelling, args, kwargs)._replace(spelling=shown)


@constant
def _known(func: Callable[..., Any]) -> tuple[str, str, bool, bool, bool]:
    """Of a function: how it is shown, the name of the one that returns the result, whether it
    writes that to its first argument, whether it is of two, and whether it is a quotient.
    """
    shown, name = resolve_name(func) or repr(func), name_of(_RESULT.get(func, func))
    return shown, name, func in _RESULT, func in _OF_TWO, func in _QUOTIENTS


def _of_two(
    spelling: Spelling, quotient: bool, args: Args, kwargs: Kwargs, depends: Depends
) -> Call:
    """A call of two, as an operation of the first, or of the second where that alone depends."""
    for name in _NAMES:
        if len(args) < 2 and name in kwargs:
            args = (*args, kwargs[name])
            kwargs = {key: value for key, value in kwargs.items() if key != name}
    first, second, *rest = args
    quotient = quotient and kwargs.get("rounding_mode") is None
    if not isinstance(second, Tensor):
        return call_of(spelling, args, kwargs, quotient=quotient)
    if not isinstance(first, Tensor):
        return call_of(spelling, (second, *rest), kwargs, first=(first,), quotient=quotient)
    floats = first.is_floating_point(), second.is_floating_point()
    turned = not depends(first) and depends(second) if all(floats) else floats[1]
    if not turned:
        return call_of(spelling, args, kwargs, quotient=quotient)
    call = call_of(spelling, (second, first, *rest), kwargs, turned=True, quotient=quotient)
    if not spelling.in_place:
        return call
    before = first.clone()  # which is written to
    return call._replace(tensors=(before, *call.tensors[1:]), written=first)


def turned(operation: Operation, kind: Kind) -> Operation:
    """An operation of two tensors as one of this kind, which is of the other of both.

    What is made of a baseline does not say that it depends on it.
    """
    own, x = operation.kind, operation.tensors[0] if operation.tensors else None
    if not isinstance(own, Activation) or x is None or own.turned_round() != kind:
        return operation
    tensors = (operation.x, *operation.tensors[1:])
    return Operation(kind, x, tensors, tuple(x.shape), known=operation.value())
