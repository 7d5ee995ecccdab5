"""Functions of single numbers written out, and the deviations that written-out norms divide by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...operation import Args, Call, Depends, Kind, Kwargs, Recognise
from ..outcome import Outcome, spelled


@dataclass(frozen=True)
class Elementwise(Kind):
    """An elementwise function made of several calls, of which input and output are known."""

    names: ClassVar[tuple[str, ...]] = ("elementwise",)

    def value(self, x: Tensor, *tensors: Tensor | None) -> Tensor:
        raise NotImplementedError("its calls were made as the model makes them")


SUMS = spelled("add", "sub", "rsub", "__rsub__")
#: Sums with, and multiples by, what does not depend on the input.
AFFINE = SUMS | spelled("mul", "div", "neg", "true_divide", "multiply", "negative")
_CURVED = (
    *("pow", "__pow__", "square", "erf", "abs", "log1p", "sin", "cos", "tanh", "ndtr", "erfc"),
    *("expm1", "sinh", "cosh", "tan", "asin", "acos", "atan", "asinh", "acosh", "atanh", "sinc"),
    *("arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh", "erfcx", "erfinv", "logit"),
    *("float_power", "entr", "lgamma", "gammaln", "digamma", "psi", "polygamma", "mvlgamma"),
    *("multigammaln", "ndtri", "i0", "i0e", "i1", "i1e"),
    *("softsign", "logsigmoid", "hardshrink", "softshrink", "tanhshrink", "rrelu"),
)
#: Of one tensor, or of several that come of one.
CURVED = spelled(*_CURVED)
#: Those that write to it, and those that return the same.
CURVED_IN_PLACE: Mapping[Callable[..., Any], Callable[..., Any]] = {
    Tensor.__ipow__: torch.pow,
    **{
        f: getattr(torch, name)
        for name in _CURVED
        if hasattr(torch, name)
        for f in spelled(f"{name}_")
    },
}
#: Which of them are real, and as much as its length, for complex numbers.
LENGTHS = spelled("abs")
QUOTIENTS = spelled("div", "true_divide", "divide", "div_", "true_divide_")
EXPONENTIALS = spelled("exp", "exp2", "exp_", "exp2_")
POWERS = spelled("pow", "__pow__", "float_power", "pow_", "__ipow__")
ROOTS = spelled("rsqrt", "sqrt", "rsqrt_", "sqrt_")
_IN_PLACE = spelled("pow_", "__ipow__", "rsqrt_", "sqrt_")
_SIZES = ROOTS | spelled("std", "norm", "vector_norm")


def _deviation(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    if not args or kwargs.get("out") is not None or not depends(args[0]):
        return None
    if func not in _IN_PLACE:
        return Call(Outcome("deviation"), func(*args, **kwargs), (), func.__name__)
    written = args[0]
    out = func(written.clone(), *args[1:], **kwargs)
    return Call(Outcome("deviation"), out, (), func.__name__, True, written)


def _power(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    power = args[1] if len(args) > 1 else kwargs.get("exponent")
    if not isinstance(power, (int, float)) or not (power < 0 or 0 < power < 1):
        return None
    return _deviation(func, args, kwargs, depends)


DEVIATIONS: Mapping[Callable[..., Any], Recognise] = {
    **dict.fromkeys(_SIZES, _deviation),
    **dict.fromkeys(POWERS, _power),
}
