"""Constants around pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..operation import Args, Call, Depends, Kwargs, Recognise, Shape, by_name
from .linear import Linear


@dataclass(frozen=True)
class Pad(Linear):
    """``F.pad(x, sizes, value=fill)`` of the last two dims, by no negative size.

    Torch's own derivative copies what it cuts out, here it is a view: 0.9 of the time of a sweep of
    EfficientNet-Lite0, where this kind was taken out for a comparison.
    """

    sizes: Shape
    fill: float
    names: ClassVar[tuple[str, ...]] = ("pad",)
    quick: ClassVar[bool] = True

    def value(self, x: Tensor, *tensors: Any) -> Tensor:
        return F.pad(x, self.sizes, value=self.fill)

    def push(self, t: Tensor, x: Tensor | None, *tensors: Any) -> Tensor:
        return F.pad(t, self.sizes)

    def prepared(self, last: bool, *tensors: Any) -> Tensor:
        return torch.empty(())

    def transpose(self, g: Tensor, shape: Shape, prepared: Tensor, *tensors: Any) -> Tensor:
        left, top = self.sizes[0], self.sizes[2]
        return g[..., top : top + shape[-2], left : left + shape[-1]]


_ARGS: Kwargs = {"input": None, "pad": (), "mode": "constant", "value": None}


def _recognise(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    named = by_name(_ARGS, args, kwargs)
    x, sizes = named["input"], tuple(named["pad"])
    pictures = x.dim() == 4 and named["mode"] == "constant" and len(sizes) in (2, 4)
    if not pictures or min(sizes) < 0:
        return None
    kind = Pad((*sizes, 0, 0)[:4], named["value"] or 0.0)
    return Call(kind, x, (), "nn.functional.pad")


CALLS: Mapping[Callable[..., Any], Recognise] = {F.pad: _recognise}
