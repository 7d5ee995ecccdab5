"""Attributions at layers: layer gradient x activation."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.contexts import graph_only_if
from ..engine.layer_output import one_or_tuple
from ..engine.linearize import Linearized
from ..engine.output import Part
from ..errors import check_flags
from ..models.arguments import Chosen
from ..models.layer import Layer, several, tapped
from ..targets import Target
from .attribution import Attribution, Explain, OnePass, ruled, times

__all__ = ["layer_gradient_x_activation"]


def layer_gradient_x_activation(
    model: Callable[..., Any],
    layer: Layer | Sequence[Layer],
    *,
    multiply_by_inputs: bool = True,
    attribute_to_layer_input: bool = False,
    output: Part | None = None,
) -> Attribution:
    """The gradient at a layer times its activation.

    Args:
        model: an ``nn.Module``, the ``f`` of `make_functional` (whose first argument is its
            parameters), or what `relu_rule` returned.
        layer: a dotted path (``"layer3.0.relu"``), or the module itself. Where it is called more
            than once, the last call; ``"layer3.0.relu:0"`` names another. Or a list of layers, for
            a list of results from one pass.
        multiply_by_inputs: False for the gradient alone.
        attribute_to_layer_input: whether what goes into the layer is explained instead: as it was
            before the layer, with all that the model makes of it, in the layer or elsewhere.
        output: as for `gradient`.

    Returns:
        An `Attribution`. Its maps have the shape of the layer's output (input); a tuple of maps
        where the layer has several. A layer that does not reach the output has zeros.

    Raises:
        LayerError: the model has no such layer; when called: the layer does not run, or has no
            float tensor.
        TargetError: when called: as `gradient`.

    Ancona et al., "Towards better understanding of gradient-based attribution methods" (2018),
    section 2, at a layer.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> layer_gradient_x_activation(model, "1")(torch.ones(5, 3), target=0).shape
    torch.Size([5, 4])
    """
    check_flags(multiply_by_inputs=multiply_by_inputs)
    f = times(ruled(model)) if multiply_by_inputs else _gradient
    return at_layers(AtLayers, model, layer, attribute_to_layer_input, output, finish=f)


def _gradient(g: Tensor, a: Tensor) -> Tensor:
    return g


@dataclass(frozen=True)
class AtLayers(OnePass):
    """``finish(gradient, activation)`` at each tensor of each layer."""

    finish: Callable[[Tensor, Tensor], Tensor] = operator.mul
    many: bool = False

    @property
    def called(self) -> str:
        return "layer_gradient_x_activation" if type(self) is AtLayers else super().called

    def explain(self, done: Linearized, chosen: Chosen | None) -> Explain:
        def maps(target: Target) -> Any:
            pulled = done.pull(target, inputs=False, layers=True).layers
            with graph_only_if(done.tracked):
                made = [
                    one_or_tuple([self.finish(g, a) for g, a in zip(gs, acts)])
                    for gs, acts in zip(pulled, done.acts)
                ]
            return made if self.many else made[0]

        return maps


def at_layers(
    method: type[AtLayers],
    model: Callable[..., Any],
    layer: Layer | Sequence[Layer],
    at_input: bool,
    output: Part | None,
    **more: Any,
) -> Attribution:
    """The attribution of a method at one layer or several."""
    check_flags(attribute_to_layer_input=at_input)
    function = ruled(model, output)
    layers, many = several(layer)
    for one in layers:
        tapped(function.func, one)  # a wrong layer is an error now
    return Attribution.by(method(function, None, layers, at_input, many=many, **more))
