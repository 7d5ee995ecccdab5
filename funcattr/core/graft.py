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
def graft(value: Tensor, x: Tensor, anchor: Tensor | None = None, *, last: bool = True) -> Tensor:
    """A copy of ``value`` with the derivative of ``x``, a tensor of the same shape.

    It is differentiable at the level of ``anchor`` as well, whose cotangent it leaves alone.
    ``last`` says in which layouts the cotangent of ``x`` may be, see `unambiguous`.
    """
    out: Tensor = apply(_Graft, last, value, x, anchor)
    return out


class _Graft(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(last: bool, value: Tensor, x: Tensor, anchor: Tensor | None) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.last = inputs[0]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, None, Tensor, None]:
        return None, None, unambiguous(g, ctx.last), None

    @staticmethod
    def jvp(ctx: Any, _: Any, __: Any, t: Tensor | None, ___: Any) -> Tensor | None:
        return None if t is None else pushed(Tensor.clone, t)


def steady(x: Tensor, *, last: bool = True) -> Tensor:
    """``x``, whose cotangent has strides of which each says something when what made it gets that.

    In plain autograd alone, at a fraction of the time of a `graft`; ``last`` as for that.
    """
    node: Any = x.grad_fn
    node.register_prehook(
        lambda gs: tuple([None if g is None else unambiguous(g, last) for g in gs])
    )
    return x
