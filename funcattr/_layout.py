"""The layout in which many cotangents at once are quickest."""

from __future__ import annotations

import torch
from torch import Tensor


def many(g: Tensor) -> bool:
    """Whether ``g`` stands for a batch of feature maps under ``torch.vmap``, on a CPU.

    Convolutions of many of those are quickest with the channels last.
    """
    return g.dim() == 4 and g.device.type == "cpu" and torch._C._functorch.is_batchedtensor(g)


def channels_last(x: Tensor) -> Tensor:
    """``x`` with its channels last in memory, under `torch.vmap` too; itself where they are."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
