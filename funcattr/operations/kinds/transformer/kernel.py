"""Attention by torch's kernel, for many cotangents: one call for a larger batch.

Torch's own derivative of the kernel runs in a loop under ``torch.vmap``, with a warning; products
and a softmax in its place keep the weights of every pair of tokens for each cotangent.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....core.contexts import raw
from ....core.levels import apply
from ...operation import Args, Kwargs
from .attention import ROLES, named_arguments

Options = tuple[tuple[str, Any], ...]


def fits(args: Args, kwargs: Kwargs) -> bool:
    """Whether more examples can be put behind one another in a call."""
    named = named_arguments(args, kwargs)
    tensors = [named[role] for role in ROLES]
    same = all([t.dim() == 4 and len(t) == len(tensors[0]) for t in tensors])
    mask = named["attn_mask"]
    return same and (mask is None or not mask.requires_grad)


def by_kernel(args: Args, kwargs: Kwargs) -> Tensor:
    """The call, with a derivative for many cotangents, and none of that."""
    named = named_arguments(args, kwargs)
    tensors = [named.pop(role) for role in (*ROLES, "attn_mask")]
    out: Tensor = apply(_ByKernel, tuple(named.items()), *tensors)
    return out


class _ByKernel(torch.autograd.Function):
    """For plain autograd, where nobody asks for a second derivative."""

    @staticmethod
    def forward(ctx: Any, options: Options, *tensors: Tensor | None) -> Tensor:
        ctx.options = options
        ctx.save_for_backward(*tensors)
        return raw(_called, options, *tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        grads = raw(apply, _Pulled, ctx.options, g, *ctx.saved_tensors)
        needs = ctx.needs_input_grad[1:4]
        return (None, *(grad if need else None for grad, need in zip(grads, needs)), None)


class _Pulled(torch.autograd.Function):
    """The cotangents of query, key and value."""

    @staticmethod
    def forward(
        options: Options, g: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, ...]:
        leaves = [t.detach().requires_grad_() for t in (q, k, v)]
        with torch.enable_grad():
            out = _called(options, leaves[0], leaves[1], leaves[2], mask)
        return torch.autograd.grad(out, leaves, g)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None: ...

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], options: Options, *tensors: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        count = info.batch_size

        def whole(t: Tensor | None, dim: int | None, batched: bool) -> Tensor | None:
            if t is None or (dim is None and not batched):
                return t  # a mask for all examples
            many = t.expand(count, *t.shape) if dim is None else t.movedim(dim, 0)
            return many.flatten(0, 1)

        mask = tensors[-1]
        own = mask is not None and mask.dim() - (in_dims[-1] is not None) == 4
        flags = [True] * 4 + [own and mask.shape[0] > 1]  # type: ignore[union-attr]
        merged = [whole(t, dim, flag) for t, dim, flag in zip(tensors, in_dims[1:], flags)]
        grads: tuple[Tensor, ...] = apply(_Pulled, options, *merged)
        return tuple([t.unflatten(0, (count, -1)) for t in grads]), (0, 0, 0)


def _called(options: Options, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **dict(options))
