"""A convolution and the batch norm of its output as one operation.

For many cotangents the norm's scale goes into the convolution's weight, once for all of them, which
spares a pass over memory for each (1.07 of the time on ResNet-18, 1.05 to 1.26 on
EfficientNet-Lite0: ``benchmarks``, parts/efficientnet_lite0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import layout
from ..core.contexts import raw
from ..core.private import is_wrapped, version, watched
from ..errors import HiddenSiteError, LayerError
from .kinds.convolution import Convolution
from .kinds.linear import Dense, Linear, Matmul, along
from .kinds.norm import Norm
from .kinds.transposed import TransposedConvolution
from .operation import Args, Call, Kwargs, Shape
from .place import Pass
from .site import site


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

    known: list[Tensor] = field(default_factory=list)

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
        kind = Folded(k.stride, k.padding, k.dilation, k.groups, k.extra, [known])
        return site(kind, (), 1, x, self.weight, scale, passing=passing)


@dataclass(frozen=True)
class Mergeable:
    """What is known of the output of a linear operation with rules, or of a copy of it.

    An ``explained`` one is what a layer's relevance is taken at; ``merged`` are the batch norms
    that were merged into the operation, of all its outputs. It is ``stale`` where the operation's
    input was written to, which may happen before there is a norm.
    """

    call: Call
    own: Sequence[Any]
    explained: bool
    stale: bool
    merged: list[Call]

    @classmethod
    def of(cls, call: Call, own: Sequence[Any]) -> Mergeable | None:
        """That of this call; None where no norm can be merged into it."""
        own = [rule if getattr(rule, "merges", False) else None for rule in own]
        weighted = isinstance(call.kind, Linear) and call.kind.weighted
        if not weighted or not any([rule is not None for rule in own]):
            return None
        return cls(call, own, False, False, [])

    def copied(self, explained: bool, intact: bool) -> Mergeable:
        """That of a copy; ``intact`` says that the operation's input is as it was."""
        if explained and self.merged:
            raise LayerError(_EXPLAINED)
        stale = self.stale or not intact
        return replace(self, explained=explained or self.explained, stale=stale)

    def with_norm(self, call: Call, intact: bool) -> Call | None:
        """Both as one linear operation, if ``call``, a batch norm of that output, can be merged.

        Raises:
            HiddenSiteError: what goes into the operation is no more, since it was written to.
        """
        before, kind = self.call, self.call.kind
        assert isinstance(kind, (Dense, Matmul, Convolution, TransposedConvolution))
        assert isinstance(call.kind, Norm)
        # A norm is over dim 1, which has to be that of the weight's outputs.
        dims = 0 if isinstance(kind, (Dense, Matmul)) else len(kind.stride)
        if call.x.dim() != dims + 2:
            return None
        mean, _, _, shift = call.tensors
        weight, bias = before.tensors
        assert weight is not None and mean is not None
        scale = call.kind.prepared(False, *call.tensors)
        weight = kind.merged(weight, scale)
        if weight is None:
            return None
        if self.explained:
            raise LayerError(_EXPLAINED)
        if self.stale or not intact:
            raise HiddenSiteError(
                f"the model writes to what goes into {before.spelling} between that and its batch "
                "norm, which rules merge into it. Write x = x + ... in the place of x += ... there."
            )
        moved = (-mean if bias is None else bias - mean) * scale
        tensors = (weight, moved if shift is None else moved + shift)
        self.merged.append(call)
        return before._replace(tensors=tensors, spelling=call.spelling)


_EXPLAINED = (
    "the layer's tensor goes from a convolution or linear layer to a batch norm, which relevance "
    "rules merge into that, so that it has no relevance of its own; explain the output of the norm."
)


def writes(func: Any) -> bool:
    """Whether a torch function writes to a tensor, as far as its name says."""
    name = str(getattr(func, "__name__", ""))
    return name.endswith("_") and (not name.endswith("__") or name == "__setitem__")


def written_by(func: Any, args: Args, kwargs: Kwargs) -> Tensor | None:
    """The tensor that a call writes to, as far as names say; dropout may write nothing."""
    name, out = str(getattr(func, "__name__", "")), kwargs.get("out")
    in_place = writes(func) or kwargs.get("inplace") is True
    if in_place and "dropout" not in name and name != "requires_grad_":
        out = args[0] if args else kwargs.get("input")
    return out if isinstance(out, Tensor) else None
