"""Sites of operations that are linear but for a shift.

Their values are torch's own, bit for bit, and so are their derivatives but for rounding; only the
way to them is ours: a convolution's input gradient is a transposed convolution, batch norm by
running statistics is a scale, many cotangents keep their channels last in memory, and nothing is
saved that the derivative asked for does not need.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _layout
from ._scope import Token, forward_mode, raw

Shape = tuple[int, ...]
Tensors = Sequence[Tensor | None]


def along(values: Tensor, dim: int, of: Tensor) -> Tensor:
    """``values`` as they stand along a dim of ``of``."""
    return values.reshape(-1, *[1] * (of.dim() - 1 - dim))


class Linear(ABC):
    """``op(x, *tensors)``, linear in ``x`` but for a shift.

    What passes a cotangent by another rule than `pull` (layer-wise relevance propagation) is a
    subclass with a `pull` of its own.
    """

    @abstractmethod
    def __call__(self, x: Tensor, *tensors: Tensor | None) -> Tensor:
        """The values."""

    @abstractmethod
    def push(self, t: Tensor, *tensors: Tensor | None) -> Tensor:
        """The tangent of the output, for the tangent ``t`` of ``x``."""

    def prepared(self, last: bool, *tensors: Any) -> Tensor:
        """What `pull` needs of ``tensors``, made once for many cotangents.

        ``last`` says that those have their channels last in memory.
        """
        return torch.empty(())

    @abstractmethod
    def pull(self, shape: Shape, g: Tensor, prepared: Tensor, *tensors: Any) -> Tensor:
        """The transpose of `push`: the cotangent of ``x``, for the cotangent ``g`` of the output.

        ``shape`` is that of ``x``.
        """

    def pull_tensors(self, x: Tensor, g: Tensor, needs: Sequence[bool], *tensors: Any) -> Tensors:
        """The cotangents of those ``tensors`` that need one."""
        return ()

    def push_tensors(self, x: Tensor, tangents: Tensors, *tensors: Any) -> Tensor:
        """The tangent of the output, for tangents of ``tensors``, or None where there is none."""
        raise AssertionError("there are none")


@dataclass(frozen=True)
class Norm(Linear):
    """Batch norm by its running statistics: ``op(x, mean, var, weight, bias)``."""

    eps: float

    def __call__(self, x: Tensor, *tensors: Tensor | None) -> Tensor:
        with raw():
            return F.batch_norm(x, *tensors, False, 0.0, self.eps)  # type: ignore[arg-type, call-arg]

    def push(self, t: Tensor, *tensors: Any) -> Tensor:
        return self.pull(tuple(t.shape), t, self.prepared(False, *tensors))

    def prepared(self, last: bool, *tensors: Any) -> Tensor:
        _, var, weight, _ = tensors
        scale = torch.rsqrt(var + self.eps)
        return scale if weight is None else scale * weight

    def pull(self, shape: Shape, g: Tensor, prepared: Tensor, *tensors: Any) -> Tensor:
        return (g * along(prepared, 1, g)).to(g.dtype)

    def pull_tensors(self, x: Tensor, g: Tensor, needs: Sequence[bool], *tensors: Any) -> Tensors:
        mean, var, weight, _ = tensors
        dims = (0, *range(2, x.dim()))
        scale = torch.rsqrt(var + self.eps)
        by_scale = (g * (x - along(mean, 1, x))).sum(dims)
        across = g.sum(dims) * scale
        by_var = by_scale * scale**3 / -2
        if weight is not None:
            across, by_var = across * weight, by_var * weight
        pulled = (-across, by_var, by_scale * scale, g.sum(dims))
        return [p if need else None for p, need in zip(pulled, needs)]

    def written_out(self, x: Tensor, *tensors: Any) -> Tensor:
        """The values, by operations that the compiler can differentiate in both modes."""
        mean, _, _, bias = tensors
        out = self.push(x - along(mean, 1, x), *tensors)
        return (out if bias is None else out + along(bias, 1, x)).to(x.dtype)

    def push_tensors(self, x: Tensor, tangents: Tensors, *tensors: Any) -> Tensor:
        (mean, var, _, _), (by_mean, by_var, by_weight, by_bias) = tensors, tangents
        centred = x - along(mean, 1, x)
        out = torch.zeros_like(x)
        if by_mean is not None:
            out = out - self.push(along(by_mean, 1, x).expand_as(x), *tensors)
        if by_var is not None:
            by_scale = by_var / (var + self.eps) / 2
            out = out - self.push(centred, *tensors) * along(by_scale, 1, x)
        if by_weight is not None:
            out = out + self.push(centred, mean, var, by_weight, None)
        if by_bias is not None:
            out = out + along(by_bias, 1, x)
        return out.to(x.dtype)


@dataclass(frozen=True)
class Mean(Linear):
    """Average pooling of pictures; torch's own derivative takes ``x``, if only for its shape.

    ``window`` are the arguments of ``avg_pool2d``, or of ``adaptive_avg_pool2d`` where there is a
    single one; ``whole`` says that the mean is of all places.
    """

    window: tuple[Any, ...]
    whole: bool

    def __call__(self, x: Tensor, *_: Tensor | None) -> Tensor:
        with raw():
            if len(self.window) == 1:
                return F.adaptive_avg_pool2d(x, *self.window)
            return F.avg_pool2d(x, *self.window)

    def push(self, t: Tensor, *_: Tensor | None) -> Tensor:
        return self(t)

    def pull(self, shape: Shape, g: Tensor, prepared: Tensor, *_: Any) -> Tensor:
        if self.whole:  # a view of few numbers
            return (g / (shape[-2] * shape[-1])).expand(shape)
        like = torch.empty(shape, dtype=g.dtype, device=g.device)
        if len(self.window) == 1:
            return torch.ops.aten._adaptive_avg_pool2d_backward(g, like)  # type: ignore[no-any-return]
        return torch.ops.aten.avg_pool2d_backward(g, like, *self.window)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Pad(Linear):
    """Constants around pictures; torch's own derivative copies what it cuts them from.

    ``sizes`` are those of ``F.pad``, for the last two dims, none of them negative.
    """

    sizes: Shape
    value: float

    def __call__(self, x: Tensor, *_: Tensor | None) -> Tensor:
        with raw():
            return F.pad(x, self.sizes, value=self.value)

    def push(self, t: Tensor, *_: Tensor | None) -> Tensor:
        with raw():
            return F.pad(t, self.sizes)

    def pull(self, shape: Shape, g: Tensor, prepared: Tensor, *_: Any) -> Tensor:
        left, top = self.sizes[0], self.sizes[2]
        return g[..., top : top + shape[-2], left : left + shape[-1]]


class LinearSite(torch.autograd.Function):
    """``op(x, *tensors)``, with the derivative as ``op`` has it.

    ``kept`` is what it has prepared for many cotangents, where that is known.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        op: Linear, token: Token, kept: Tensor | None, x: Tensor, *tensors: Tensor | None
    ) -> Tensor:
        return op(x, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.op, ctx.token, kept, x, *tensors = inputs
        ctx.shape, ctx.dtype = tuple(x.shape), x.dtype
        ctx.set_materialize_grads(False)
        # Under torch.vmap nothing but tensors can be saved, and the same for both directions. What
        # is not needed is not saved, since the model may write to it.
        needs_x = any(ctx.needs_input_grad[4:]) or forward_mode()
        values = (*tensors, x if needs_x else None, kept)
        ctx.there = [value is not None for value in values]
        ctx.save_for_backward(*(value for value in values if value is not None))
        ctx.save_for_forward(*(value for value in values if value is not None))

    @staticmethod
    def saved(ctx: Any) -> tuple[Tensors, Tensor | None, Tensor | None]:
        """The tensors, ``x`` and ``kept``, as far as they were saved."""
        saved = iter(ctx.saved_tensors)
        *tensors, x, kept = [next(saved) if there else None for there in ctx.there]
        return tensors, x, kept

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        tensors, x, kept = LinearSite.saved(ctx)
        op, token = ctx.op, ctx.token
        needs_x, *needs = ctx.needs_input_grad[3:]
        g_x: Tensor | None = None
        pulled: Tensors = [None] * len(tensors)
        if any(needs):
            pulled = op.pull_tensors(x, g, needs, *tensors)
        if needs_x and kept is not None and g.dim() == 4:

            def pull(g: Tensor) -> Tensor:
                return op.pull((g.shape[0], *ctx.shape[1:]), g, kept, *tensors)  # type: ignore[no-any-return]

            g_x = _layout.Merged.apply(pull, g.shape[0], g).to(ctx.dtype)  # type: ignore[no-untyped-call]
        elif needs_x:
            last = token.many(g)
            g = _layout.innermost(g) if last else g
            if kept is None:
                make = functools.partial(op.prepared, last, *tensors)
                kept = token.keep("channels last" if last else "as it was", make)
            g_x = op.pull(ctx.shape, g, kept, *tensors).to(ctx.dtype)
        grads = (p if p is None else p.to(t.dtype) for p, t in zip(pulled, tensors))  # type: ignore[union-attr]
        return (None, None, None, g_x, *grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor | None:
        tensors, x, _ = LinearSite.saved(ctx)
        t, *ts = tangents[3:]
        out: Tensor | None = None if t is None else ctx.op.push(t, *tensors)
        if any(t is not None for t in ts):
            more: Tensor = ctx.op.push_tensors(x, ts, *tensors)
            out = more if out is None else out + more
        return out
