"""Group norm, whose own derivative torch cannot take for many cotangents in every layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.private import is_batched
from ..operation import Args, Call, Depends, Kind, Kwargs, Operation, Recognise, by_name
from .linear import along


@dataclass(frozen=True)
class GroupNorm(Kind):
    """``F.group_norm(x, groups, weight, bias, eps)``.

    Its derivative by ``x`` is symmetric but for the weight: it takes the mean away, and what goes
    along the normalised ``x``.
    """

    groups: int
    eps: float
    names: ClassVar[tuple[str, ...]] = ("group_norm",)
    quick: ClassVar[bool] = True

    def value(self, x: Tensor, *tensors: Any) -> Tensor:
        weight, bias = tensors
        if is_batched(x) and x.dim() > 3:
            # Torch asks here for layouts that torch.vmap does not know, also of a single place, of
            # which all are the same; a sequence has only one.
            flat = x.flatten(2).contiguous()
            return F.group_norm(flat, self.groups, weight, bias, self.eps).reshape(x.shape)
        return F.group_norm(x, self.groups, weight, bias, self.eps)

    def push(self, t: Tensor, x: Tensor | None, *tensors: Any) -> Tensor:
        assert x is not None
        weight = tensors[0]
        pushed = self._projected(t, x)
        return (pushed if weight is None else pushed * along(weight, 1, t)).to(t.dtype)

    def pull(self, g: Tensor, operation: Operation) -> Tensor:
        x, weight = operation.x, operation.tensors[0]
        assert x is not None
        scaled = g if weight is None else g * along(weight, 1, g)
        return self._projected(scaled, x).to(g.dtype)

    def scale(self, x: Tensor) -> Tensor:
        """What it multiplies by, one over the standard deviation of each group."""
        wide = torch.promote_types(x.dtype, torch.float32)
        grouped = x.reshape(x.shape[0], self.groups, -1).to(wide)
        variance = grouped.var(-1, correction=0, keepdim=True)
        return torch.rsqrt(variance + self.eps).to(x.dtype)

    def pull_scaled(self, g: Tensor, operation: Operation, scale: Tensor) -> Tensor:
        """The cotangent of ``x`` with that scale as a constant."""
        weight = operation.tensors[0]
        scaled = g if weight is None else g * along(weight, 1, g)
        grouped = scaled.reshape(g.shape[0], self.groups, -1)
        return ((grouped - grouped.mean(-1, keepdim=True)) * scale).reshape(g.shape)

    def _projected(self, t: Tensor, x: Tensor) -> Tensor:
        shape = (x.shape[0], self.groups, -1)
        wide = torch.promote_types(x.dtype, torch.float32)
        grouped, x = t.reshape(shape).to(wide), x.reshape(shape).to(wide)
        centred = x - x.mean(-1, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.eps)
        unit = centred * scale
        along_x = unit * (grouped * unit).mean(-1, keepdim=True)
        return ((grouped - grouped.mean(-1, keepdim=True) - along_x) * scale).reshape(t.shape)


_ARGS: Kwargs = dict.fromkeys(("input", "num_groups", "weight", "bias"))
_ARGS |= {"eps": 1e-5}


def _group_norm(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    named = by_name(_ARGS, args, kwargs)
    kind = GroupNorm(named["num_groups"], named["eps"])
    tensors = (named["weight"], named["bias"])
    return Call(kind, named["input"], tensors, "nn.functional.group_norm")


CALLS: Mapping[Any, Recognise] = dict.fromkeys((F.group_norm, torch.group_norm), _group_norm)
