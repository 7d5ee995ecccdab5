"""What stands behind an operation and takes its cotangent, where a rule of linear operations acts.

The operation itself was called as the model calls it, and its true derivative is its own. So a
norm can be merged into what comes before it, and a whole module be one operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ... import rules
from ...errors import ArgumentError
from ..operation import Kind, Operation, Tensors


@dataclass(frozen=True)
class StandIn(Kind):
    """``value(x, out, *tensors)`` is ``out``: the value of ``kind`` of ``x``, made already."""

    kind: Kind
    stands_in: ClassVar[bool] = True

    @property
    def names(self) -> tuple[str, ...]:
        return self.kind.names

    def constants(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.kind.constants(x)

    def witness(
        self, x: Tensor, out: Tensor, own: Sequence[rules.Rule | None], more: bool
    ) -> Tensor | None:
        return x if more or any(self.needs_x(rule) for rule in own) else None

    def needs_x(self, rule: rules.Rule | None) -> bool:
        return rule is not None and getattr(rule, "reads_x", True)

    def value(self, x: Tensor, *tensors: Any) -> Tensor:
        out: Tensor = tensors[0]
        return out.clone()

    def as_ruled(self, operation: Operation) -> Operation:
        out, *tensors = operation.tensors
        return operation.of_kind(self.kind, tensors, out)

    def pull_tensors(
        self, g: Tensor, needs: Sequence[bool], x: Tensor, *tensors: Tensor | None
    ) -> Tensors:
        return (None, *self.kind.pull_tensors(g, needs[1:], x, *tensors[1:]))


@dataclass(frozen=True)
class Whole(Kind):
    """A whole module as one operation, of which nothing is known but input and output."""

    names: ClassVar[tuple[str, ...]] = ("module",)

    def value(self, x: Tensor, *tensors: Tensor | None) -> Tensor:
        raise ArgumentError(
            "a rule for a whole module goes by operation.x and, in prepare, operation.value(); "
            "its weights and its derivative are not to be had there. rules.pass_through and "
            "rules.stop are such rules."
        )
