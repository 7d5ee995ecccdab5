"""Pooling of pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core import layout
from ...core.levels import apply
from ...core.private import pushed
from ..operation import Args, Call, Depends, Kwargs, Recognise, Shape, by_name, per_dim
from .linear import Linear

Window = tuple[Any, ...]


@dataclass(frozen=True)
class MaxPool(Linear):
    """``F.max_pool2d(x)``, given the places of the winners: those are taken, and linearly.

    ``window`` are the arguments of ``max_pool2d`` after ``x``.
    """

    window: Window
    names: ClassVar[tuple[str, ...]] = ("max_pool",)
    quick: ClassVar[bool] = True
    any_batch: ClassVar[bool] = False

    def constants(self, x: Tensor) -> tuple[Tensor, ...]:
        return (torch.ops.aten.max_pool2d_with_indices(x.detach(), *self.window)[1],)

    def value(self, x: Tensor, *tensors: Any) -> Tensor:
        return _gathered(x, tensors[0])

    def push(self, t: Tensor, x: Tensor | None, *tensors: Any) -> Tensor:
        return _gathered(t, tensors[0])

    def prepared(self, last: bool, *tensors: Any) -> Tensor:
        winners: Tensor = tensors[0]
        return layout.channels_last(winners) if last else winners

    def transpose(self, g: Tensor, shape: Shape, prepared: Tensor, *tensors: Any) -> Tensor:
        return _scattered(self.window, shape, g, prepared)


@dataclass(frozen=True)
class MaxPoolOfAny(MaxPool):
    """``F.max_pool1d`` and ``F.max_pool3d``, in the same way; there is nothing quick about it."""

    dims: int = 1
    quick: ClassVar[bool] = False

    def constants(self, x: Tensor) -> tuple[Tensor, ...]:
        pool = {1: F.max_pool1d_with_indices, 3: F.max_pool3d_with_indices}[self.dims]
        return (pool(x.detach(), *self.window)[1],)

    def prepared(self, last: bool, *tensors: Any) -> Tensor:
        winners: Tensor = tensors[0]
        return winners

    def transpose(self, g: Tensor, shape: Shape, prepared: Tensor, *tensors: Any) -> Tensor:
        flat = g.new_zeros(shape).flatten(2)
        return flat.scatter_add(2, prepared.flatten(2), g.flatten(2)).reshape(shape)


def _gathered(x: Tensor, winners: Tensor) -> Tensor:
    return x.flatten(2).gather(2, winners.flatten(2)).reshape(winners.shape)


def _scattered(window: Window, shape: Shape, g: Tensor, winners: Tensor) -> Tensor:
    scattered: Tensor = apply(_Scattered, window, shape, g, winners)
    return scattered


class _Scattered(torch.autograd.Function):
    """Every number of ``g`` at the place that it came from, in ``shape``: max pooling's transpose.

    A Function for the sake of its rule under ``torch.vmap``: one call for all, in one layout.
    """

    @staticmethod
    def forward(window: Window, shape: Shape, g: Tensor, winners: Tensor) -> Tensor:
        # Of a single place both orders are the same, and then it is the usual one: torch's instance
        # norm of one example is wrong in silence for a gradient with its channels last.
        last = g.stride(1) == 1 and not g.is_contiguous()
        order = torch.channels_last if last else torch.contiguous_format
        like = torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=order)
        scattered: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
            g, like, *window, winners
        )
        return scattered

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
        return pushed(functools.partial(_scattered, ctx.window, ctx.shape), t, ctx.saved_tensors[0])

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        window: Window,
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
        out: Tensor = apply(_Scattered, window, whole, *merged)
        return out.unflatten(0, (info.batch_size, shape[0])), 0


@dataclass(frozen=True)
class Mean(Linear):
    """Average pooling of pictures; ``window`` are the arguments of ``avg_pool2d`` after ``x``.

    A single one is the output size of ``adaptive_avg_pool2d``. Over ``whole`` pictures the
    derivative is a view of few numbers, which many maps of a late layer gain from.
    """

    window: Window
    whole: bool
    names: ClassVar[tuple[str, ...]] = ("mean",)

    @property
    def quick(self) -> bool:
        """Where the derivative is a view."""
        return self.whole

    def value(self, x: Tensor, *tensors: Any) -> Tensor:
        if len(self.window) == 1:
            return F.adaptive_avg_pool2d(x, *self.window)
        return F.avg_pool2d(x, *self.window)

    def push(self, t: Tensor, x: Tensor | None, *tensors: Any) -> Tensor:
        return self.value(t)

    def prepared(self, last: bool, *tensors: Any) -> Tensor:
        return torch.empty(())

    def transpose(self, g: Tensor, shape: Shape, prepared: Tensor, *tensors: Any) -> Tensor:
        if self.whole:
            return (g / (shape[-2] * shape[-1])).expand(shape)
        like = torch.empty(shape, dtype=g.dtype, device=g.device)
        backward = torch.ops.aten.avg_pool2d_backward
        if len(self.window) == 1:
            backward = torch.ops.aten._adaptive_avg_pool2d_backward
            pulled: Tensor = backward(g, like)
            return pulled
        pulled = backward(g, like, *self.window)
        return pulled


_ARGS: Kwargs = dict.fromkeys(("input", "kernel_size", "stride"))
_ARGS |= {"padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}


def _recognise(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    named = by_name(_ARGS, args, kwargs)
    x, dims = named["input"], _DIMS[func]
    if named["return_indices"] or x.dim() != dims + 2:
        return None
    stride = named["stride"] or named["kernel_size"]
    sizes = (named["kernel_size"], stride, named["padding"], named["dilation"])
    window = (*(per_dim(size, dims) for size in sizes), named["ceil_mode"])
    kind = MaxPool(window) if dims == 2 else MaxPoolOfAny(window, dims)
    return Call(kind, x, (), f"nn.functional.max_pool{dims}d")


_AVERAGE_ARGS: Kwargs = dict.fromkeys(("input", "kernel_size", "stride"))
_AVERAGE_ARGS |= {"padding": 0, "ceil_mode": False}
_AVERAGE_ARGS |= {"count_include_pad": True, "divisor_override": None}


def _average(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    named = by_name(_AVERAGE_ARGS, args, kwargs)
    x = named.pop("input")
    if x.dim() != 4:
        return None
    stride = named["stride"] or named["kernel_size"]
    sizes = (named["kernel_size"], stride, named["padding"])
    kernel, stride, padding = (per_dim(size, 2) for size in sizes)
    rest = (named["ceil_mode"], named["count_include_pad"], named["divisor_override"])
    whole = kernel == tuple(x.shape[-2:]) and padding == (0, 0) and rest[2] is None
    kind = Mean((kernel, stride, padding, *rest), whole)
    return Call(kind, x, (), "nn.functional.avg_pool2d")


def _adaptive(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    named = by_name(dict.fromkeys(("input", "output_size")), args, kwargs)
    x, sizes = named["input"], per_dim(named["output_size"], 2)
    if x.dim() != 4 or None in sizes:
        return None
    return Call(Mean((sizes,), sizes == (1, 1)), x, (), "nn.functional.adaptive_avg_pool2d")


_DIMS: Mapping[Callable[..., Any], int] = {
    getattr(space, f"max_pool{dims}d"): dims for space in (F, torch) for dims in (1, 2, 3)
}
CALLS: Mapping[Callable[..., Any], Recognise] = dict.fromkeys(_DIMS, _recognise)
MEANS: Mapping[Callable[..., Any], Recognise] = {
    F.avg_pool2d: _average,
    F.adaptive_avg_pool2d: _adaptive,
}
