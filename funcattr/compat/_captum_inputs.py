"""Captum's classes that explain inputs, or neurons by the inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from ..engine.layer_output import layer_output
from ..methods.attribution import Attribution
from ..methods.gradients import (
    deconvnet,
    gradient,
    guided_backprop,
    input_x_gradient,
    saliency,
)
from ._captum_models import one_device
from ._captum_tools import (
    Internal,
    Method,
    Neuron,
    NeuronBase,
    logged,
    neuron_of,
    or_plain,
    selected,
)


class _AtInput(Method):
    """Maps of the inputs, by a function of funcattr's."""

    def _attribute(
        self, method: Callable[..., Attribution], inputs: Any, target: Any, extra: Any
    ) -> Any:
        func = one_device(self.forward_func)
        return self._maps(
            lambda argnums: method(func, argnums), inputs, extra, partial(selected, target=target)
        )


class Saliency(_AtInput):
    """Captum's ``Saliency``; as a function `funcattr.saliency`."""

    @logged
    def attribute(
        self,
        inputs: Any,
        target: Any = None,
        abs: bool = True,
        additional_forward_args: Any = None,
    ) -> Any:
        """The gradient of the target by the inputs, or its absolute value."""
        method = saliency if abs else gradient
        return self._attribute(method, inputs, target, additional_forward_args)


class InputXGradient(_AtInput):
    """Captum's ``InputXGradient``; as a function `funcattr.input_x_gradient`."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """True."""
        return True

    @logged
    def attribute(
        self, inputs: Any, target: Any = None, additional_forward_args: Any = None
    ) -> Any:
        """The gradient of the target by the inputs, times the inputs."""
        return self._attribute(input_x_gradient, inputs, target, additional_forward_args)


class _AtInputByRule(_AtInput):
    method: Callable[..., Attribution]

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.model = model
        assert isinstance(model, nn.Module), (
            "Given model must be an instance of torch.nn.Module to properly hook ReLU layers."
        )

    @logged
    def attribute(
        self, inputs: Any, target: Any = None, additional_forward_args: Any = None
    ) -> Any:
        """The gradient of the target by the inputs, under the rule."""
        return self._attribute(or_plain(self.method), inputs, target, additional_forward_args)


class GuidedBackprop(_AtInputByRule):
    """Captum's ``GuidedBackprop``; as a function `funcattr.guided_backprop`."""

    method = staticmethod(guided_backprop)


class Deconvolution(_AtInputByRule):
    """Captum's ``Deconvolution``; as a function `funcattr.deconvnet`."""

    method = staticmethod(deconvnet)


class _NeuronByRule(Internal, NeuronBase):  # type: ignore[misc]
    method: Callable[..., Attribution]

    def __init__(
        self, model: nn.Module, layer: nn.Module, device_ids: list[int] | None = None
    ) -> None:
        super().__init__(model, layer, device_ids)
        _AtInputByRule(model)  # its check of the model

    @logged
    def attribute(
        self,
        inputs: Any,
        neuron_selector: Neuron,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Any:
        """The gradient of a neuron of the layer by the inputs, under the rule."""
        model = one_device(self.forward_func)

        def method(argnums: tuple[int, ...]) -> Attribution:
            neurons = layer_output(model, self.layer, at_input=attribute_to_neuron_input)
            return or_plain(self.method)(neurons, argnums)

        select = partial(neuron_of, selector=neuron_selector)
        return self._maps(method, inputs, additional_forward_args, select)


class NeuronGuidedBackprop(_NeuronByRule):
    """Captum's class of this name; as a function ``guided_backprop(layer_output(...))``."""

    method = staticmethod(guided_backprop)


class NeuronDeconvolution(_NeuronByRule):
    """Captum's class of this name; as a function ``deconvnet(layer_output(...))``."""

    method = staticmethod(deconvnet)
