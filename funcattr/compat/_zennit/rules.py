"""Zennit's rules: functions here, which return those of funcattr."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import rules
from ...errors import ArgumentError, short
from ...rules import Elementwise, Pair


def Epsilon(epsilon: float = 1e-6, zero_params: Any = None) -> Pair:
    """Zennit's ``Epsilon``; as a function `funcattr.rules.epsilon`.

    Args:
        epsilon: as there; zennit's callables are refused.
        zero_params: None, or ``"bias"``, or a list of that.

    Returns:
        A rule of funcattr, for the maps of composites.

    Raises:
        ArgumentError: what cannot be had: a callable stabiliser, parameters other than the bias.

    >>> Epsilon(0.25, zero_params=["bias"])
    Epsilon(eps=0.25, zero_bias=True)
    """
    return rules.epsilon(_eps("epsilon", epsilon), zero_bias=_zero_bias(zero_params))


def Gamma(gamma: float = 0.25, stabilizer: float = 1e-6, zero_params: Any = None) -> Pair:
    """Zennit's ``Gamma``; as a function `funcattr.rules.gamma`.

    Args, Returns and Raises as `Epsilon`.

    >>> Gamma(0.5)
    Gamma(eps=1e-06, zero_bias=False, gamma=0.5)
    """
    return rules.gamma(gamma, eps=_eps("stabilizer", stabilizer), zero_bias=_zero_bias(zero_params))


def ZPlus(stabilizer: float = 1e-6, zero_params: Any = None) -> Pair:
    """Zennit's ``ZPlus``; as a function `funcattr.rules.z_plus`.

    Args, Returns and Raises as `Epsilon`.

    >>> ZPlus()
    ZPlus(eps=1e-06, zero_bias=False)
    """
    return rules.z_plus(eps=_eps("stabilizer", stabilizer), zero_bias=_zero_bias(zero_params))


def AlphaBeta(
    alpha: float = 2.0, beta: float = 1.0, stabilizer: float = 1e-6, zero_params: Any = None
) -> Pair:
    """Zennit's ``AlphaBeta``; as a function `funcattr.rules.alpha_beta`.

    Args, Returns and Raises as `Epsilon`.

    >>> AlphaBeta(1, 0)
    AlphaBeta(eps=1e-06, zero_bias=False, alpha=1.0, beta=0.0)
    """
    return rules.alpha_beta(
        alpha, beta, eps=_eps("stabilizer", stabilizer), zero_bias=_zero_bias(zero_params)
    )


def ZBox(low: Any, high: Any, stabilizer: float = 1e-6, zero_params: Any = None) -> Pair:
    """Zennit's ``ZBox``; as a function `funcattr.rules.z_box`.

    Args, Returns and Raises as `Epsilon` and `funcattr.rules.z_box`.

    >>> ZBox(torch.zeros(()), 1)
    ZBox(eps=1e-06, zero_bias=False, low=0.0, high=1.0)
    """
    _zero_bias(zero_params)  # biases cancel there
    return rules.z_box(low, high, eps=_eps("stabilizer", stabilizer))


def WSquare(stabilizer: float = 1e-6, zero_params: Any = None) -> Pair:
    """Zennit's ``WSquare``; as a function `funcattr.rules.w_square`.

    Args, Returns and Raises as `Epsilon`.

    >>> WSquare()
    WSquare(eps=1e-06, zero_bias=False)
    """
    return rules.w_square(eps=_eps("stabilizer", stabilizer), zero_bias=_zero_bias(zero_params))


def Flat(stabilizer: float = 1e-6, zero_params: Any = None) -> Pair:
    """Zennit's ``Flat``; as a function `funcattr.rules.flat`.

    Args, Returns and Raises as `Epsilon`.

    >>> Flat(1e-9)
    Flat(eps=1e-09, zero_bias=False)
    """
    _zero_bias(zero_params)  # there are none in it
    return rules.flat(eps=_eps("stabilizer", stabilizer))


def Norm(stabilizer: float = 1e-6) -> Pair:
    """Zennit's ``Norm``, for sums and means; as a function `funcattr.rules.epsilon`.

    Args, Returns and Raises as `Epsilon`.

    >>> Norm()
    Epsilon(eps=1e-06, zero_bias=False)
    """
    return rules.epsilon(_eps("stabilizer", stabilizer))


def Pass() -> Pair:
    """Zennit's ``Pass``; as a value `funcattr.rules.pass_through`.

    >>> Pass()
    PassThrough()
    """
    return rules.pass_through


def ReLUDeconvNet() -> Elementwise:
    """Zennit's ``ReLUDeconvNet``; as a value `funcattr.rules.deconvnet`.

    >>> ReLUDeconvNet().__name__
    'deconvnet'
    """
    return rules.deconvnet


def ReLUGuidedBackprop() -> Elementwise:
    """Zennit's ``ReLUGuidedBackprop``; as a value `funcattr.rules.guided`.

    >>> ReLUGuidedBackprop().__name__
    'guided'
    """
    return rules.guided


@dataclass(frozen=True)
class ReLUBetaSmooth:
    """Zennit's ``ReLUBetaSmooth``: the derivative of a softplus in the place of that of a ReLU.

    Args:
        beta_smooth: how steep the softplus is.

    Dombrowski et al., "Explanations Can Be Manipulated and Geometry Is to Blame" (2019).

    >>> ReLUBetaSmooth(10.0)(torch.zeros(2), torch.ones(2))
    tensor([0.5000, 0.5000])
    """

    beta_smooth: float = 10.0
    __name__ = "beta_smooth"

    def __call__(self, x: Tensor, g: Tensor) -> Tensor:
        return torch.sigmoid(self.beta_smooth * x) * g


def _eps(name: str, value: Any) -> float:
    if callable(value):
        raise ArgumentError(
            f"{name} is a number here, added with the sign of what it stabilises; got the callable "
            f"{short(value)}. Another stabiliser is a rule of your own (see CONTRIBUTING.md)."
        )
    return value  # type: ignore[no-any-return]  # the rule checks it


def _zero_bias(zero_params: Any) -> bool:
    names = [zero_params] if isinstance(zero_params, str) else zero_params
    if names is None or (isinstance(names, Sequence) and set(names) <= {"bias"}):
        return bool(names)
    raise ArgumentError(f"zero_params is None, 'bias' or ['bias']; got {short(names)}.")
