"""Tensors made differentiable in the midst of a forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._scope import compiling
from ._tree import pack


def marked(values: Any, anchor: Tensor) -> Any:
    """``values`` with every float tensor marked."""
    tensors, unpack = pack(values)
    return unpack([mark(t, anchor) if t.is_floating_point() else t for t in tensors])


def mark(x: Tensor, anchor: Tensor) -> Tensor:
    """``x``, made differentiable at the level of ``anchor``."""
    if compiling():
        from ._graph import mark_in_graph

        return mark_in_graph(x, anchor)  # type: ignore[no-any-return]
    return mark_now(x, anchor)


def mark_now(x: Tensor, anchor: Tensor) -> Tensor:
    """`mark`, not while tracing."""
    return _Mark.apply(x, anchor)  # type: ignore[no-any-return, no-untyped-call]


class _Mark(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, anchor: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g, None

    @staticmethod
    def jvp(ctx: Any, t: Tensor | None, _: Tensor | None) -> Tensor | None:
        return None if t is None else t.clone()
