"""The rules of layer-wise relevance propagation, under zennit's names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import ArgumentError, short
from . import first_layer, propagation, weighting
from .pair import Pair

#: Relevance passes as it is: of the output to the input, number by number. For activations, and
#: for whatever else maps each number to one. ``c_in = c * out / x``.
pass_through: Pair = propagation.PassThrough()

#: No relevance passes.
stop: Pair = propagation.Stop()

#: Half of it, for a product of two tensors that both depend on the input, each of which would get
#: all of it by the true derivative (Achtibat et al., "AttnLRP", 2024, proposition 3.2). Of
#: attention the values get a half, queries and keys a quarter each; what does not depend on the
#: input has no part, and leaves its own to the others.
share: Pair = propagation.Share(0.5)

#: Relevance passes to what is weighted, and none to the weights: those of attention (from a softmax
#: to query and key) and gates (a product with the output of an activation). Other products are
#: shared (Ali et al., "XAI for Transformers: Better Explanations through Conservative Propagation",
#: 2022, section 3).
stop_weights: Pair = weighting.StopWeights()

#: The derivative of a norm with the standard deviation (or root mean square) that it divides by as
#: a constant, for layer, RMS, group and batch norms (Ali et al., 2022, section 3.2).
fixed_scale: Pair = weighting.FixedScale()


def epsilon(eps: float = 1e-6, *, zero_bias: bool = False) -> Pair:
    """LRP-epsilon: ``c_in = W^T (out / stab(z) * c)`` with ``z = W x + b``.

    Args:
        eps: what stabilises the division, in the units of the operation's output:
            ``stab(z) = z + eps * sign(z)``, where the sign of 0 is 1.
        zero_bias: whether the bias has no part in ``z``, so that it takes no relevance.

    Returns:
        A rule for linear operations; without ``zero_bias`` for all others as well (sums, means).

    Raises:
        ArgumentError: ``eps`` is no finite number, or negative; when called: the operation is in
            float16.

    Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise
    Relevance Propagation" (2015), equation 58.

    >>> import torch
    >>> import funcattr as fa
    >>> layer = torch.nn.Linear(2, 1)
    >>> composite = fa.Composite([("linear", epsilon(0.25))])
    >>> fa.lrp(layer, composite)(torch.ones(1, 2), target=0).shape
    torch.Size([1, 2])
    """
    return propagation.Epsilon(_number("eps", eps), _flag(zero_bias))


def z_plus(*, eps: float = 1e-6, zero_bias: bool = False) -> Pair:
    """LRP-z+: only what adds to the output has relevance, ``z = W+ x+ + W- x- + b+``.

    Args, Returns and Raises as `epsilon`, for operations with a weight.

    Montavon et al., "Explaining nonlinear classification decisions with deep Taylor decomposition"
    (2017), section 4.2.

    >>> z_plus()
    ZPlus(eps=1e-06, zero_bias=False)
    """
    return propagation.ZPlus(_number("eps", eps), _flag(zero_bias))


def alpha_beta(
    alpha: float = 2.0, beta: float = 1.0, *, eps: float = 1e-6, zero_bias: bool = False
) -> Pair:
    """LRP-alpha-beta: ``alpha`` times what adds to the output, less ``beta`` times what lowers it.

    Args:
        alpha: the weight of positive parts, 0 or more.
        beta: that of negative parts; ``alpha - beta`` is 1.
        eps: as for `epsilon`.
        zero_bias: likewise.

    Returns:
        A rule for operations with a weight.

    Raises:
        ArgumentError: one of them is negative, or ``alpha - beta`` is not 1.

    Bach et al. (2015), equation 60.

    >>> alpha_beta(1, 0)
    AlphaBeta(eps=1e-06, zero_bias=False, alpha=1.0, beta=0.0)
    """
    alpha, beta = _number("alpha", alpha), _number("beta", beta)
    if not math.isclose(alpha - beta, 1, abs_tol=1e-9):
        raise ArgumentError(
            f"alpha - beta is 1, so that relevance is conserved; got {alpha} - {beta}."
        )
    return propagation.AlphaBeta(_number("eps", eps), _flag(zero_bias), alpha, beta)


def gamma(gamma: float = 0.25, *, eps: float = 1e-6, zero_bias: bool = False) -> Pair:
    """LRP-gamma: positive weights count ``1 + gamma`` times; the generalised form for any input.

    Where the output is negative, what lowers it counts more.

    Args:
        gamma: how much more, 0 or more; 0 is LRP-0, and very large ones are z+.
        eps: as for `epsilon`.
        zero_bias: likewise.

    Returns:
        A rule for operations with a weight.

    Raises:
        ArgumentError: ``gamma`` is no finite number, or negative.

    Montavon et al., "Layer-Wise Relevance Propagation: An Overview" (2019), section 10.2; Andeol et
    al., "Learning Domain Invariant Representations by Joint Wasserstein Distance Minimization"
    (2021), for negative inputs and outputs.

    >>> gamma(0.1).gamma
    0.1
    """
    return propagation.Gamma(_number("eps", eps), _flag(zero_bias), _number("gamma", gamma))


def flat(*, eps: float = 1e-6) -> Pair:
    """LRP-flat: relevance goes to all inputs of an output alike; for the first layer.

    Args, Returns and Raises as `epsilon`, for operations with a weight.

    Lapuschkin et al., "Unmasking Clever Hans predictors" (2019), supplement.

    >>> flat(eps=1e-9)
    Flat(eps=1e-09, zero_bias=False)
    """
    return first_layer.Flat(_number("eps", eps))


def w_square(*, eps: float = 1e-6, zero_bias: bool = False) -> Pair:
    """LRP-w^2: relevance goes to inputs by the square of their weight; for the first layer.

    Args, Returns and Raises as `epsilon`, for operations with a weight. The square of the bias
    takes its part of the relevance, unless ``zero_bias``.

    Montavon et al. (2017), section 4.1.

    >>> w_square(zero_bias=True).zero_bias
    True
    """
    return first_layer.WSquare(_number("eps", eps), _flag(zero_bias))


def z_box(low: Any, high: Any, *, eps: float = 1e-6) -> Pair:
    """LRP-zB: for a first layer whose inputs lie in a box, as pixels do.

    Args:
        low: the lowest values of the input: a number, one for each channel (dim 1), or a tensor
            that fits the input. Compiled code takes no tensors.
        high: the highest, likewise.
        eps: as for `epsilon`.

    Returns:
        A rule for operations with a weight.

    Raises:
        ArgumentError: ``low`` or ``high`` is none of these, or ``low`` is above ``high``; when
            called: one does not fit the input.

    Montavon et al. (2017), section 4.3.

    >>> z_box(0, 1)
    ZBox(eps=1e-06, zero_bias=False, low=0.0, high=1.0)
    """
    low, high = _bound("low", low), _bound("high", high)
    if isinstance(low, float) and isinstance(high, float) and low > high:
        raise ArgumentError(f"low is not above high; got {low} and {high}.")
    return first_layer.ZBox(_number("eps", eps), False, low, high)


def _bound(name: str, value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().clone() if value.dim() else float(value)
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        values = [_bound(name, one) for one in value]
        if all(isinstance(one, float) for one in values):
            return tuple(values)
    raise ArgumentError(
        f"{name} is a finite number, one for each channel, or a float tensor; got {short(value)}."
    )


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ArgumentError(f"{name} is a finite number, zero or more; got {value!r}.")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ArgumentError(f"zero_bias is True or False; got {value!r}.")
    return value
