"""Rules of relevance for what transformers are made of: weighted sums, gates and norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..errors import ArgumentError
from .pair import Pair, Plain
from .propagation import Share, Stop, checked

_SCORES = frozenset(("query", "key", "mask"))


@dataclass(frozen=True)
class StopWeights(Plain):
    """Nothing to attention's weights and to gates, everything to what they weigh."""

    __name__ = "stop_weights"
    reads_x: ClassVar[bool] = False
    by_operands: ClassVar[bool] = True

    def parts(self, roles: Sequence[str]) -> Sequence[Pair | None]:
        weights = [role == "weight" or role in _SCORES for role in roles]
        if any(weights) and (not all(weights) or not _SCORES.isdisjoint(roles)):
            return [Stop() if weight else None for weight in weights]
        return Share(0.5).parts(roles)

    def prepare(self, operation: Any) -> Sequence[Tensor]:
        if operation.kind.names[0] not in ("matmul", "product"):
            raise ArgumentError(
                f"stop_weights is for attention and for products of two tensors, which "
                f"{operation.where} is not."
            )
        return Share(0.5).prepare(operation)

    def pull(self, operation: Any, g: Tensor, *prepared: Tensor) -> Tensor:
        """Of a product whose operands do not stand apart, which is shared."""
        return Share(0.5).pull(operation, g)


@dataclass(frozen=True)
class FixedScale(Plain):
    """A norm's derivative with what it divides by as a constant."""

    __name__ = "fixed_scale"
    reads_x: ClassVar[bool] = False

    def prepare(self, operation: Any) -> Sequence[Tensor]:
        checked(operation.value(), operation)
        scale = getattr(operation.kind, "scale", None)
        if scale is None and operation.kind.reads_x:
            raise ArgumentError(
                f"fixed_scale is for norms, which {operation.where} is not; rules.pass_through "
                "and rules.epsilon() are for any operation."
            )
        return () if scale is None else (scale(operation.x),)

    def pull(self, operation: Any, g: Tensor, *prepared: Tensor) -> Tensor:
        pulled: Tensor = (
            operation.kind.pull_scaled(g, operation, *prepared) if prepared else operation.pull(g)
        )
        return pulled
