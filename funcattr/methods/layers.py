"""Attributions at a layer: layer gradient x activation, Grad-CAM, guided Grad-CAM."""

from __future__ import annotations

import functools
import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.contexts import graph_only_if
from ..engine.layer_output import one_or_tuple
from ..engine.linearize import Linearized
from ..engine.ruled import Ruled, relu_rule
from ..engine.run import Plan
from ..errors import ArgumentError, LayerError
from ..models.arguments import Argnums, Chosen, check_argnums
from ..models.taps import Layer, several, tapped
from ..operations.composite import Composite
from ..postprocess import MODES, interpolate
from ..targets import Target
from .attribution import Attribution, Explain, OnePass, ruled

__all__ = ["grad_cam", "guided_grad_cam", "layer_gradient_x_activation"]


def layer_gradient_x_activation(
    model: Callable[..., Any],
    layer: Layer | Sequence[Layer],
    *,
    multiply_by_inputs: bool = True,
    attribute_to_layer_input: bool = False,
) -> Attribution:
    """The gradient at a layer times its activation.

    Args:
        model: an ``nn.Module``, the ``f`` of `make_functional` (whose first argument is its
            parameters), or what `relu_rule` returned.
        layer: a dotted path (``"layer3.0.relu"``), or the module itself. Where it is called more
            than once, the last call; ``"layer3.0.relu:0"`` names another. Or a list of layers, for
            a list of results from one pass.
        multiply_by_inputs: False for the gradient alone.
        attribute_to_layer_input: whether what goes into the layer is explained instead.

    Returns:
        An `Attribution`. Its maps have the shape of the layer's output (input); a tuple of maps
        where the layer has several. A layer that does not reach the output has zeros.

    Raises:
        LayerError: the model has no such layer; when called: the layer does not run, or has no
            float tensor.
        TargetError: when called: as `gradient`.

    Ancona et al., "Towards better understanding of gradient-based attribution methods" (2018),
    section 2, at a layer.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> layer_gradient_x_activation(model, "1")(torch.ones(5, 3), target=0).shape
    torch.Size([5, 4])
    """
    f = operator.mul if multiply_by_inputs else _gradient
    return _at_layer(model, layer, attribute_to_layer_input, f)


def _gradient(g: Tensor, a: Tensor) -> Tensor:
    return g


def grad_cam(
    model: Callable[..., Any],
    layer: Layer | Sequence[Layer],
    *,
    relu: bool = True,
    channel_sum: bool = True,
    attribute_to_layer_input: bool = False,
) -> Attribution:
    """Grad-CAM: a layer's channels, weighted by their mean gradient, and summed.

    Args:
        model: as for `layer_gradient_x_activation`, as is ``layer``.
        layer: the layer, or a list of them.
        relu: whether negative evidence is cut off.
        channel_sum: whether the channels are summed; if not, the map has all of them.
        attribute_to_layer_input: whether what goes into the layer is explained instead.

    Returns:
        An `Attribution`. Its maps are ``[B, 1, *spatial]`` of the layer (``[B, C, *spatial]``
        without the sum; ``[B, 1]`` where there are no spatial dimensions).

    Raises:
        LayerError, TargetError: as `layer_gradient_x_activation`; also: the layer's output has no
            channels.

    Selvaraju et al., "Grad-CAM" (2017), equations 1 and 2.

    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16, 2)
    ... )
    >>> grad_cam(model, "1")(torch.ones(5, 3, 4, 4), target=0).shape
    torch.Size([5, 1, 2, 2])
    """
    finish = functools.partial(cam, relu=relu, channel_sum=channel_sum)
    return _at_layer(model, layer, attribute_to_layer_input, finish)


def cam(g: Tensor, a: Tensor, *, relu: bool, channel_sum: bool) -> Tensor:
    """Grad-CAM of an activation ``a`` with its gradient ``g``."""
    if a.dim() < 2:
        raise LayerError(
            f"Grad-CAM sums over channels, dimension 1 of the activation; it has shape "
            f"{tuple(a.shape)}. Choose a layer with channels."
        )
    weights = g.mean(tuple(range(2, g.dim()))) if g.dim() > 2 else g
    if channel_sum:
        cam = torch.einsum("bc,bc...->b...", weights, a).unsqueeze(1)
    else:
        cam = weights.reshape(weights.shape + (1,) * (a.dim() - 2)) * a
    return torch.relu(cam) if relu else cam


@dataclass(frozen=True)
class AtLayers(OnePass):
    """``finish(gradient, activation)`` at each tensor of each layer."""

    finish: Callable[[Tensor, Tensor], Tensor] = operator.mul
    many: bool = False

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


def _at_layer(
    model: Callable[..., Any],
    layer: Layer | Sequence[Layer],
    at_input: bool,
    finish: Callable[[Tensor, Tensor], Tensor],
) -> Attribution:
    function = ruled(model)
    layers, many = several(layer)
    for one in layers:
        tapped(function.func, one)  # a wrong layer is an error now
    return Attribution.by(
        AtLayers(function, None, layers, at_input=at_input, finish=finish, many=many)
    )


def guided_grad_cam(
    model: Callable[..., Any],
    layer: Layer,
    *,
    interpolate_mode: str = "nearest",
    attribute_to_layer_input: bool = False,
    argnums: Argnums = 0,
) -> Attribution:
    """Guided Grad-CAM: Grad-CAM of a layer, resized to the input, times guided backpropagation.

    Both come from one forward pass; each has a backward pass of its own, Grad-CAM's down to the
    layer only, and with unmodified gradients.

    Args:
        model: as for `layer_gradient_x_activation`, but not ruled already.
        layer: as there; a single one.
        interpolate_mode: how the Grad-CAM map is resized, see `interpolate`.
        attribute_to_layer_input: whether what goes into the layer is explained instead.
        argnums: which arguments are explained, as for `gradient`.

    Returns:
        An `Attribution` whose maps have the shape of the input. Where a map cannot be resized to
        an input, since that has other spatial dimensions or none: None in its place, and a warning.

    Raises:
        LayerError: as `grad_cam`; also: the layer has several outputs, or ``interpolate_mode`` is
            unknown or does not fit its dimensions.
        NoSiteError, ArgumentError, TargetError: as `guided_backprop`.

    Selvaraju et al., "Grad-CAM" (2017), section 3.2.

    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16, 2)
    ... )
    >>> guided_grad_cam(model, "1")(torch.ones(5, 3, 4, 4), target=0).shape
    torch.Size([5, 3, 4, 4])
    """
    check_argnums(argnums)
    if interpolate_mode not in MODES:
        raise ArgumentError(
            f"interpolate_mode is one of {', '.join(map(repr, MODES))}; got {interpolate_mode!r}."
        )
    if isinstance(model, Ruled):
        raise ArgumentError("guided Grad-CAM has a rule of its own; pass the model without one.")
    guided = relu_rule(model)
    assert isinstance(guided, Ruled)
    return Attribution.by(
        GuidedGradCam(
            guided,
            argnums,
            (layer,),
            attribute_to_layer_input,
            plans=(Plan(Composite(()), False),),
            name=tapped(model, layer).name,
            mode=interpolate_mode,
        )
    )


@dataclass(frozen=True)
class GuidedGradCam(OnePass):
    """The guided map by the first composite, times the CAM of the layer by the second."""

    name: str = ""
    mode: str = "nearest"

    def explain(self, done: Linearized, chosen: Chosen | None) -> Explain:
        assert chosen is not None
        act = _single(done.acts[0], self.name)
        sizes = [_size(x, act, self.mode, self.name) for x in chosen.floats]
        if None in sizes:
            shapes = [tuple(x.shape) for x, size in zip(chosen.floats, sizes) if size is None]
            warnings.warn(
                f"the Grad-CAM map of layer {self.name!r}, made of {tuple(act.shape)}, cannot be "
                f"resized to inputs of shape {', '.join(map(str, shapes))}; their maps are None.",
                stacklevel=5,
            )

        def maps(target: Target) -> Any:
            (at_layer,) = done.pull(target, inputs=False, layers=True, composite=1).layers
            grads = done.pull(target).inputs
            with graph_only_if(done.tracked):
                late = cam(at_layer[0], act, relu=True, channel_sum=True)
                return chosen.maps(
                    [
                        None if size is None else g * interpolate(late, size, self.mode)
                        for g, size in zip(grads, sizes)
                    ]
                )

        return maps


def _single(acts: Sequence[Tensor], name: str) -> Tensor:
    if len(acts) != 1:
        raise LayerError(
            f"guided Grad-CAM needs a layer with one output; {name!r} has {len(acts)}."
        )
    return acts[0]


def _size(x: Tensor, act: Tensor, mode: str, name: str) -> tuple[int, ...] | None:
    """The spatial size of ``x``, where a map of ``act`` can be resized to it."""
    spatial = act.dim() - 2
    if MODES[mode] not in (None, spatial):
        raise LayerError(
            f"interpolate_mode={mode!r} is for {MODES[mode]} spatial dimensions; layer {name!r} "
            f"has shape {tuple(act.shape)}."
        )
    return tuple(x.shape[2:]) if 1 <= spatial <= 3 and x.dim() == act.dim() else None
