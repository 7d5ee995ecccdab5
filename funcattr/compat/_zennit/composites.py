"""Zennit's ready-made composites, by its names and with its arguments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from .maps import LayerMap, LayerMapComposite, SpecialFirstLayerMapComposite
from .rows import Activation, AvgPool, BatchNorm, Convolution, Linear, Sum
from .rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Norm,
    Pass,
    ReLUBetaSmooth,
    ReLUDeconvNet,
    ReLUGuidedBackprop,
    ZBox,
    ZPlus,
)

Canonizers = Iterable[Any] | None


def layer_map_base(stabilizer: float = 1e-6) -> list[tuple[Any, Any]]:
    """The rules that all composites of relevance have in common, but excitation backpropagation.

    >>> len(layer_map_base())
    4
    """
    norm = Norm(stabilizer)
    return [(Activation, Pass()), (Sum, norm), (AvgPool, norm), (BatchNorm, Pass())]


def _map(
    own: LayerMap | None, convolution: Any, epsilon: float, stabilizer: float, zero_params: Any
) -> list[tuple[Any, Any]]:
    linear = Epsilon(epsilon, zero_params)
    rest = [(Convolution, convolution), (nn.Linear, linear)]
    return [*(own or ()), *layer_map_base(stabilizer), *rest]


class EpsilonPlus(LayerMapComposite):
    """Zennit's composite of this name; as a function `funcattr.composites.epsilon_plus`.

    Args:
        epsilon: what stabilises the rule of linear layers.
        stabilizer: what stabilises all others.
        layer_map: pairs of types and rules that come first.
        zero_params: ``"bias"`` where biases take no relevance.
        canonizers: not needed, see `LayerMapComposite`.

    Raises:
        ArgumentError: a stabiliser is no number, or one of the others cannot be had.

    >>> len(EpsilonPlus(layer_map=[(Linear, Epsilon(0.1))]).layer_map)
    7
    """

    def __init__(
        self,
        epsilon: float = 1e-6,
        stabilizer: float = 1e-6,
        layer_map: LayerMap | None = None,
        zero_params: Any = None,
        canonizers: Canonizers = None,
    ) -> None:
        rule = ZPlus(stabilizer, zero_params)
        super().__init__(_map(layer_map, rule, epsilon, stabilizer, zero_params), canonizers)


class EpsilonAlpha2Beta1(LayerMapComposite):
    """Zennit's composite of this name; as a function `funcattr.composites.epsilon_alpha2_beta1`.

    Args and Raises as `EpsilonPlus`.
    """

    def __init__(
        self,
        epsilon: float = 1e-6,
        stabilizer: float = 1e-6,
        layer_map: LayerMap | None = None,
        zero_params: Any = None,
        canonizers: Canonizers = None,
    ) -> None:
        rule = AlphaBeta(2, 1, stabilizer, zero_params)
        super().__init__(_map(layer_map, rule, epsilon, stabilizer, zero_params), canonizers)


class EpsilonPlusFlat(SpecialFirstLayerMapComposite):
    """Zennit's composite of this name; as a function `funcattr.composites.epsilon_plus_flat`.

    Args and Raises as `EpsilonPlus`; ``first_map`` are pairs for the first layer that come first.
    """

    def __init__(
        self,
        epsilon: float = 1e-6,
        stabilizer: float = 1e-6,
        layer_map: LayerMap | None = None,
        first_map: LayerMap | None = None,
        zero_params: Any = None,
        canonizers: Canonizers = None,
    ) -> None:
        rule = ZPlus(stabilizer, zero_params)
        layers = _map(layer_map, rule, epsilon, stabilizer, zero_params)
        at_first = [*(first_map or ()), (Linear, Flat(stabilizer, zero_params))]
        super().__init__(layers, at_first, canonizers)


class EpsilonAlpha2Beta1Flat(SpecialFirstLayerMapComposite):
    """Zennit's composite; as a function `funcattr.composites.epsilon_alpha2_beta1_flat`.

    Args and Raises as `EpsilonPlusFlat`.
    """

    def __init__(
        self,
        epsilon: float = 1e-6,
        stabilizer: float = 1e-6,
        layer_map: LayerMap | None = None,
        first_map: LayerMap | None = None,
        zero_params: Any = None,
        canonizers: Canonizers = None,
    ) -> None:
        rule = AlphaBeta(2, 1, stabilizer, zero_params)
        layers = _map(layer_map, rule, epsilon, stabilizer, zero_params)
        at_first = [*(first_map or ()), (Linear, Flat(stabilizer, zero_params))]
        super().__init__(layers, at_first, canonizers)


class EpsilonGammaBox(SpecialFirstLayerMapComposite):
    """Zennit's composite of this name; as a function `funcattr.composites.epsilon_gamma_box`.

    Args and Raises as `EpsilonPlusFlat`, and those of `funcattr.composites.epsilon_gamma_box`.

    >>> EpsilonGammaBox(low=-3.0, high=3.0).first_map[0][1]
    ZBox(eps=1e-06, zero_bias=False, low=-3.0, high=3.0)
    """

    def __init__(
        self,
        low: Any,
        high: Any,
        epsilon: float = 1e-6,
        gamma: float = 0.25,
        stabilizer: float = 1e-6,
        layer_map: LayerMap | None = None,
        first_map: LayerMap | None = None,
        zero_params: Any = None,
        canonizers: Canonizers = None,
    ) -> None:
        rule = Gamma(gamma, stabilizer, zero_params)
        layers = _map(layer_map, rule, epsilon, stabilizer, zero_params)
        at_first = [*(first_map or ()), (Convolution, ZBox(low, high, stabilizer, zero_params))]
        super().__init__(layers, at_first, canonizers)


class ExcitationBackprop(LayerMapComposite):
    """Zennit's composite of this name; as a function `funcattr.composites.excitation_backprop`.

    Args and Raises as `EpsilonPlus`.
    """

    def __init__(
        self,
        stabilizer: float = 1e-6,
        layer_map: LayerMap | None = None,
        zero_params: Any = None,
        canonizers: Canonizers = None,
    ) -> None:
        norm, rule = Norm(stabilizer), ZPlus(stabilizer, zero_params)
        own = [(Sum, norm), (AvgPool, norm), (Linear, rule)]
        super().__init__([*(layer_map or ()), *own], canonizers)


class DeconvNet(LayerMapComposite):
    """Zennit's composite of this name; as a function `funcattr.deconvnet`.

    Args and Raises as `EpsilonPlus`.
    """

    def __init__(self, layer_map: LayerMap | None = None, canonizers: Canonizers = None) -> None:
        super().__init__([*(layer_map or ()), (nn.ReLU, ReLUDeconvNet())], canonizers)


class GuidedBackprop(LayerMapComposite):
    """Zennit's composite of this name; as a function `funcattr.guided_backprop`.

    Args and Raises as `EpsilonPlus`.
    """

    def __init__(self, layer_map: LayerMap | None = None, canonizers: Canonizers = None) -> None:
        super().__init__([*(layer_map or ()), (nn.ReLU, ReLUGuidedBackprop())], canonizers)


class BetaSmooth(LayerMapComposite):
    """Zennit's composite of this name: ReLUs have the derivative of a softplus.

    Args and Raises as `EpsilonPlus`; ``beta_smooth`` as for `ReLUBetaSmooth`.

    >>> BetaSmooth(5.0).layer_map[0][1]
    ReLUBetaSmooth(beta_smooth=5.0)
    """

    def __init__(
        self,
        beta_smooth: float = 10.0,
        layer_map: LayerMap | None = None,
        zero_params: Any = None,
        canonizers: Canonizers = None,
    ) -> None:
        own = [(nn.ReLU, ReLUBetaSmooth(beta_smooth))]
        super().__init__([*(layer_map or ()), *own], canonizers)


#: The composites by their names.
COMPOSITES = {
    "epsilon_gamma_box": EpsilonGammaBox,
    "epsilon_plus": EpsilonPlus,
    "epsilon_alpha2_beta1": EpsilonAlpha2Beta1,
    "epsilon_plus_flat": EpsilonPlusFlat,
    "epsilon_alpha2_beta1_flat": EpsilonAlpha2Beta1Flat,
    "deconvnet": DeconvNet,
    "guided_backprop": GuidedBackprop,
    "excitation_backprop": ExcitationBackprop,
    "beta_smooth": BetaSmooth,
}
