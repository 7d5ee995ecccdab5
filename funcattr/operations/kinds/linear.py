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
from .outcome import spelled
from .products import Product, product


def along(values: Tensor, dim: int, of: Tensor) -> Tensor:
    """``values`` as they stand along a dim of ``of``."""
    return values.reshape(-1, *[1] * (of.dim() - 1 - dim))


class Linear(Kind):
    """What is linear in ``x`` but for a shift: its derivative does not depend on ``x``."""

    reads_x: ClassVar[bool] = False
    #: Whether its tensors are a weight and a bias.
    weighted: ClassVar[bool] = False

    def weights(self, *tensors: Any) -> tuple[Tensor, Tensor | None] | None:
        return (tensors[0], tensors[1]) if self.weighted else None

    def merged(self, weight: Tensor, scale: Tensor) -> Tensor | None:
        """The weight of which each output (dim 1) is scaled; None where it is not so simple."""
        return None

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
    weighted: ClassVar[bool] = True

    def value(self, x: Tensor, *tensors: Any) -> Tensor:
        return F.linear(x, *tensors)

    def push(self, t: Tensor, x: Tensor | None, *tensors: Any) -> Tensor:
        return F.linear(t, tensors[0])

    def transpose(self, g: Tensor, shape: Shape, prepared: Tensor, *tensors: Any) -> Tensor:
        return g @ prepared.to(g.dtype)

    def merged(self, weight: Tensor, scale: Tensor) -> Tensor | None:
        return weight * scale.unsqueeze(1)


@dataclass(frozen=True)
class Matmul(Linear):
    """``x @ weight + bias``, or ``weight @ x`` where ``x`` is the second, by a matrix."""

    second: bool
    names: ClassVar[tuple[str, ...]] = ("linear",)
    weighted: ClassVar[bool] = True

    def value(self, x: Tensor, *tensors: Any) -> Tensor:
        weight, bias = tensors
        out = torch.matmul(weight, x) if self.second else torch.matmul(x, weight)
        return out if bias is None else bias + out

    def push(self, t: Tensor, x: Tensor | None, *tensors: Any) -> Tensor:
        return self.value(t, tensors[0], None)

    def transpose(self, g: Tensor, shape: Shape, prepared: Tensor, *tensors: Any) -> Tensor:
        transposed = prepared.to(g.dtype).mT
        return torch.matmul(transposed, g) if self.second else torch.matmul(g, transposed)

    def merged(self, weight: Tensor, scale: Tensor) -> Tensor | None:
        return None if self.second else weight * scale


_LINEAR_ARGS = dict.fromkeys(("input", "weight", "bias"))


def _linear(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    named = by_name(_LINEAR_ARGS, args, kwargs)
    x, weight, bias = (named[name] for name in _LINEAR_ARGS)
    # A weight of one dim, without that of the outputs, is multiplied as by matmul.
    kind = Dense() if weight.dim() > 1 else Product("matmul", False)
    return Call(kind, x, (weight, bias), "nn.functional.linear")


def _matmul(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    """A product with a matrix that does not depend on the input: a linear layer."""
    if kwargs or len(args) != 2 or not all(isinstance(a, Tensor) and a.dim() for a in args):
        return None
    for second, (x, weight) in enumerate((args, args[::-1])):
        if weight.dim() == 2 and depends(x) and not depends(weight):
            return Call(Matmul(bool(second)), x, (weight, None), "matmul")
    return product("matmul", args, depends)


def _addmm(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    """``bias + x @ weight``, another spelling of a linear layer."""
    if kwargs or len(args) != 3 or depends(args[0]) or not depends(args[1]) or depends(args[2]):
        return None
    return Call(Matmul(False), args[1], (args[2], args[0]), "addmm")


def _reversed(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    return _matmul(func, args[::-1], kwargs, depends)


CALLS: Mapping[Callable[..., Any], Recognise] = {
    F.linear: _linear,
    **dict.fromkeys(spelled("addmm"), _addmm),
    **dict.fromkeys((*spelled("matmul", "mm", "__matmul__"), torch.sparse.mm), _matmul),
    torch.Tensor.__rmatmul__: _reversed,
}
