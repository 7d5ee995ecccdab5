"""How many cotangents at once are laid out in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def suits(g: Tensor) -> bool:
    """Whether many of ``g``, a batch of feature maps on a CPU, are quickest with channels last."""
    return g.dim() == 4 and g.device.type == "cpu"


def many(g: Tensor) -> bool:
    """Whether ``g`` is one such of many, under ``torch.vmap``."""
    return suits(g) and torch._C._functorch.is_batchedtensor(g)


def innermost(x: Tensor) -> Tensor:
    """``x`` with its channels next to each other in memory: itself where they are (a crop's)."""
    return x if x.stride(1) == 1 else channels_last(x)


def channels_last(x: Tensor) -> Tensor:
    """``x`` with its channels last in memory, under `torch.vmap` too; itself where they are."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


class Merged(torch.autograd.Function):
    """``f(g, *others)``, for many ``g`` under ``torch.vmap`` with these as one larger batch.

    For graphs, whose compiler chooses the layout of four dims better than that of five. ``others``
    have the batch of ``g``, or a batch of 1, or none; no derivative is taken.
    """

    @staticmethod
    def forward(f: Callable[..., Tensor], batch: int, g: Tensor, *others: Tensor) -> Tensor:
        return f(g, *others)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None: ...

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        f: Callable[..., Tensor],
        batch: int,
        g: Tensor,
        *others: Tensor,
    ) -> tuple[Tensor, int]:
        assert all(dim is None for dim in in_dims[3:]), "what sites keep is shared by cotangents"
        many = info.batch_size
        if batch > 1:
            shared = [t.dim() == 4 and t.shape[0] == batch for t in others]
            others = tuple(
                t.expand(many, *t.shape).flatten(0, 1) if yes else t
                for yes, t in zip(shared, others)
            )
        merged = g.movedim(in_dims[2], 0).flatten(0, 1)
        out = Merged.apply(f, batch, merged, *others)  # type: ignore[no-untyped-call]
        return out.unflatten(0, (many, batch)), 0
