"""Products with a weight in other spellings, and products of what both depends on the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..operation import Args, Call, Depends, Kind, Kwargs, Operation, Recognise, Tensors
from .outcome import Outcome

_FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "einsum": torch.einsum,
    "matmul": torch.matmul,
    "tensordot": torch.tensordot,
}


@dataclass(frozen=True)
class Product(Kind):
    """``function(*lead, x, weight, *rest, **more)``, or with the weight first: linear in ``x``."""

    function: str
    second: bool
    lead: tuple[Any, ...] = ()
    rest: tuple[Any, ...] = ()
    more: tuple[tuple[str, Any], ...] = ()
    names: ClassVar[tuple[str, ...]] = ("linear",)
    reads_x: ClassVar[bool] = False

    def value(self, x: Tensor, *tensors: Any) -> Tensor:
        factors = (tensors[0], x) if self.second else (x, tensors[0])
        out = _FUNCTIONS[self.function](*self.lead, *factors, *self.rest, **dict(self.more))
        return out if tensors[1] is None else out + tensors[1]

    def push(self, t: Tensor, x: Tensor | None, *tensors: Any) -> Tensor:
        return self.value(t, tensors[0], None)

    def pull(self, g: Tensor, operation: Operation) -> Tensor:
        weight = operation.tensors[0]
        here = g.new_zeros(operation.shape)  # linear: anywhere will do
        g_x: Tensor = torch.func.vjp(lambda x: self.value(x, weight, None), here)[1](g)[0]
        return g_x

    def weights(self, *tensors: Any) -> tuple[Tensor, Tensor | None] | None:
        return tensors[0], tensors[1]

    def with_weights(self, weight: Tensor, bias: Tensor | None) -> Tensors:
        return weight, bias


def product(
    function: str,
    factors: Args,
    depends: Depends,
    lead: Args = (),
    rest: Args = (),
    more: Kwargs | None = None,
    apart: bool = True,
) -> Call | None:
    """A product of two tensors, of which one depends on the input, or both do.

    ``apart`` says that they are arguments by themselves, behind ``lead``.
    """
    if len(factors) != 2 or not all(isinstance(t, Tensor) and t.dim() for t in factors):
        return None
    first, second = map(depends, factors)
    more = more or {}
    if first and second:
        out = _FUNCTIONS[function](*lead, *factors, *rest, **more)
        operands = (("", len(lead)), ("", len(lead) + 1)) if apart else ()
        return Call(Outcome("matmul"), out, (), function, operands=operands)
    if not (first or second):
        return None
    kind = Product(function, second, tuple(lead), tuple(rest), tuple(more.items()))
    return Call(kind, factors[second], (factors[not second], None), function)


def _einsum(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    equation, *factors = args
    if not isinstance(equation, str) or kwargs:
        return None
    apart = not (len(factors) == 1 and isinstance(factors[0], (tuple, list)))
    if not apart:
        factors = list(factors[0])
    return product("einsum", tuple(factors), depends, (equation,), apart=apart)


def _tensordot(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    rest = tuple(tuple(map(tuple, a)) if isinstance(a, (list, tuple)) else a for a in args[2:])
    more = {
        name: tuple(map(tuple, a)) if isinstance(a, (list, tuple)) else a
        for name, a in kwargs.items()
    }
    if "out" in more or not all(isinstance(a, (int, tuple)) for a in (*rest, *more.values())):
        return None
    return product("tensordot", args[:2], depends, (), rest, more)


def _bmm(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    return None if kwargs else product("matmul", args, depends)


def _baddbmm(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    """``beta * mask + alpha * a @ b``, as attention has its scores."""
    if "out" in kwargs or len(args) != 3 or depends(args[0]) or not all(map(depends, args[1:])):
        return None
    out, operands = func(*args, **kwargs), (("", 1), ("", 2))
    return Call(Outcome("matmul"), out, (), "baddbmm", operands=operands)


CALLS: Mapping[Callable[..., Any], Recognise] = {
    **dict.fromkeys((torch.baddbmm, torch.Tensor.baddbmm), _baddbmm),
    torch.einsum: _einsum,
    torch.functional.einsum: _einsum,
    torch.tensordot: _tensordot,
    torch.functional.tensordot: _tensordot,
    **dict.fromkeys((torch.bmm, torch.Tensor.bmm), _bmm),
}
