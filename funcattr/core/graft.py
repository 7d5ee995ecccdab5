"""A value with the derivative of another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .graph import node
from .layout import unambiguous
from .levels import apply
from .private import pushed


@node
def graft(
    value: Tensor, x: Tensor, anchor: Tensor | None = None, *, last: bool | None = None
) -> Tensor:
    """A copy of ``value`` with the derivative of ``x``, a tensor of the same shape.

    It is differentiable at the level of ``anchor`` as well, whose cotangent it leaves alone.
    ``last`` says in which layouts the cotangent of ``x`` may be, see `unambiguous`; None is any.
    """
    out: Tensor = apply(_Graft, last, value, x, anchor)
    return out


class _Graft(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(last: bool | None, value: Tensor, x: Tensor, anchor: Tensor | None) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.last = inputs[0]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, None, Tensor, None]:
        return None, None, g if ctx.last is None else unambiguous(g, ctx.last), None

    @staticmethod
    def jvp(ctx: Any, _: Any, __: Any, t: Tensor | None, ___: Any) -> Tensor | None:
        return None if t is None else pushed(Tensor.clone, t)


def steady(x: Tensor, *, last: bool = True) -> Tensor:
    """``x``, that nobody has read, whose cotangent has strides of which each says something.

    In plain autograd alone, at a tenth of the time of a `graft`; ``last`` as for that.
    """
    out: Tensor = apply(_Steady, x, last)
    return out


class _Steady(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, last: bool) -> Tensor:
        ctx.mark_dirty(x)  # as if it were written to, so that nothing is copied
        ctx.last = last
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return unambiguous(g, ctx.last), None
