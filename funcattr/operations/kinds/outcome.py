"""Operations of which a rule goes by the outcome alone: sums, means, products of two tensors.

The site stands behind the operation, whose own derivative is torch's, and its rule scales the
cotangent on its way there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operation import Args, Call, Depends, Kind, Kwargs, Operation, Recognise


@dataclass(frozen=True)
class Outcome(Kind):
    """What an operation of this name came to: the identity."""

    name: str
    reads_x = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def value(self, x: Tensor, *tensors: Tensor | None) -> Tensor:
        return x.clone()

    def push(self, t: Tensor, x: Tensor | None, *tensors: Tensor | None) -> Tensor:
        return t

    def pull(self, g: Tensor, operation: Operation) -> Tensor:
        return g


_SPACES = (torch, torch.Tensor, torch.linalg, torch.special, F)


def spelled(*names: str) -> frozenset[Callable[..., Any]]:
    """Torch's functions of these names; of its operators see `operators.FUNCTIONS`."""
    return frozenset(getattr(s, name) for name in names for s in _SPACES if hasattr(s, name))


def _in_place(**names: str) -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """Functions that write to their first argument, and those that return the result."""
    return {f: getattr(torch, name) for own, name in names.items() for f in spelled(own)}


_ADDED = _in_place(add_="add", sub_="sub", subtract_="sub")
_ADDS = spelled("add", "sub", "subtract", "rsub", "__rsub__")
_MULTIPLIED = _in_place(mul_="mul", multiply_="mul")
_MULTIPLIES = spelled("mul", "multiply")
_SUMS = spelled("sum", "nansum")
_AVERAGES: tuple[Callable[..., Any], ...] = (
    *spelled("mean", "nanmean"),
    *(F.avg_pool1d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool3d),
)


def _two(
    name: str, in_place: Mapping[Any, Any], enough: Callable[[Iterable[bool]], bool]
) -> Recognise:
    """Recognises what is made of two tensors, of which ``enough`` depend on the input."""

    def recognise(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
        two = len(args) > 1 and isinstance(args[0], Tensor) and isinstance(args[1], Tensor)
        if not two or "out" in kwargs or not enough(map(depends, args[:2])):
            return None
        operands = (("", 0), ("", 1)) if name == "product" else ()
        if func in in_place:
            written = args[0]  # whose derivative needs what is there before
            out = in_place[func](written.clone(), *args[1:], **kwargs)
            return Call(Outcome(name), out, (), func.__name__, True, written, None, operands)
        return Call(Outcome(name), func(*args, **kwargs), (), func.__name__, operands=operands)

    return recognise


def _one(name: str) -> Recognise:
    """Recognises what is made of one tensor that depends on the input."""

    def recognise(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
        if not args or "out" in kwargs or not depends(args[0]):
            return None
        return Call(Outcome(name), func(*args, **kwargs), (), func.__name__)

    return recognise


def _square(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    """A variance, the mean of what is multiplied with itself: the same tensor is both operands."""
    call = _one("product")(func, args, kwargs, depends)
    return None if call is None else call._replace(operands=(("", 0), ("", 0)))


SUMS: Mapping[Callable[..., Any], Recognise] = {
    **dict.fromkeys((*_ADDS, *_ADDED), _two("sum", _ADDED, any)),
    **dict.fromkeys(_SUMS, _one("sum")),
}
MEANS: Mapping[Callable[..., Any], Recognise] = dict.fromkeys(_AVERAGES, _one("mean"))
PRODUCTS: Mapping[Callable[..., Any], Recognise] = {
    **dict.fromkeys((*_MULTIPLIES, *_MULTIPLIED), _two("product", _MULTIPLIED, all)),
    **dict.fromkeys(spelled("var"), _square),
}
