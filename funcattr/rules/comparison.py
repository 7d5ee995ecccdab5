"""DeepLIFT's rules: differences to a baseline in the place of derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ArgumentError
from .pair import Plain
from .propagation import refuse_half

NEAR = 1e-10  # below it a difference is none, and the derivative is taken


@dataclass(frozen=True)
class Rescale(Plain):
    """``(y - y0) / (x - x0)`` of an elementwise function.

    Where that is of several tensors, such as a power of each number of ``x`` by each of some
    others, it is the derivative.
    """

    __name__ = "rescale"
    compares: ClassVar[bool] = True
    reads_x: ClassVar[bool] = False

    def prepare(self, operation: Any) -> Sequence[Tensor]:
        if operation.kind.straight:
            return ()
        x, y, x0, y0 = _values(operation)
        if operation.tensors:  # an exponent, which may be another one for the baseline
            y0 = operation.kind.value(x0, *operation.tensors)
        if y.shape != x.shape:
            return ()
        near = (x - x0).abs() < NEAR
        slope = operation.pull(torch.ones_like(y))
        return (torch.where(near, slope, (y - y0) / torch.where(near, 1.0, x - x0)),)

    def pull(self, operation: Any, g: Tensor, *prepared: Tensor) -> Tensor:
        pulled: Tensor = g * prepared[0] if prepared else operation.pull(g)
        return pulled


@dataclass(frozen=True)
class RescaleMax(Plain):
    """The difference of a maximum, shared by the winners of both.

    The winner for the input has ``max(y, y0) - y0``, that for the baseline ``y - max(y, y0)``.
    """

    __name__ = "rescale"
    compares: ClassVar[bool] = True
    reads_x: ClassVar[bool] = False

    def prepare(self, operation: Any) -> Sequence[Tensor]:
        x, y, x0, y0 = _values(operation)
        top = torch.maximum(y, y0)
        return (top - y0, y - top, x - x0, *operation.reference.tensors)

    def pull(self, operation: Any, g: Tensor, *prepared: Tensor) -> Tensor:
        above, below, way, *winners = prepared
        other = operation.by("baseline", winners)
        pulled = operation.pull(g * above) + other.pull(g * below)
        near = way.abs() < NEAR
        return torch.where(near, operation.pull(g), pulled / torch.where(near, 1.0, way))


def _values(operation: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Input and output, and those for the baseline."""
    other = operation.reference
    if other is None:
        raise ArgumentError("DeepLIFT's rules compare with a baseline: use funcattr.deep_lift.")
    y = operation.value()
    refuse_half(y, operation, "DeepLIFT", "to tell a difference from none")
    return operation.x, y, other.x, other.value()
