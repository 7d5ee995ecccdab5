"""Transposed convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..operation import Args, Call, Depends, Kwargs, Recognise, Shape, by_name, per_dim
from .linear import Linear

_DIMS: Mapping[Callable[..., Tensor], int] = {
    F.conv_transpose1d: 1,
    F.conv_transpose2d: 2,
    F.conv_transpose3d: 3,
}
_TRANSPOSED = {dims: f for f, dims in _DIMS.items()}
_CONVOLUTION: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class TransposedConvolution(Linear):
    """``F.conv_transpose*d(x, weight, bias)``, over ``len(stride)`` dims."""

    stride: Shape
    padding: Shape
    output_padding: Shape
    groups: int
    dilation: Shape
    names: ClassVar[tuple[str, ...]] = ("convolution",)
    weighted: ClassVar[bool] = True

    def value(self, x: Tensor, *tensors: Tensor | None) -> Tensor:
        how = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return _TRANSPOSED[len(self.stride)](x, *tensors, *how)

    def push(self, t: Tensor, x: Tensor | None, *tensors: Tensor | None) -> Tensor:
        return self.value(t, tensors[0], None)

    def transpose(self, g: Tensor, shape: Shape, prepared: Tensor, *tensors: Any) -> Tensor:
        dims = len(self.stride)
        how = (self.stride, self.padding, self.dilation, self.groups)
        pulled = _CONVOLUTION[dims](g, prepared.to(g.dtype), None, *how)
        for dim in range(-dims, 0):  # windows that begin in the output's padding are of no input
            pulled = pulled.narrow(dim, 0, shape[dim])
        return pulled

    def merged(self, weight: Tensor, scale: Tensor) -> Tensor | None:
        grouped = weight.unflatten(0, (self.groups, -1))
        scales = scale.reshape(self.groups, 1, -1, *[1] * len(self.stride))
        merged: Tensor = (grouped * scales).flatten(0, 1)
        return merged


_ARGS: Kwargs = dict.fromkeys(("input", "weight", "bias"))
_ARGS |= {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}


def _recognise(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    named = by_name(_ARGS, args, kwargs)
    x, weight, bias = (named[name] for name in ("input", "weight", "bias"))
    sizes = {
        name: per_dim(named[name], _DIMS[func])
        for name in ("stride", "padding", "output_padding", "dilation")
    }
    kind = TransposedConvolution(**sizes, groups=named["groups"])
    return Call(kind, x, (weight, bias), f"nn.functional.{func.__name__}")


CALLS: Mapping[Callable[..., Any], Recognise] = dict.fromkeys(_DIMS, _recognise)
