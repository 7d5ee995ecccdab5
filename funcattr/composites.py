"""Ready-made composites of relevance rules, under zennit's names.

Those for convolutional networks pass relevance through activations and through batch norms that
nothing is before (`rules.pass_through`), and stabilise sums and means; what else there is has its
true derivative. A batch norm behind a convolution or linear layer is merged into it. `attn_lrp` and
`cp_lrp` are for transformers. Rows of one's own go in front:
``fa.Composite([(where, rule)]) + epsilon_plus()``.
"""

from __future__ import annotations

from typing import Any

from . import rules
from .operations.composite import Composite, Row
from .operations.where import first
from .rules import Pair

__all__ = [
    "attn_lrp",
    "cp_lrp",
    "deconvnet",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "epsilon_plus",
    "epsilon_plus_flat",
    "excitation_backprop",
    "guided_backprop",
]


def _base(eps: float) -> list[Row]:
    return [
        ("activation", rules.pass_through),
        ("sum", rules.epsilon(eps)),
        ("mean", rules.epsilon(eps)),
        ("batch_norm", rules.pass_through),
    ]


def _with(convolution: Pair, eps: float, zero_bias: bool, head: list[Row]) -> Composite:
    linear = rules.epsilon(eps, zero_bias=zero_bias)
    rows: list[Row] = [("convolution", convolution), ("linear", linear)]
    return Composite([*head, *_base(eps), *rows])


def _flat(eps: float) -> list[Row]:
    return [(first("convolution", "linear"), rules.flat(eps=eps))]


def epsilon_plus(eps: float = 1e-6, *, zero_bias: bool = False) -> Composite:
    """LRP-z+ at convolutions, LRP-epsilon at linear layers.

    Args:
        eps: what stabilises every division, see `rules.epsilon`.
        zero_bias: whether biases take no relevance.

    Returns:
        A `Composite`, for `funcattr.lrp` and `funcattr.with_rules`.

    Raises:
        ArgumentError: ``eps`` is no finite number, or negative.

    >>> epsilon_plus()  # doctest: +ELLIPSIS
    Composite(activation: pass_through, sum: epsilon, mean: epsilon, ..., linear: epsilon)
    """
    return _with(rules.z_plus(eps=eps, zero_bias=zero_bias), eps, zero_bias, [])


def epsilon_plus_flat(eps: float = 1e-6, *, zero_bias: bool = False) -> Composite:
    """`epsilon_plus`, and LRP-flat at the first convolution or linear layer that runs.

    Args, Returns and Raises as `epsilon_plus`.

    >>> epsilon_plus_flat().rows[0][1]
    Flat(eps=1e-06, zero_bias=False)
    """
    return _with(rules.z_plus(eps=eps, zero_bias=zero_bias), eps, zero_bias, _flat(eps))


def epsilon_alpha2_beta1(eps: float = 1e-6, *, zero_bias: bool = False) -> Composite:
    """LRP-alpha-beta with 2 and 1 at convolutions, LRP-epsilon at linear layers.

    Args, Returns and Raises as `epsilon_plus`.

    >>> epsilon_alpha2_beta1(eps=1e-9).rows[-1][1].eps
    1e-09
    """
    rule = rules.alpha_beta(2, 1, eps=eps, zero_bias=zero_bias)
    return _with(rule, eps, zero_bias, [])


def epsilon_alpha2_beta1_flat(eps: float = 1e-6, *, zero_bias: bool = False) -> Composite:
    """`epsilon_alpha2_beta1`, and LRP-flat at the first convolution or linear layer that runs.

    Args, Returns and Raises as `epsilon_plus`.

    >>> len(epsilon_alpha2_beta1_flat().rows)
    7
    """
    rule = rules.alpha_beta(2, 1, eps=eps, zero_bias=zero_bias)
    return _with(rule, eps, zero_bias, _flat(eps))


def epsilon_gamma_box(
    low: Any, high: Any, gamma: float = 0.25, eps: float = 1e-6, *, zero_bias: bool = False
) -> Composite:
    """LRP-zB at the first convolution, LRP-gamma at the others, LRP-epsilon at linear layers.

    Args:
        low: the lowest values of the input: a number, one for each channel, or a tensor.
        high: the highest.
        gamma: see `rules.gamma`.
        eps: as for `epsilon_plus`.
        zero_bias: likewise.

    Returns:
        A `Composite`.

    Raises:
        ArgumentError: as `rules.z_box`, `rules.gamma` and `epsilon_plus`.

    >>> epsilon_gamma_box(0, 1).rows[0][1]
    ZBox(eps=1e-06, zero_bias=False, low=0.0, high=1.0)
    """
    head: list[Row] = [(first("convolution"), rules.z_box(low, high, eps=eps))]
    rule = rules.gamma(gamma, eps=eps, zero_bias=zero_bias)
    return _with(rule, eps, zero_bias, head)


def excitation_backprop(eps: float = 1e-6, *, zero_bias: bool = False) -> Composite:
    """Excitation backpropagation: z+ at convolutions and linear layers.

    Activations have their true derivative.

    Args, Returns and Raises as `epsilon_plus`.

    Zhang et al., "Top-Down Neural Attention by Excitation Backprop" (2018).

    >>> excitation_backprop().rows[-1][1]
    ZPlus(eps=1e-06, zero_bias=False)
    """
    rule = rules.z_plus(eps=eps, zero_bias=zero_bias)
    norm = rules.epsilon(eps)
    return Composite([("sum", norm), ("mean", norm), ("convolution", rule), ("linear", rule)])


def attn_lrp() -> Composite:
    """AttnLRP, for transformers.

    Attention and other products of what depends on the input are shared among their operands,
    activations (also written out) pass relevance as it is, and norms (also written out) divide by a
    constant. Softmax, linear layers and what else there is have their true derivative, as LRP-0.
    For vision transformers the paper puts ``("linear", rules.gamma())`` in front.

    Returns:
        A `Composite`.

    Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers"
    (2024), section 3.

    >>> attn_lrp().rows[-1][1]
    Share(part=0.5)
    """
    products: list[Row] = [(kind, rules.share) for kind in ("attention", "matmul", "product")]
    return Composite([*_transformer(), *products])


def cp_lrp() -> Composite:
    """CP-LRP, for transformers: `attn_lrp` with attention's weights and gates as constants.

    Without biases, and but for softmax at other places, it conserves relevance.

    Returns:
        A `Composite`.

    Ali et al., "XAI for Transformers: Better Explanations through Conservative Propagation" (2022),
    section 3.

    >>> cp_lrp().rows[-1][1]
    StopWeights()
    """
    kinds = ("attention", "matmul", "product")
    return Composite([*_transformer(), *((kind, rules.stop_weights) for kind in kinds)])


def _transformer() -> list[Row]:
    return [
        ("activation", rules.pass_through),
        ("elementwise", rules.pass_through),
        ("norm", rules.fixed_scale),
        ("group_norm", rules.fixed_scale),
        ("deviation", rules.stop),
    ]


def guided_backprop() -> Composite:
    """Guided backpropagation at ReLUs, see `rules.guided`.

    Returns:
        A `Composite` of one row.

    Springenberg et al., "Striving for Simplicity: The All Convolutional Net" (2015), section 3.4.

    >>> guided_backprop()
    Composite(relu: guided)
    """
    return Composite([("relu", rules.guided)])


def deconvnet() -> Composite:
    """DeconvNet at ReLUs, see `rules.deconvnet`.

    Returns:
        A `Composite` of one row.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (2014), section 2.1.

    >>> deconvnet()
    Composite(relu: deconvnet)
    """
    return Composite([("relu", rules.deconvnet)])
