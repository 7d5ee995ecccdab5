"""Operations that are linear in ``x`` but for a shift, and the linear layer.

Their values are torch's own, bit for bit, and so are their derivatives but for rounding; only the
way there can be another. Nothing is saved that the derivative asked for does not need.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core import layout
from ..operation import Args, Call, Depends, Kind, Kwargs, Operation, Recognise, Shape, by_name


class Linear(Kind):
    """What is linear in ``x`` but for a shift: its derivative does not depend on ``x``."""

    reads_x: ClassVar[bool] = False

    def prepared(self, last: bool, *tensors: Any) -> Tensor:
        """What `transpose` needs of the other tensors, made once for many cotangents.

        ``last`` says that those have their channels last in memory.
        """
        weight: Tensor = tensors[0]
        return weight

    @abstractmethod
    def transpose(self, g: Tensor, shape: Shape, prepared: Tensor, *tensors: Any) -> Tensor:
        """The cotangent of ``x``, of this shape, for the cotangent ``g`` of the output."""

    def pull(self, g: Tensor, operation: Operation) -> Tensor:
        last = layout.many(g)
        make = lambda: self.prepared(last, *operation.tensors)
        prepared = operation.keep(("prepared", last), make)
        return self.transpose(g, operation.shape, prepared, *operation.tensors)


@dataclass(frozen=True)
class Dense(Linear):
    """``x @ weight.T + bias``, over the last dim of ``x``."""

    names: ClassVar[tuple[str, ...]] = ("linear",)

    def value(self, x: Tensor, *tensors: Any) -> Tensor:
        return F.linear(x, *tensors)

    def push(self, t: Tensor, x: Tensor | None, *tensors: Any) -> Tensor:
        return F.linear(t, tensors[0])

    def transpose(self, g: Tensor, shape: Shape, prepared: Tensor, *tensors: Any) -> Tensor:
        return g @ prepared.to(g.dtype)


@dataclass(frozen=True)
class Matmul(Linear):
    """``x @ weight``, or ``weight @ x`` where ``x`` is the second; the weight is a matrix."""

    second: bool
    names: ClassVar[tuple[str, ...]] = ("linear",)

    def value(self, x: Tensor, *tensors: Any) -> Tensor:
        return torch.matmul(tensors[0], x) if self.second else torch.matmul(x, tensors[0])

    def push(self, t: Tensor, x: Tensor | None, *tensors: Any) -> Tensor:
        return self.value(t, *tensors)

    def transpose(self, g: Tensor, shape: Shape, prepared: Tensor, *tensors: Any) -> Tensor:
        transposed = prepared.to(g.dtype).mT
        return torch.matmul(transposed, g) if self.second else torch.matmul(g, transposed)


_LINEAR_ARGS = dict.fromkeys(("input", "weight", "bias"))


def _linear(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    named = by_name(_LINEAR_ARGS, args, kwargs)
    x, weight, bias = (named[name] for name in _LINEAR_ARGS)
    return Call(Dense(), x, (weight, bias), "nn.functional.linear")


def _matmul(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    """A product with a matrix that does not depend on the input: a linear layer."""
    if kwargs or len(args) != 2 or not all(isinstance(a, Tensor) and a.dim() for a in args):
        return None
    for second, (x, weight) in enumerate((args, args[::-1])):
        if weight.dim() == 2 and depends(x) and not depends(weight):
            return Call(Matmul(bool(second)), x, (weight,), "matmul")
    return None


CALLS: Mapping[Callable[..., Any], Recognise] = {
    F.linear: _linear,
    **dict.fromkeys(
        (torch.matmul, torch.mm, torch.Tensor.matmul, torch.Tensor.mm, torch.Tensor.__matmul__),
        _matmul,
    ),
}
