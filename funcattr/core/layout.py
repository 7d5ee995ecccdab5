"""How many cotangents at once are laid out in memory.

One elementwise operation on operands of two layouts is several times slower than on one, so all
that many cotangents meet has their channels last (``benchmarks``: parts/layout).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .private import is_batched, transforms_active


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


def ambiguous(t: Tensor) -> bool:
    """Whether the memory of ``t``, feature maps, can be in two layouts at once.

    So it is with a dim of size 1, whose stride says nothing. Torch's norms on a CPU (2.13) then may
    take the layout of their input or of a cotangent for the other one, and give a wrong derivative.
    """
    return t.dim() > 3 and t.device.type == "cpu" and 1 in t.shape


def unambiguous(t: Tensor, last: bool = True) -> Tensor:
    """``t``, whose strides are those that a new tensor has.

    ``last`` says that it may be one with its channels last; instance norm of one example, which is
    a batch norm of a view of it, is wrong there.
    """
    if not ambiguous(t) or t.stride() == _strides(t, False):
        return t
    if last and t.stride() == _strides(t, True):
        return t
    return t.clone(memory_format=torch.contiguous_format)


def _strides(t: Tensor, last: bool) -> tuple[int, ...]:
    """The strides of a new tensor of this shape, its channels last in memory or not."""
    dims = range(t.dim())
    order = (0, *dims[2:], 1) if last else dims
    strides, step = [0] * t.dim(), 1
    for dim in reversed(order):
        strides[dim] = step
        step *= t.shape[dim]
    return tuple(strides)


def dense(t: Tensor) -> Tensor:
    """``t`` with all of its zeros, of which torch can take parts as it cannot of a sparse one."""
    return t if t.layout is torch.strided else t.to_dense()


def twin(t: Tensor) -> Tensor:
    """A copy of ``t`` with its strides: kernels round by them, and a model's output is its own."""
    strided = t.layout is torch.strided and not transforms_active()
    if not strided or 0 in t.stride():
        return t.clone()
    return t.new_empty_strided(t.shape, t.stride()).copy_(t)


def beside(t: Tensor) -> Tensor:
    """Another view of the same memory, to write to, so that ``t``'s node has no part in that.

    Torch has no derivative by that node then. Without the base of ``t`` it says so.
    """
    base = getattr(t, "_base", None)
    if base is None or base.dtype != t.dtype:
        return t
    return base.as_strided(t.shape, t.stride(), t.storage_offset())  # type: ignore[no-any-return]


def broadcasts(t: Tensor, shape: Sequence[int]) -> bool:
    """Whether ``t`` broadcasts to this shape."""
    try:
        return tuple(torch.broadcast_shapes(t.shape, tuple(shape))) == tuple(shape)
    except RuntimeError:
        return False
