"""A convolution and the batch norm of its output as one operation.

For many cotangents the norm's scale goes into the convolution's weight, once for all of them, which
spares a pass over memory for each (1.07 of the time on ResNet-18, 1.15 on EfficientNet-Lite0:
``benchmarks``, parts/efficientnet_lite0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import layout
from ..core.contexts import raw
from ..core.private import is_wrapped, version, watched
from .kinds.convolution import Convolution
from .kinds.norm import Norm, along
from .operation import Call, Shape
from .site import Pass, site


class Unfold(BaseException):
    """Raised when the model inspects an intermediate tensor's gradient; the pass is repeated
    without folding.
    """


@dataclass(frozen=True)
class Folded(Convolution):
    """A convolution and the batch norm of its output: ``value(x, weight, scale)``.

    ``known`` holds the output. Only for where a single backward pass is all that is asked for: it
    has no forward mode, and no derivative by its tensors.
    """

    known: list[Tensor]

    def value(self, x: Tensor, *tensors: Tensor | None) -> Tensor:
        return self.known.pop()

    def prepared(self, last: bool, *tensors: Any) -> Tensor:
        weight, scale = tensors
        if not last:  # a scaled weight is not worth its making
            return super().prepared(last, weight)
        return super().prepared(last, (weight * along(scale, 0, weight)).to(weight.dtype))

    def transpose(self, g: Tensor, shape: Shape, prepared: Tensor, *tensors: Any) -> Tensor:
        weight, scale = tensors
        if not layout.many(g):
            g = (g * along(scale, 1, g)).to(g.dtype)
        return super().transpose(g, shape, prepared, weight)


class Convolved(NamedTuple):
    """A convolution whose output may be on its way to a batch norm."""

    out: Tensor
    x: Tensor
    weight: Tensor
    kind: Convolution
    versions: tuple[int, ...]

    @classmethod
    def of(cls, call: Call, out: Tensor) -> Convolved | None:
        """That of this call in plain autograd, where only its input is differentiated, once."""
        kind, x = call.kind, call.x
        if not isinstance(kind, Convolution):
            return None
        weight, *bias = call.tensors
        assert weight is not None
        own = any(t is not None and t.requires_grad for t in (weight, *bias))
        whole = x.dim() == len(kind.stride) + 2
        if own or not (whole and x.requires_grad and out.requires_grad) or is_wrapped(out):
            return None
        return cls(out, x, weight, kind, (version(out), version(x), version(weight)))

    def folded(self, call: Call, passing: Pass) -> Tensor | None:
        """The output of both, if ``call`` is a batch norm of just that output."""
        out, x = call.x, self.x
        if not isinstance(call.kind, Norm) or out is not self.out or not out.requires_grad:
            return None
        untouched = (version(out), version(x), version(self.weight)) == self.versions
        own = any(t is not None and t.requires_grad for t in call.tensors)
        if not untouched or watched(out) or own:
            return None
        with torch.no_grad():
            known = raw(call.kind.value, out, *call.tensors)
            scale = raw(call.kind.prepared, False, *call.tensors)
        k = self.kind
        kind = Folded(k.stride, k.padding, k.dilation, k.groups, [known])
        return site(kind, (), 1, x, self.weight, scale, passing=passing)
