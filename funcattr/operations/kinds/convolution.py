"""Convolutions. An input gradient is a transposed convolution, or another where that is quicker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.layout import channels_last
from ..operation import Args, Call, Depends, Kwargs, Recognise, Shape, Tensors, by_name, per_dim
from .linear import Linear, along

_DIMS: Mapping[Callable[..., Tensor], int] = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_CONVOLUTION = {dims: f for f, dims in _DIMS.items()}
_TRANSPOSED: Mapping[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
_FEW = 4  # input channels, of a vector unit's 16 lanes


@dataclass(frozen=True)
class Convolution(Linear):
    """``F.conv*d(x, weight, bias)``, over ``len(stride)`` dims."""

    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int
    extra: Shape = ()  # what is padded at the end alone
    names: ClassVar[tuple[str, ...]] = ("convolution",)
    quick: ClassVar[bool] = True
    weighted: ClassVar[bool] = True

    def merged(self, weight: Tensor, scale: Tensor) -> Tensor | None:
        return weight * along(scale, 0, weight)

    def value(self, x: Tensor, *tensors: Tensor | None) -> Tensor:
        convolution = _CONVOLUTION[len(self.stride)]
        if self.extra:
            x = F.pad(x, [p for each in self.extra[::-1] for p in (0, each)])
        return convolution(x, *tensors, self.stride, self.padding, self.dilation, self.groups)

    def push(self, t: Tensor, x: Tensor | None, *tensors: Tensor | None) -> Tensor:
        return self.value(t, tensors[0], None)

    def prepared(self, last: bool, *tensors: Any) -> Tensor:
        weight: Tensor = tensors[0]
        if self._has_few_inputs(weight):
            weight = self._phases(weight)
        elif self._is_pointwise(weight):
            weight = weight.transpose(0, 1)
        elif self._is_depthwise(weight):
            weight = weight.flip(*range(2, weight.dim()))
        return channels_last(weight) if last and weight.dim() == 4 else weight

    def quick_once(self, *tensors: Any) -> bool:
        weight: Tensor = tensors[0]
        return self._has_few_inputs(weight) and weight.device.type == "cpu"

    def transpose(self, g: Tensor, shape: Shape, prepared: Tensor, *tensors: Any) -> Tensor:
        dims, weight = len(self.stride), prepared.to(g.dtype)
        if self.extra:
            whole = replace(self, extra=())
            padded = (*shape[:-dims], *map(sum, zip(shape[-dims:], self.extra)))
            # Not its own, which a batch norm may be a part of.
            pulled = Convolution.transpose(whole, g, padded, prepared, *tensors)
            for dim in range(-dims, 0):
                pulled = pulled.narrow(dim, 0, shape[dim])
            return pulled
        if self._has_few_inputs(tensors[0]):
            return self._transpose_by_phases(g, shape, weight)
        if self._is_pointwise(tensors[0]) or self._is_depthwise(tensors[0]):
            # Quicker than its equal, the transposed one (benchmarks: parts/depthwise).
            around = self._around(weight)
            return _CONVOLUTION[dims](g, weight, None, 1, around, self.dilation, self.groups)
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
        how = (self.stride, self.padding, rest)
        return _TRANSPOSED[dims](g, weight, None, *how, self.groups, self.dilation)

    def _is_pointwise(self, weight: Tensor) -> bool:
        """Whether it is a matrix product at each place by itself."""
        window = (*weight.shape[2:], *self.stride)
        return self.groups == 1 and set(window) == {1} and not any(self.padding)

    def _is_depthwise(self, weight: Tensor) -> bool:
        """Whether each channel is by itself, and its windows are one place apart."""
        alone = self.groups == weight.shape[0] > 1 == weight.shape[1]
        return alone and set(self.stride) == {1} and min(self._around(weight)) >= 0

    def _around(self, weight: Tensor) -> Shape:
        """The padding of the same convolution from the output back to ``x``."""
        sizes = zip(self.dilation, weight.shape[2:], self.padding)
        return tuple(d * (k - 1) - p for d, k, p in sizes)

    def _has_few_inputs(self, weight: Tensor) -> bool:
        return (
            self.groups == 1
            and len(self.stride) == 2
            and self.stride[0] == self.stride[1] > 1
            and self.dilation == (1, 1)
            and weight.shape[1] <= _FEW
        )

    def _phases(self, weight: Tensor) -> Tensor:
        """The weight of a convolution that makes all places within a stride as channels."""
        s = self.stride[0]
        outs, ins, *kernel = weight.shape
        high, wide = (-(-k // s) for k in kernel)
        whole = F.pad(weight, (0, wide * s - kernel[1], 0, high * s - kernel[0]))
        phases = whole.reshape(outs, ins, high, s, wide, s).flip(2, 4)
        return phases.permute(1, 3, 5, 0, 2, 4).reshape(ins * s * s, outs, high, wide)

    def _transpose_by_phases(self, g: Tensor, shape: Shape, phases: Tensor) -> Tensor:
        """`transpose` where there are few input channels, the first layer of most networks.

        A vector unit has more lanes than those. So all places within a stride are made as channels
        by one convolution, and put where they belong; several times as quick as the library's own.
        """
        high, wide = phases.shape[-2:]
        (top, left), (rows, columns) = self.padding, shape[-2:]
        out = F.conv2d(g, phases, padding=(high - 1, wide - 1))
        # As F.pixel_shuffle does, but with the channels first in memory, and sooner.
        s = self.stride[0]
        out = out.unflatten(-3, (-1, s, s)).movedim((-4, -3), (-3, -1))
        out = out.flatten(-2, -1).flatten(-3, -2)
        right, below = left + columns - out.shape[-1], top + rows - out.shape[-2]
        if max(right, below) > 0:  # places at the end that no window reached
            out = F.pad(out, (0, max(0, right), 0, max(0, below)))
        return out[..., top : top + rows, left : left + columns]

    def pull_tensors(
        self, g: Tensor, needs: Sequence[bool], x: Tensor, *tensors: Tensor | None
    ) -> Tensors:
        weight, bias = tensors
        assert weight is not None
        if self.extra:
            x = F.pad(x, [p for each in self.extra[::-1] for p in (0, each)])
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

    def push_tensors(self, tangents: Tensors, x: Tensor, *tensors: Tensor | None) -> Tensor:
        (by_weight, by_bias), weight = tangents, tensors[0]
        assert weight is not None
        return self.value(x, torch.zeros_like(weight) if by_weight is None else by_weight, by_bias)


def few_inputs(func: Any, args: Args) -> bool:
    """Whether a call can be one of those; see `Convolution.quick_once`."""
    return func is F.conv2d and len(args) > 1 and args[1].shape[1] <= _FEW


_ARGS: Kwargs = dict.fromkeys(("input", "weight", "bias"))
_ARGS |= {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}


def _recognise(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    named = by_name(_ARGS, args, kwargs)
    x, weight, bias = (named[name] for name in ("input", "weight", "bias"))
    dims = _DIMS[func]
    extra: Shape = ()
    stride, dilation = (per_dim(named[name], dims) for name in ("stride", "dilation"))
    if isinstance(named["padding"], str):
        around = [0] * dims
        if named["padding"] == "same":
            around = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:])]
        named["padding"] = [each // 2 for each in around]
        if any([each % 2 for each in around]):  # torch pads one more at the end
            extra = tuple([each % 2 for each in around])
    padding = per_dim(named["padding"], dims)
    kind = Convolution(stride, padding, dilation, named["groups"], extra)
    return Call(kind, x, (weight, bias), f"nn.functional.{func.__name__}")


CALLS: Mapping[Callable[..., Any], Recognise] = dict.fromkeys(_DIMS, _recognise)
