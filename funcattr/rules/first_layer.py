"""Rules of relevance for a first layer, which do not go by the value of ``x`` itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.layout import broadcasts
from ..errors import ArgumentError
from .propagation import Linear, floored, negative, positive


@dataclass(frozen=True)
class Flat(Linear):
    """What ignores ``x``: ``R_in = V^T (R / stab(z))`` with ``z = V 1``, for a weight V."""

    __name__ = "flat"
    ignores_x: ClassVar[bool] = True
    needs_weight: ClassVar[bool] = True

    def weight(self, operation: Any) -> Tensor:
        return torch.ones_like(operation.weight)

    def shift(self, operation: Any) -> Tensor | None:
        """What is added to ``V 1``."""
        return None

    def prepare(self, operation: Any) -> Sequence[Tensor]:
        ones = torch.ones_like(operation.x)
        z = operation.linear(self.weight(operation), self.shift(operation), x=ones).value()
        return (self.share(operation, z),)

    def pull(self, operation: Any, g: Tensor, *prepared: Tensor) -> Tensor:
        weight = operation.keep(self.__name__, lambda: self.weight(operation))
        pulled: Tensor = operation.linear(weight, name=self.__name__).pull(g * prepared[0])
        return pulled / floored(operation.x)


@dataclass(frozen=True)
class WSquare(Flat):
    """By the square of the weight."""

    __name__ = "w_square"

    def weight(self, operation: Any) -> Tensor:
        weight: Tensor = operation.weight
        return weight**2

    def shift(self, operation: Any) -> Tensor | None:
        bias = self.bias(operation)
        return None if bias is None else bias**2


@dataclass(frozen=True, eq=False)  # its bounds may be tensors
class ZBox(Linear):
    """What is left of the bounds of the input."""

    low: Any = None
    high: Any = None
    __name__ = "z_box"
    # A base that is a dataclass would compare the numbers of its own.
    __eq__ = object.__eq__
    __hash__ = object.__hash__
    ignores_x: ClassVar[bool] = True
    needs_weight: ClassVar[bool] = True

    def prepare(self, operation: Any) -> Sequence[Tensor]:
        low, high = (self._bound(operation, name) for name in ("low", "high"))
        weight = operation.weight
        above, below = positive(weight), negative(weight)
        z = operation.linear(weight).value()
        z = z - operation.linear(above, x=low.expand_as(operation.x)).value()
        z = z - operation.linear(below, x=high.expand_as(operation.x)).value()
        return self.share(operation, z), low, high

    def _bound(self, operation: Any, name: str) -> Tensor:
        """A bound as a tensor that fits ``x``."""
        bound, x = getattr(self, name), operation.x
        if isinstance(bound, tuple):
            bound = torch.tensor(bound, dtype=x.dtype, device=x.device)
            bound = bound.reshape(-1, *[1] * (x.dim() - 2))
        bound = torch.as_tensor(bound).to(x)
        if broadcasts(bound, x.shape):
            return bound.reshape(*[1] * (x.dim() - bound.dim()), *bound.shape)
        raise ArgumentError(
            f"z_box at {operation.where}: {name} is a number, one for each channel, or a tensor "
            f"that fits the input of shape {tuple(x.shape)}; got shape {tuple(bound.shape)}."
        )

    def pull(self, operation: Any, g: Tensor, *prepared: Tensor) -> Tensor:
        share, low, high = prepared
        weight = operation.weight
        above = operation.keep("z_box +", lambda: positive(weight))
        below = operation.keep("z_box -", lambda: negative(weight))
        s, x = g * share, operation.x
        pulled: Tensor = x * operation.pull(s)
        pulled = pulled - low * operation.linear(above, name="z_box +").pull(s)
        pulled = pulled - high * operation.linear(below, name="z_box -").pull(s)
        return pulled / floored(x)
