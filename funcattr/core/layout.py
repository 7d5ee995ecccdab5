"""How many cotangents at once are laid out in memory.

One elementwise operation on operands of two layouts is several times slower than on one, so all
that many cotangents meet has their channels last (``benchmarks``: parts/layout).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .private import is_batched


def suits(t: Tensor) -> bool:
    """Whether many of ``t``, a batch of feature maps on a CPU, are quickest with channels last."""
    return t.dim() == 4 and t.device.type == "cpu"


def many(g: Tensor) -> bool:
    """Whether ``g`` is one such of many, under ``torch.vmap``."""
    return suits(g) and is_batched(g)


def innermost(t: Tensor) -> Tensor:
    """``t`` with its channels next to each other in memory: itself where they are (a crop's)."""
    return t if t.stride(1) == 1 else channels_last(t)


def channels_last(t: Tensor) -> Tensor:
    """``t`` with its channels last in memory, under ``torch.vmap`` too; itself where they are."""
    return t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def usual(t: Tensor) -> torch.memory_format:
    """The layout in which ``t`` meets many cotangents."""
    return torch.channels_last if suits(t) else torch.preserve_format


def broadcasts(t: Tensor, shape: Sequence[int]) -> bool:
    """Whether ``t`` broadcasts to this shape."""
    try:
        return tuple(torch.broadcast_shapes(t.shape, tuple(shape))) == tuple(shape)
    except RuntimeError:
        return False
