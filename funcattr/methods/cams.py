"""Grad-CAM and guided Grad-CAM."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import rules
from ..core.contexts import graph_only_if
from ..core.levels import compiling
from ..engine.linearize import Linearized
from ..engine.output import Part
from ..engine.ruled import Ruled, SiteChoice, relu_rule
from ..engine.run import Plan
from ..errors import ArgumentError, LayerError, check_flags
from ..models.arguments import Argnums, Chosen, check_argnums
from ..models.layer import Layer, Tapped, tapped
from ..operations.composite import Composite
from ..postprocess import MODES, interpolate
from ..targets import Target
from .attribution import Attribution, Explain, OnePass, ruled
from .layers import AtLayers, at_layers

__all__ = ["grad_cam", "guided_grad_cam"]


def grad_cam(
    model: Callable[..., Any],
    layer: Layer | Sequence[Layer],
    *,
    relu: bool = True,
    channel_sum: bool = True,
    channel_dim: int | None = None,
    attribute_to_layer_input: bool = False,
    output: Part | None = None,
) -> Attribution:
    """Grad-CAM: a layer's channels, weighted by their mean gradient, and summed.

    Args:
        model: as for `layer_gradient_x_activation`, as is ``layer``.
        layer: the layer, or a list of them.
        relu: whether negative evidence is cut off.
        channel_sum: whether the channels are summed; if not, the map has all of them.
        channel_dim: which dimension of the layer's activation has the channels: 1, which None
            stands for, or -1 for the tokens ``[B, N, D]`` of a transformer. The other dimensions
            after the batch are the spatial ones.
        attribute_to_layer_input: whether what goes into the layer is explained instead.
        output: as for `gradient`.

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
    check_flags(relu=relu, channel_sum=channel_sum)
    if channel_dim is not None and type(channel_dim) is not int:
        raise ArgumentError(f"channel_dim is an int, or None for 1; got {channel_dim!r}.")
    dim = 1 if channel_dim is None else channel_dim
    finish = functools.partial(cam, relu=relu, channel_sum=channel_sum, channel_dim=dim)
    guesses = channel_dim is None
    return at_layers(
        GradCam, model, layer, attribute_to_layer_input, output, finish=finish, guesses=guesses
    )


@dataclass(frozen=True)
class GradCam(AtLayers):
    """Grad-CAM of each tensor of each layer; ``guesses`` says that nobody named the channels."""

    guesses: bool = False

    def explain(self, done: Linearized, chosen: Chosen | None) -> Explain:
        for layer, acts in zip(self.layers, done.acts):
            if self.guesses and not compiling() and len(acts) == 1 and acts[0].dim() == 3:
                self._check(tapped(self.ruled.func, layer), acts[0].shape)
        return super().explain(done, chosen)

    def _check(self, tap: Tapped, shape: torch.Size) -> None:
        """Warns where the channels of a layer look like its last dimension."""
        if any(shape[-1] in _features(m) for m in tap.module.modules()):
            warnings.warn(
                f"layer {tap.name!r} has {tuple(shape)}, which looks like tokens with "
                f"{shape[-1]} channels in the last dimension. Grad-CAM takes dimension 1 as the "
                "channels; say channel_dim=-1 for tokens, or channel_dim=1 if this is right.",
                stacklevel=6,
            )


def _features(module: torch.nn.Module) -> tuple[int, ...]:
    """The number of channels in the last dimension of what some modules return."""
    if isinstance(module, torch.nn.LayerNorm):
        return tuple(module.normalized_shape[-1:])
    return (module.out_features,) if isinstance(module, torch.nn.Linear) else ()


def cam(g: Tensor, a: Tensor, *, relu: bool, channel_sum: bool, channel_dim: int = 1) -> Tensor:
    """Grad-CAM of an activation ``a`` with its gradient ``g``."""
    if a.dim() < 2 or not -a.dim() <= channel_dim < a.dim() or channel_dim % a.dim() == 0:
        raise LayerError(
            f"Grad-CAM sums over channels, dimension {channel_dim} of the activation; it has shape "
            f"{tuple(a.shape)}, of which 0 is the batch. Choose a layer with channels, or say "
            "which dimension has them (channel_dim)."
        )
    if channel_dim != 1:
        g, a = g.movedim(channel_dim, 1), a.movedim(channel_dim, 1)
    weights = g.mean(tuple(range(2, g.dim()))) if g.dim() > 2 else g
    if channel_sum:
        cam = torch.einsum("bc,bc...->b...", weights, a).unsqueeze(1)
    else:
        cam = weights.reshape(weights.shape + (1,) * (a.dim() - 2)) * a
    return torch.relu(cam) if relu else cam


def guided_grad_cam(
    model: Callable[..., Any],
    layer: Layer,
    *,
    interpolate_mode: str = "nearest",
    attribute_to_layer_input: bool = False,
    argnums: Argnums = 0,
    rule: rules.Elementwise = rules.guided,
    sites: SiteChoice = "relu",
    require_match: bool = True,
    output: Part | None = None,
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
        rule: the rule of the backward pass down to the input, see `relu_rule`, as are ``sites`` and
            ``require_match``.
        sites: which activations follow it.
        require_match: whether it is an error that there is none.
        output: as for `gradient`.

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
    check_flags(attribute_to_layer_input=attribute_to_layer_input)
    if interpolate_mode not in list(MODES):
        raise ArgumentError(
            f"interpolate_mode is one of {', '.join(map(repr, MODES))}; got {interpolate_mode!r}."
        )
    if isinstance(model, Ruled):
        raise ArgumentError("guided Grad-CAM has a rule of its own; pass the model without one.")
    if isinstance(layer, (list, tuple)):
        raise ArgumentError("guided Grad-CAM is of a single layer; got several. Make one of each.")
    guided = ruled(relu_rule(model, rule, sites=sites, require_match=require_match), output)
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
