"""Layer norm and RMS norm, which scale a tensor by its own size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...operation import Args, Call, Depends, Kind, Kwargs, Operation, Recognise, Shape, by_name


@dataclass(frozen=True)
class LayerNorm(Kind):
    """``F.layer_norm(x, shape, weight, bias, eps)``; not ``centred`` it is ``F.rms_norm``."""

    shape: Shape
    eps: float | None
    centred: bool

    @property
    def names(self) -> tuple[str, ...]:
        return ("layer_norm" if self.centred else "rms_norm", "norm")

    def value(self, x: Tensor, *tensors: Any) -> Tensor:
        weight, bias = tensors
        if self.centred:
            return F.layer_norm(x, list(self.shape), weight, bias, self.eps or 0.0)
        return F.rms_norm(x, self.shape, weight, self.eps)

    def scale(self, x: Tensor) -> Tensor:
        """What it multiplies by, one over the standard deviation (the root mean square)."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.centred:
            wide = wide - wide.mean(self._dims, keepdim=True)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        return torch.rsqrt(wide.square().mean(self._dims, keepdim=True) + eps).to(x.dtype)

    def pull_scaled(self, g: Tensor, operation: Operation, scale: Tensor) -> Tensor:
        """The cotangent of ``x`` with that scale as a constant."""
        weight = operation.tensors[0]
        scaled = g * scale if weight is None else g * weight * scale
        return scaled - scaled.mean(self._dims, keepdim=True) if self.centred else scaled

    @property
    def _dims(self) -> tuple[int, ...]:
        return tuple(range(-len(self.shape), 0))


_ARGS: Kwargs = dict.fromkeys(("input", "normalized_shape", "weight", "bias")) | {"eps": 1e-5}
_RMS_ARGS: Kwargs = dict.fromkeys(("input", "normalized_shape", "weight", "eps"))


def _layer_norm(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    named = by_name(_ARGS, args, kwargs)
    kind = LayerNorm(_shape(named["normalized_shape"]), named["eps"], True)
    return Call(kind, named["input"], (named["weight"], named["bias"]), "nn.functional.layer_norm")


def _rms_norm(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    named = by_name(_RMS_ARGS, args, kwargs)
    kind = LayerNorm(_shape(named["normalized_shape"]), named["eps"], False)
    return Call(kind, named["input"], (named["weight"], None), "nn.functional.rms_norm")


def _shape(shape: Any) -> Shape:
    return tuple(map(int, shape)) if hasattr(shape, "__iter__") else (int(shape),)


_RMS_NORMS = [getattr(space, "rms_norm", None) for space in (F, torch)]  # since torch 2.4
CALLS: Mapping[Callable[..., Any], Recognise] = {
    **dict.fromkeys((F.layer_norm, torch.layer_norm), _layer_norm),
    **{f: _rms_norm for f in _RMS_NORMS if f is not None},
}
