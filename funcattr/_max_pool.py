"""The site of max pooling of pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._layout import channels_last
from ._linear import Shape
from ._scope import Token, raw


class MaxPool(torch.autograd.Function):
    """Max pooling of pictures, and the places that its values came from.

    ``kept`` are those places, where they are known.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        window: tuple[Any, ...], token: Token, kept: Tensor | None, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        with raw():
            return torch.ops.aten.max_pool2d_with_indices(x, *window)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.window, ctx.token, kept, x = inputs
        ctx.shape = tuple(x.shape)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1] if kept is None else kept)
        ctx.save_for_forward(output[1] if kept is None else kept)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, _: None) -> tuple[None, None, None, Tensor | None]:
        if g is None:
            return None, None, None, None
        (winners,) = ctx.saved_tensors
        if ctx.token.many(g):
            g, plain = channels_last(g), winners
            winners = ctx.token.keep("winners", lambda: channels_last(plain))
        return None, None, None, _Scattered.apply(ctx.window, ctx.shape, g, winners)  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, ___: None, t: Tensor) -> tuple[Tensor, None]:
        return _gathered(t, ctx.saved_tensors[0]), None


def _gathered(x: Tensor, winners: Tensor) -> Tensor:
    return x.flatten(2).gather(2, winners.flatten(2)).reshape(winners.shape)


class _Scattered(torch.autograd.Function):
    """Every number of ``g`` at the place that it came from, in ``shape``: max pooling's transpose.

    A Function for the sake of its rule under ``torch.vmap``: one call for all, in one layout.
    """

    @staticmethod
    def forward(window: tuple[Any, ...], shape: Shape, g: Tensor, winners: Tensor) -> Tensor:
        order = torch.channels_last if g.stride(1) == 1 else torch.contiguous_format
        like = torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=order)
        return torch.ops.aten.max_pool2d_with_indices_backward(g, like, *window, winners)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.window, ctx.shape, _, winners = inputs
        ctx.save_for_backward(winners)
        ctx.save_for_forward(winners)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, None, Tensor, None]:
        return None, None, _gathered(g, ctx.saved_tensors[0]), None

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, t: Tensor, ___: None) -> Tensor:
        return _Scattered.apply(ctx.window, ctx.shape, t, ctx.saved_tensors[0])  # type: ignore[no-any-return, no-untyped-call]

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        window: tuple[Any, ...],
        shape: Shape,
        g: Tensor,
        winners: Tensor,
    ) -> tuple[Tensor, int]:
        every = [
            t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
            for t, d in zip((g, winners), in_dims[2:])
        ]
        merged = [t.permute(0, 1, 3, 4, 2).flatten(0, 1).permute(0, 3, 1, 2) for t in every]
        if every[0].stride(2) != 1:
            merged = [t.flatten(0, 1) for t in every]
        whole = (info.batch_size * shape[0], *shape[1:])
        out = _Scattered.apply(window, whole, *merged)  # type: ignore[no-untyped-call]
        return out.unflatten(0, (info.batch_size, shape[0])), 0


def max_pool(window: tuple[Any, ...], kept: Tensor, x: Tensor) -> Tensor:
    """Max pooling whose winners are known, likewise."""
    return MaxPool.apply(window, Token(0), kept, x)[0]  # type: ignore[no-any-return, no-untyped-call]
