"""Captum's classes that explain layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..methods.attribution import Attribution
from ..methods.cams import grad_cam
from ..methods.layers import layer_gradient_x_activation
from ._captum_inputs import GuidedBackprop
from ._captum_models import as_module, one_device
from ._captum_tools import (
    COULD_NOT_INTERPOLATE,
    Internal,
    LayerBase,
    Method,
    as_tuple,
    logged,
    selected,
)

GradKwargs = dict[str, Any] | None


class LayerAttribution(Internal, LayerBase):  # type: ignore[misc]
    """Captum's ``LayerAttribution``: what the methods at a layer have in common."""

    @staticmethod
    def interpolate(
        layer_attribution: Tensor,
        interpolate_dims: int | tuple[int, ...],
        interpolate_mode: str = "nearest",
    ) -> Tensor:
        """A map resized, as `funcattr.interpolate` does."""
        return F.interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)

    def _attribute(
        self,
        method: Callable[..., Attribution],
        inputs: Any,
        target: Any,
        extra: Any,
        grad_kwargs: GradKwargs,
    ) -> Any:
        model = as_module(one_device(self.forward_func))
        return self._maps(
            lambda _: method(model, self.layer),
            inputs,
            extra,
            partial(selected, target=target),
            at_inputs=False,
            keep_graph=bool((grad_kwargs or {}).get("create_graph")),
        )


class LayerGradientXActivation(LayerAttribution):
    """Captum's class of this name; as a function `funcattr.layer_gradient_x_activation`."""

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | Sequence[nn.Module],
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self._multiply_by_inputs = multiply_by_inputs
        self._memory_efficient = memory_efficient

    @property
    def multiplies_by_inputs(self) -> bool:
        """As the constructor was told."""
        return self._multiply_by_inputs

    @logged
    def attribute(
        self,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: GradKwargs = None,
    ) -> Any:
        """The gradient at the layer times its activation; a list of them for a list of layers."""
        method = partial(
            layer_gradient_x_activation,
            multiply_by_inputs=self._multiply_by_inputs,
            attribute_to_layer_input=attribute_to_layer_input,
        )
        maps = self._attribute(method, inputs, target, additional_forward_args, grad_kwargs)
        return tree_map(Tensor.cpu, maps) if self._memory_efficient else maps


class LayerGradCam(LayerAttribution):
    """Captum's ``LayerGradCam``; as a function `funcattr.grad_cam`."""

    @logged
    def attribute(
        self,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: GradKwargs = None,
    ) -> Any:
        """The layer's channels, weighted by their mean gradients, and summed."""
        method = partial(
            grad_cam,
            relu=relu_attributions,
            channel_sum=attr_dim_summation,
            attribute_to_layer_input=attribute_to_layer_input,
        )
        return self._attribute(method, inputs, target, additional_forward_args, grad_kwargs)


class GuidedGradCam(Method):
    """Captum's ``GuidedGradCam``; as a function `funcattr.guided_grad_cam`."""

    def __init__(
        self, model: nn.Module, layer: nn.Module, device_ids: list[int] | None = None
    ) -> None:
        super().__init__(model)
        self.grad_cam = LayerGradCam(model, layer, device_ids)
        self.guided_backprop = GuidedBackprop(model)

    @logged
    def attribute(
        self,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """Grad-CAM, resized to each input, times guided backpropagation."""
        # Not funcattr.guided_grad_cam, whose mode has to fit: here any mismatch is a warning.
        tensors = as_tuple(inputs)
        cam = self.grad_cam.attribute(
            tensors, target, additional_forward_args, attribute_to_layer_input, True
        )
        assert not isinstance(cam, tuple), (
            "GuidedGradCAM attributions for layer with multiple inputs / outputs is not supported."
        )
        guided = self.guided_backprop.attribute(tensors, target, additional_forward_args)
        maps = tuple(_resized_product(g, cam, interpolate_mode) for g in guided)
        return maps if isinstance(inputs, tuple) else maps[0]


def _resized_product(guided: Tensor, cam: Tensor, mode: str) -> Tensor:
    try:
        return guided * LayerAttribution.interpolate(cam, tuple(guided.shape[2:]), mode)
    except (ValueError, RuntimeError):  # the mode, the number of dims, a size of 0
        warnings.warn(COULD_NOT_INTERPOLATE, stacklevel=4)
        return torch.empty(0)
