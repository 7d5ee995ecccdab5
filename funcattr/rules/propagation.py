"""Rules of layer-wise relevance propagation, for cotangents ``c = R / x``.

``R`` is the relevance of a number and ``x`` its value. A rule of a linear operation is
``c_in = sum_i [mask_i(x)] W_i^T (f_i c)`` with ``f_i = out / stab(z_i)``: the ``f_i`` do not depend
on the target and are made once. Rules that ignore ``x`` end with a division by it; `floored` stands
for ``x`` there, and at the very end where the map is multiplied by it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ArgumentError
from .pair import Plain

FLOOR = 1e-30


def floored(x: Tensor) -> Tensor:
    """``x``, with a very small number in the place of 0, so that one can divide by it.

    Args:
        x: of any shape.

    Returns:
        The same, with 1e-30 in the place of each 0.

    >>> floored(torch.tensor([2.0, 0.0]))
    tensor([2.0000e+00, 1.0000e-30])
    """
    return torch.where(x == 0, FLOOR, x)


def stabilized(z: Tensor, eps: float) -> Tensor:
    """``z + eps * sign(z)``, where the sign of 0 is 1, so that one can divide by it.

    Args:
        z: of any shape.
        eps: the stabiliser.

    Returns:
        Of the shape of ``z``.

    Bach et al., "On Pixel-Wise Explanations" (2015), equation 58.

    >>> stabilized(torch.tensor([-1.0, 0.0, 1.0]), 0.5)
    tensor([-1.5000,  0.5000,  1.5000])
    """
    return torch.where(z < 0, z - eps, z + eps)


@dataclass(frozen=True)
class Linear(Plain):
    """What the rules of linear operations have in common."""

    eps: float
    zero_bias: bool = False
    merges: ClassVar[bool] = True

    def share(self, operation: Any, z: Tensor) -> Tensor:
        """``out / stab(z)``."""
        return floored(_value(operation)) / stabilized(z, self.eps)

    def bias(self, operation: Any) -> Tensor | None:
        """The operation's, if it counts."""
        bias: Tensor | None = operation.bias
        return None if self.zero_bias else bias


def _value(operation: Any) -> Tensor:
    return checked(operation.value(), operation)


def checked(out: Tensor, operation: Any) -> Tensor:
    """``out``, in a dtype that relevance can be carried in.

    Raises:
        ArgumentError: it cannot.
    """
    refuse_half(out, operation, "relevance", "to stand for 0")
    return out


def refuse_half(out: Tensor, operation: Any, method: str, small: str) -> None:
    """Raises where ``out`` is in float16, which has not the ``small`` number of a method."""
    if out.dtype == torch.float16:
        raise ArgumentError(
            f"{operation.where} is in float16, which is too coarse for {method} (there is no "
            f"number below 6e-8 {small}); use bfloat16 or float32."
        )


@dataclass(frozen=True)
class Epsilon(Linear):
    """What adds to the output and what lowers it, alike."""

    __name__ = "epsilon"
    scales: ClassVar[bool] = True
    reads_x: ClassVar[bool] = False

    def prepare(self, operation: Any) -> Sequence[Tensor]:
        z = _value(operation)
        if self.zero_bias and operation.bias is not None:
            z = operation.linear(operation.weight).value()
        return (self.share(operation, z),)

    def pull(self, operation: Any, g: Tensor, *prepared: Tensor) -> Tensor:
        pulled: Tensor = operation.pull(g * prepared[0])
        return pulled


def positive(t: Tensor) -> Tensor:
    """``max(t, 0)``, whose derivative at 0 is 1; that of `torch.clamp` depends on torch's version.

    With that of `negative` it is the derivative of ``t``, as in a small change to either side.
    """
    return t.masked_fill(t < 0, 0)


def negative(t: Tensor) -> Tensor:
    """``min(t, 0)``, whose derivative at 0 is 0."""
    return t.masked_fill(t >= 0, 0)


@dataclass(frozen=True)
class _Signed(Linear):
    """What treats positive and negative inputs apart.

    There are two weights, A and B, and up to two sums: ``z_1 = A x+ + B x- + a`` and
    ``z_2 = B x+ + A x- + b``, with their biases. Of inputs that are known not to be negative only
    one half is computed.
    """

    reads_x: ClassVar[bool] = False
    needs_weight: ClassVar[bool] = True

    def part(self, t: Tensor, i: int) -> Tensor:
        """A (0) or B (1) of a weight, or of a bias."""
        return negative(t) if i else positive(t)

    def counts(self) -> tuple[float, ...]:
        """What each of the sums counts."""
        return (1.0,)

    def _by(self, operation: Any, i: int) -> Any:
        """The operation by A or B, made once for many cotangents."""
        name = ("weight of the rule", i)
        weight = operation.keep(name, lambda: self.part(operation.weight, i))
        return operation.linear(weight, name=name)

    def prepare(self, operation: Any) -> Sequence[Tensor]:
        x, bias = operation.x, self.bias(operation)
        whole, count = operation.nonnegative(), len(self.counts())
        needed = count if whole else 2
        weights = [self.part(operation.weight, i) for i in range(needed)]
        above = x if whole else positive(x)
        below = None if whole else negative(x)
        shares = []
        for i, counted in enumerate(self.counts()):
            shift = None if bias is None else self.part(bias, i)
            z = operation.linear(weights[i], shift, x=above).value()
            if below is not None:
                z = z + operation.linear(weights[1 - i], x=below).value()
            share = self.masked(i, operation, self.share(operation, z))
            shares.append(share if counted == 1 else counted * share)
        return (*shares,) if whole else (*shares, x)

    def masked(self, i: int, operation: Any, share: Tensor) -> Tensor:
        """What the i-th sum is for."""
        return share

    def pull(self, operation: Any, g: Tensor, *prepared: Tensor) -> Tensor:
        count = len(self.counts())
        cots = [g * f for f in prepared[:count]]

        def pulled(swapped: bool) -> Tensor:
            terms = [
                self._by(operation, 1 - i if swapped else i).pull(cot) for i, cot in enumerate(cots)
            ]
            total: Tensor = terms[0] if len(terms) == 1 else terms[0] + terms[1]
            return total

        above = pulled(False)
        if len(prepared) == count:
            return above
        x, below = prepared[-1], pulled(True)
        # At 0 as where no input is negative, which has one half alone: both must say the same.
        return torch.where(x >= 0, above, below)


@dataclass(frozen=True)
class ZPlus(_Signed):
    """What adds to the output."""

    __name__ = "z_plus"


@dataclass(frozen=True)
class AlphaBeta(_Signed):
    """Both, counted apart."""

    alpha: float = 2.0
    beta: float = 1.0
    __name__ = "alpha_beta"

    def counts(self) -> tuple[float, ...]:
        return (self.alpha, -self.beta)


@dataclass(frozen=True)
class Gamma(_Signed):
    """Both, and more of what goes with the output."""

    gamma: float = 0.25
    __name__ = "gamma"

    def part(self, t: Tensor, i: int) -> Tensor:
        return t + self.gamma * super().part(t, i)

    def counts(self) -> tuple[float, ...]:
        return (1.0, 1.0)

    def masked(self, i: int, operation: Any, share: Tensor) -> Tensor:
        out = operation.value()
        return share.masked_fill(out <= 0 if i == 0 else out >= 0, 0)


@dataclass(frozen=True)
class PassThrough(Plain):
    """Relevance as it is."""

    __name__ = "pass_through"
    reads_x: ClassVar[bool] = False
    ignores_x: ClassVar[bool] = True

    def prepare(self, operation: Any) -> Sequence[Tensor]:
        out = _value(operation)
        if out.shape != operation.x.shape:
            raise ArgumentError(
                f"pass_through is for operations whose output has the shape of the input; "
                f"{operation.where} maps {tuple(operation.x.shape)} to {tuple(out.shape)}."
            )
        return (floored(out) / floored(operation.x),)

    def pull(self, operation: Any, g: Tensor, *prepared: Tensor) -> Tensor:
        return g * prepared[0]


@dataclass(frozen=True)
class Share(Plain):
    """The true derivative, a part of it."""

    part: float
    __name__ = "share"
    reads_x: ClassVar[bool] = False
    scales: ClassVar[bool] = True

    def parts(self, roles: Sequence[str]) -> Sequence[Share | None]:
        """What each of several operands gets, all of them together everything.

        Of attention one part is the value's, and the other that of the weights: of a mask, which is
        added to their scores, and of query and key, which are multiplied.
        """
        if len(roles) < 2:
            return [None for _ in roles]
        weights = 1 - self.part if "value" in roles else 1.0
        scores = weights * (self.part if {"query", "key"}.issubset(roles) else 1.0)
        own = {"query": scores, "key": scores, "mask": weights}
        return [Share(own.get(role, self.part)) for role in roles]

    def prepare(self, operation: Any) -> Sequence[Tensor]:
        checked(operation.value(), operation)
        return ()

    def pull(self, operation: Any, g: Tensor, *prepared: Tensor) -> Tensor:
        pulled: Tensor = operation.pull(g * self.part)
        return pulled


@dataclass(frozen=True)
class Stop(Plain):
    """Lets nothing pass."""

    __name__ = "stop"
    reads_x: ClassVar[bool] = False
    #: Whether nothing passes, for which None stands as it does in autograd.
    blocks: ClassVar[bool] = True

    def prepare(self, operation: Any) -> Sequence[Tensor]:
        return ()

    def pull(self, operation: Any, g: Tensor, *prepared: Tensor) -> None:
        return None
