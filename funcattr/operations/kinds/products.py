"""Products with a weight in other spellings, and products of what both depends on the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..operation import Args, Call, Depends, Kind, Kwargs, Operation, Recognise, Tensors
from .outcome import Outcome, spelled

#: Products of two tensors, linear in each.
_FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "einsum": torch.einsum,
    "matmul": torch.matmul,
    "tensordot": torch.tensordot,
    "mv": torch.mv,
    "dot": torch.dot,
    "vdot": torch.vdot,
    "inner": torch.inner,
    "vecdot": torch.linalg.vecdot,
    "outer": torch.outer,
    "kron": torch.kron,
    # Of a shift and two factors; without the shift it is zeros of no dim.
    "baddbmm": torch.baddbmm,
    "addmv": torch.addmv,
    "addr": torch.addr,
    "addbmm": torch.addbmm,
}
_SHIFTED = ("baddbmm", "addmv", "addr", "addbmm")


@dataclass(frozen=True)
class Product(Kind):
    """``function(*lead, x, weight, *rest, **more)``, or with the weight first: linear in ``x``.

    Those with a shift have it in front.
    """

    function: str
    second: bool
    lead: tuple[Any, ...] = ()
    rest: tuple[Any, ...] = ()
    more: tuple[tuple[str, Any], ...] = ()
    names: ClassVar[tuple[str, ...]] = ("linear",)
    reads_x: ClassVar[bool] = False
    any_batch: ClassVar[bool] = False  # the examples may be along any dim, or along none

    def value(self, x: Tensor, *tensors: Any) -> Tensor:
        factors = (tensors[0], x) if self.second else (x, tensors[0])
        if self.function in _SHIFTED:
            shift = x.new_zeros(()) if tensors[1] is None else tensors[1]
            return _FUNCTIONS[self.function](shift, *factors)
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
        if name != "out" or a is not None  # torch hands its default on
    }
    if "out" in more or not all(isinstance(a, (int, tuple)) for a in (*rest, *more.values())):
        return None
    return product("tensordot", args[:2], depends, (), rest, more)


def _two(name: str) -> Recognise:
    """Recognises what is made of two tensors alone."""

    def recognise(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
        return None if kwargs else product(name, args, depends)

    return recognise


def _vecdot(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    more = {name: value for name, value in kwargs.items() if name != "out" or value is not None}
    return None if "out" in more else product("vecdot", args, depends, more=more)


def _shifted(name: str) -> Recognise:
    """Recognises ``shift + a * b``, of which attention has ``beta * mask + alpha * a @ b``."""

    def recognise(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
        if "out" in kwargs or len(args) != 3 or depends(args[0]):
            return None
        first, second = map(depends, args[1:])
        if first and second:
            out, operands = func(*args, **kwargs), (("", 1), ("", 2))
            return Call(Outcome("matmul"), out, (), name, operands=operands)
        if kwargs or not (first or second):
            return None
        shift, *factors = args
        kind = Product(name, second)
        return Call(kind, factors[second], (factors[not second], shift), name)

    return recognise


def _bilinear(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    """A product of two that both depend on the input, through a weight that does not."""
    two = len(args) > 2 and all(map(depends, args[:2])) and not depends(args[2])
    if not two:
        return None
    out, operands = func(*args, **kwargs), (("", 0), ("", 1))
    return Call(Outcome("matmul"), out, (), "nn.functional.bilinear", operands=operands)


CALLS: Mapping[Callable[..., Any], Recognise] = {
    **{f: _shifted(name) for name in _SHIFTED for f in spelled(name)},
    **{f: _two(name) for name in ("mv", "dot", "vdot", "inner", "kron") for f in spelled(name)},
    **dict.fromkeys(spelled("outer", "ger"), _two("outer")),
    **dict.fromkeys(spelled("bmm"), _two("matmul")),
    **dict.fromkeys(spelled("vecdot", "linalg_vecdot"), _vecdot),
    torch.einsum: _einsum,
    torch.functional.einsum: _einsum,
    torch.tensordot: _tensordot,
    torch.functional.tensordot: _tensordot,
    torch.nn.functional.bilinear: _bilinear,
}
