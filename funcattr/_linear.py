"""Sites of operations that are linear but for a shift, and of max pooling.

Their values are torch's own, bit for bit, and so are their derivatives but for rounding; only the
way to them is ours: a convolution's input gradient is a transposed convolution, batch norm by
running statistics is a scale, many cotangents keep their channels last in memory, and nothing is
saved that the derivative asked for does not need.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _layout
from ._layout import channels_last
from ._site import Scope, Token, applied, forward_mode, raw

Shape = tuple[int, ...]
Tensors = Sequence[Tensor | None]
_CONVOLUTION: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _along(values: Tensor, dim: int, of: Tensor) -> Tensor:
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

    @abstractmethod
    def pull_tensors(self, x: Tensor, g: Tensor, needs: Sequence[bool], *tensors: Any) -> Tensors:
        """The cotangents of those ``tensors`` that need one."""

    @abstractmethod
    def push_tensors(self, x: Tensor, tangents: Tensors, *tensors: Any) -> Tensor:
        """The tangent of the output, for tangents of ``tensors``, or None where there is none."""


@dataclass(frozen=True)
class Convolution(Linear):
    """``op(x, weight, bias)``, over ``len(stride)`` dims."""

    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int

    def __call__(self, x: Tensor, *tensors: Tensor | None) -> Tensor:
        convolution = _CONVOLUTION[len(self.stride)]
        with raw():
            return convolution(x, *tensors, self.stride, self.padding, self.dilation, self.groups)

    def push(self, t: Tensor, *tensors: Tensor | None) -> Tensor:
        return self(t, tensors[0], None)

    def prepared(self, last: bool, *tensors: Any) -> Tensor:
        weight: Tensor = tensors[0]
        weight = self._phases(weight) if self._has_few_inputs(weight) else weight
        return channels_last(weight) if last and weight.dim() == 4 else weight

    def pull(self, shape: Shape, g: Tensor, prepared: Tensor, *tensors: Any) -> Tensor:
        if self._has_few_inputs(tensors[0]):
            return self._pull_by_phases(shape, g, prepared.to(g.dtype))
        dims = len(self.stride)
        # Places at the end that no window reached.
        rest = [
            size - (out - 1) * s + 2 * p - d * (k - 1) - 1
            for size, out, k, s, p, d in zip(
                shape[-dims:],
                g.shape[-dims:],
                prepared.shape[2:],
                self.stride,
                self.padding,
                self.dilation,
            )
        ]
        weight, how = prepared.to(g.dtype), (self.stride, self.padding, rest)
        with raw():
            return _TRANSPOSED[dims](g, weight, None, *how, self.groups, self.dilation)

    def _has_few_inputs(self, weight: Tensor) -> bool:
        return (
            self.groups == 1
            and len(self.stride) == 2
            and self.stride[0] == self.stride[1] > 1
            and self.dilation == (1, 1)
            and weight.shape[1] <= 4
        )

    def _phases(self, weight: Tensor) -> Tensor:
        """The weight of a convolution that makes all places within a stride as channels."""
        s = self.stride[0]
        outs, ins, *kernel = weight.shape
        high, wide = (-(-k // s) for k in kernel)
        whole = F.pad(weight, (0, wide * s - kernel[1], 0, high * s - kernel[0]))
        phases = whole.reshape(outs, ins, high, s, wide, s).flip(2, 4)
        return phases.permute(1, 3, 5, 0, 2, 4).reshape(ins * s * s, outs, high, wide)

    def _pull_by_phases(self, shape: Shape, g: Tensor, phases: Tensor) -> Tensor:
        """`pull` where there are few input channels, the first layer of most networks.

        A vector unit has more lanes than those. So all places within a stride are made as channels
        by one convolution, and put where they belong; several times as quick as the library's own.
        """
        high, wide = phases.shape[-2:]
        with raw():
            out = F.conv2d(g, phases, padding=(high - 1, wide - 1))
        out = F.pixel_shuffle(out, self.stride[0])
        (top, left), (rows, columns) = self.padding, shape[-2:]
        right, below = left + columns - out.shape[-1], top + rows - out.shape[-2]
        if max(right, below) > 0:  # places at the end that no window reached
            out = F.pad(out, (0, max(0, right), 0, max(0, below)))
        return out[..., top : top + rows, left : left + columns]

    def pull_tensors(self, x: Tensor, g: Tensor, needs: Sequence[bool], *tensors: Any) -> Tensors:
        weight, bias = tensors
        if x.dim() == len(self.stride) + 1:
            x, g = x.unsqueeze(0), g.unsqueeze(0)
        pulled: Tensors = torch.ops.aten.convolution_backward(
            g,
            x.to(g.dtype),
            weight.to(g.dtype),
            None if bias is None else bias.shape,
            self.stride,
            self.padding,
            self.dilation,
            False,
            (0,) * len(self.stride),
            self.groups,
            [False, *needs],
        )
        return pulled[1:]

    def push_tensors(self, x: Tensor, tangents: Tensors, *tensors: Any) -> Tensor:
        weight, bias = tangents
        return self(x, torch.zeros_like(tensors[0]) if weight is None else weight, bias)


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
        return (g * _along(prepared, 1, g)).to(g.dtype)

    def pull_tensors(self, x: Tensor, g: Tensor, needs: Sequence[bool], *tensors: Any) -> Tensors:
        mean, var, weight, _ = tensors
        dims = (0, *range(2, x.dim()))
        scale = torch.rsqrt(var + self.eps)
        along = (g * (x - _along(mean, 1, x))).sum(dims)
        across = g.sum(dims) * scale
        by_var = along * scale**3 / -2
        if weight is not None:
            across, by_var = across * weight, by_var * weight
        pulled = (-across, by_var, along * scale, g.sum(dims))
        return [p if need else None for p, need in zip(pulled, needs)]

    def written_out(self, x: Tensor, *tensors: Any) -> Tensor:
        mean, _, _, bias = tensors
        out = self.push(x - _along(mean, 1, x), *tensors)
        return (out if bias is None else out + _along(bias, 1, x)).to(x.dtype)

    def push_tensors(self, x: Tensor, tangents: Tensors, *tensors: Any) -> Tensor:
        (mean, var, _, _), (by_mean, by_var, by_weight, by_bias) = tensors, tangents
        centred = x - _along(mean, 1, x)
        out = torch.zeros_like(x)
        if by_mean is not None:
            out = out - self.push(_along(by_mean, 1, x).expand_as(x), *tensors)
        if by_var is not None:
            by_scale = by_var / (var + self.eps) / 2
            out = out - self.push(centred, *tensors) * _along(by_scale, 1, x)
        if by_weight is not None:
            out = out + self.push(centred, mean, var, by_weight, None)
        if by_bias is not None:
            out = out + _along(by_bias, 1, x)
        return out.to(x.dtype)


@dataclass(frozen=True)
class Folded(Convolution):
    """A convolution and the batch norm of its output as one: ``op(x, weight, scale)``.

    ``value`` holds the output, which is known. For many cotangents the scale goes into the weight,
    which spares a pass over memory. Only for where no further derivative is asked for.
    """

    value: list[Tensor]

    def __call__(self, x: Tensor, *tensors: Tensor | None) -> Tensor:
        return self.value.pop()

    def prepared(self, last: bool, *tensors: Any) -> Tensor:
        weight, scale = tensors
        if not last:  # a scaled weight is not worth its making
            return super().prepared(last, weight)
        return super().prepared(last, (weight * _along(scale, 0, weight)).to(weight.dtype))

    def pull(self, shape: Shape, g: Tensor, prepared: Tensor, *tensors: Any) -> Tensor:
        weight, scale = tensors
        if not _layout.many(g):
            g = (g * _along(scale, 1, g)).to(g.dtype)
        return super().pull(shape, g, prepared, weight)


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

    def pull_tensors(self, x: Tensor, g: Tensor, needs: Sequence[bool], *tensors: Any) -> Tensors:
        return ()

    def push_tensors(self, x: Tensor, tangents: Tensors, *tensors: Any) -> Tensor:
        raise AssertionError("there are none")


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

    def pull_tensors(self, x: Tensor, g: Tensor, needs: Sequence[bool], *tensors: Any) -> Tensors:
        return ()

    def push_tensors(self, x: Tensor, tangents: Tensors, *tensors: Any) -> Tensor:
        raise AssertionError("there are none")


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
            g = channels_last(g) if last else g
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


OPS: Mapping[str, Callable[..., Linear]] = {
    "convolution": Convolution,
    "norm": Norm,
    "mean": Mean,
    "pad": Pad,
}


def linear(
    name: str,
    options: tuple[Any, ...],
    *tensors: Tensor | None,
    scope: Scope | None = None,
    kept: Tensor | None = None,
) -> Tensor:
    """The output of a fresh site, asked for in tensors and constants (in a graph, those alone)."""
    op, token = OPS[name](*options), Token(0, scope)
    return applied(LinearSite, scope, op, token, kept, *tensors)  # type: ignore[no-any-return]


def max_pool(window: tuple[Any, ...], kept: Tensor, x: Tensor) -> Tensor:
    """Max pooling whose winners are known, likewise."""
    return MaxPool.apply(window, Token(0), kept, x)[0]  # type: ignore[no-any-return, no-untyped-call]
