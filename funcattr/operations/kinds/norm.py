"""Batch norm by its running statistics, and norms by those of their input under a transform."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operation import Args, Call, Depends, Kwargs, Recognise, Shape, Tensors, by_name
from .linear import Linear, along


@dataclass(frozen=True)
class Norm(Linear):
    """``F.batch_norm(x, mean, var, weight, bias)`` by given statistics: a scale and a shift."""

    eps: float
    names: ClassVar[tuple[str, ...]] = ("norm", "batch_norm")
    quick: ClassVar[bool] = True

    def value(self, x: Tensor, *tensors: Tensor | None) -> Tensor:
        return F.batch_norm(x, *tensors, False, 0.0, self.eps)  # type: ignore[arg-type, call-arg]

    def push(self, t: Tensor, x: Tensor | None, *tensors: Any) -> Tensor:
        return self._scaled(t, self.prepared(False, *tensors))

    def prepared(self, last: bool, *tensors: Any) -> Tensor:
        _, var, weight, _ = tensors
        scale = torch.rsqrt(var + self.eps)
        return scale if weight is None else scale * weight

    def transpose(self, g: Tensor, shape: Shape, prepared: Tensor, *tensors: Any) -> Tensor:
        return self._scaled(g, prepared)

    def _scaled(self, t: Tensor, scale: Tensor) -> Tensor:
        return (t * along(scale, 1, t)).to(t.dtype)

    # Torch's own knows neither forward mode nor derivatives by its statistics.
    def pull_tensors(self, g: Tensor, needs: Sequence[bool], x: Tensor, *tensors: Any) -> Tensors:
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

    def push_tensors(self, tangents: Tensors, x: Tensor, *tensors: Any) -> Tensor:
        (mean, var, _, _), (by_mean, by_var, by_weight, by_bias) = tensors, tangents
        centred = x - along(mean, 1, x)
        out = torch.zeros_like(x)
        if by_mean is not None:
            out = out - self.push(along(by_mean, 1, x).expand_as(x), None, *tensors)
        if by_var is not None:
            by_scale = by_var / (var + self.eps) / 2
            out = out - self.push(centred, None, *tensors) * along(by_scale, 1, x)
        if by_weight is not None:
            out = out + self.push(centred, None, mean, var, by_weight, None)
        if by_bias is not None:
            out = out + along(by_bias, 1, x)
        return out.to(x.dtype)


_NAMES = ("input", "running_mean", "running_var", "weight", "bias")
_BATCH_NORM_ARGS = {**dict.fromkeys(_NAMES), "training": False, "momentum": 0.1, "eps": 1e-5}
_INSTANCE_NORM_ARGS = {**dict.fromkeys(_NAMES), "use_input_stats": True}
_INSTANCE_NORM_ARGS |= {"momentum": 0.1, "eps": 1e-5}
_TORCHS = ("input", "weight", "bias", "running_mean", "running_var")  # torch.batch_norm's order
_ARGS: Mapping[Callable[..., Any], Kwargs] = {
    F.batch_norm: _BATCH_NORM_ARGS,
    F.instance_norm: _INSTANCE_NORM_ARGS,
    torch.batch_norm: {**dict.fromkeys(_TORCHS), **_BATCH_NORM_ARGS, "cudnn_enabled": True},
    torch.instance_norm: {**dict.fromkeys(_TORCHS), **_INSTANCE_NORM_ARGS, "cudnn_enabled": True},
}


def _batch_norm(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    named = by_name(_ARGS[func], args, kwargs)
    if named["training"]:
        return None
    x, *tensors = (named[name] for name in _NAMES)
    return Call(Norm(named["eps"]), x, tuple(tensors), "nn.functional.batch_norm")


CALLS: Mapping[Callable[..., Any], Recognise] = dict.fromkeys(
    (F.batch_norm, torch.batch_norm), _batch_norm
)


def without_statistics(func: Callable[..., Any], args: Args, kwargs: Kwargs) -> Kwargs | None:
    """The arguments of a norm by the statistics of its input, without those that it would write to.

    The output is the same without them, and ``torch.vmap`` refuses to write to them. None for other
    calls.
    """
    if func not in _ARGS:
        return None
    named = by_name(_ARGS[func], args, kwargs)
    writes = named.get("training") or named.get("use_input_stats")
    return {**named, "running_mean": None, "running_var": None} if writes else None
