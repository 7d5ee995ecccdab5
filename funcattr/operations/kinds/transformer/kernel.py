"""Attention by torch's kernel, for many cotangents.

Torch's own derivative of the kernel runs in a loop under ``torch.vmap``, with a warning; products
and a softmax in its place keep the weights of every pair of tokens for each cotangent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....core.contexts import raw
from ....core.levels import apply
from ...operation import Args, Kwargs
from ...place import Pass
from .attention import ROLES, named_arguments

Options = tuple[tuple[str, Any], ...]
#: Of query, key and value, what part of the cotangent each composite lets through; None for all.
Factors = Sequence[Sequence[float] | None]

SMALL = 2**14  # scores of a cotangent, up to which one call for many is quicker than many calls


def fits(args: Args, kwargs: Kwargs) -> bool:
    """Whether the kernel has all derivatives that are asked for."""
    mask = named_arguments(args, kwargs)["attn_mask"]
    return mask is None or not mask.requires_grad


def by_kernel(passing: Pass, factors: Factors, args: Args, kwargs: Kwargs) -> Tensor:
    """The call, with parts of its derivative for many cotangents, and none of that."""
    named = named_arguments(args, kwargs)
    tensors = [named.pop(role) for role in (*ROLES, "attn_mask")]
    out: Tensor = apply(_ByKernel, passing, factors, tuple(named.items()), *tensors)
    return out


class _Call:
    """One call of the kernel, and autograd's graph of it, made when it is first asked for."""

    def __init__(self, options: Options, needs: Sequence[bool], *tensors: Any) -> None:
        self.options, self.needs, (*self.operands, self.mask) = options, needs, tensors
        self._graph: tuple[Tensor, list[Tensor]] | None = None

    @property
    def graph(self) -> tuple[Tensor, list[Tensor]]:
        """The output, and those operands whose cotangents are asked for."""
        if self._graph is None:
            leaves = [t.detach().requires_grad_(need) for t, need in zip(self.operands, self.needs)]
            with torch.enable_grad():
                out = _attention(self.options, leaves, self.mask)
            self._graph = out, [t for t in leaves if t.requires_grad]
        return self._graph

    def many(self, count: int) -> _Call:
        """The call for ``count`` of each example."""

        def repeated(t: Tensor) -> Tensor:
            return t.expand(count, *t.shape).flatten(0, 1)

        mask = self.mask
        own = mask is not None and mask.dim() == 4 and len(mask) > 1
        operands = map(repeated, self.operands)
        return _Call(self.options, self.needs, *operands, repeated(mask) if own else mask)

    @property
    def stacks(self) -> bool:
        """Whether one call for many is quicker than many calls, and can be."""
        query, key, _ = self.operands
        if any([t.dim() != 4 or len(t) != len(query) for t in self.operands]):
            return False
        scores: int = query[..., 0].numel() * key.shape[-2]
        return query.device.type != "cpu" or scores <= SMALL


def _attention(options: Options, operands: Sequence[Any], mask: Tensor | None) -> Tensor:
    query, key, value = operands
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, **dict(options))


class _ByKernel(torch.autograd.Function):
    """For plain autograd, where nobody asks for a second derivative."""

    @staticmethod
    def forward(
        ctx: Any, passing: Pass, factors: Factors, options: Options, *tensors: Tensor | None
    ) -> Tensor:
        ctx.passing, ctx.factors, ctx.options, ctx.call = passing, factors, options, None
        ctx.save_for_backward(*tensors)
        return raw(_attention, options, tensors[:3], tensors[3])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[3:6]
        call = ctx.call
        if call is None:
            call = _Call(ctx.options, needs, *ctx.saved_tensors)
            ctx.call = call if ctx.passing.keeping else None
        which = ctx.passing.composite
        parts = [1.0 if every is None else every[which] for every in ctx.factors]
        parts = [part for part, need in zip(parts, needs) if need]
        grads = iter(raw(apply, _Pulled, call, parts, g.unsqueeze(0)))
        return (None, None, None, *(next(grads)[0] if need else None for need in needs), None)


class _Pulled(torch.autograd.Function):
    """The cotangents of query, key and value, as far as they are asked for, of each in ``g``."""

    @staticmethod
    def forward(call: _Call, parts: Sequence[float], g: Tensor) -> tuple[Tensor, ...]:
        count = len(g)
        if count > 1 and call.stacks:
            out, leaves = call.many(count).graph
            pulled = torch.autograd.grad(out, leaves, g.flatten(0, 1))
            return tuple([(t * p).unflatten(0, (count, -1)) for t, p in zip(pulled, parts)])
        out, leaves = call.graph
        outs: list[Tensor] = []
        for i, one in enumerate(g):
            grads = torch.autograd.grad(out, leaves, one, retain_graph=True)
            if not outs:  # in the kernel's layout, in which others go on
                outs = [t.new_empty_strided((count, *t.shape), _behind(t)) for t in grads]
            for whole, grad, part in zip(outs, grads, parts):
                torch.mul(grad, part, out=whole[i])
        return tuple(outs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None: ...

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], call: _Call, parts: Sequence[float], g: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        count = info.batch_size
        whole = g.movedim(in_dims[2], 0).flatten(0, 1)
        grads: tuple[Tensor, ...] = apply(_Pulled, call, parts, whole)
        return tuple([t.unflatten(0, (count, -1)) for t in grads]), (0,) * len(grads)


def _behind(t: Tensor) -> tuple[int, ...]:
    """The strides of several ``t`` behind one another, whose memory has no holes."""
    return (t.numel(), *t.stride())
