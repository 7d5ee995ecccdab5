"""Captum's classes that share out the output itself: LRP and DeepLIFT."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..methods.attribution import Attribution, OnePass
from ..methods.deep_lift import deep_lift
from ..methods.gradients import ByGradient, gradient
from ..methods.relevance import lrp
from ..operations.composite import Composite
from ._captum_models import one_device
from ._captum_rules import COMPOSITE, EpsilonRule, layers, rows
from ._captum_tools import Method, as_tuple, captums_errors, detached, logged, selected


class _Shared(Method):
    """What LRP and DeepLIFT have in common."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether a map is a share of the output rather than a multiplier."""
        return True

    def has_convergence_delta(self) -> bool:
        """True."""
        return True

    def _value(self, inputs: Any, target: Any, extra: Any) -> Tensor:
        """The numbers that are explained, by a forward pass that changes nothing."""
        more = extra if isinstance(extra, tuple) else () if extra is None else (extra,)
        args = detached((*as_tuple(inputs), *more))
        with captums_errors():
            out, _ = gradient(one_device(self.forward_func)).linearize(*args)
            return selected(out, target).flatten()


class LRP(_Shared):
    """Captum's ``LRP``; as a function `funcattr.lrp`.

    Rules are read from the attribute ``rule`` of modules without parts, as Captum does:
    ``EpsilonRule``, ``GammaRule``, ``Alpha1_Beta0_Rule``, ``IdentityRule``. The others have
    ``EpsilonRule(1e-9)``, and relevance passes activations as it is. The numbers are Captum's, but

    - ``Alpha1_Beta0_Rule`` treats positive and negative inputs apart, and so the bias (z+); Captum
      clamps the weight alone;
    - ``GammaRule`` counts the bias as it does the weights, and treats inputs and outputs by their
      sign; Captum leaves the bias as it is;
    - layers that run more than once, activations of all kinds, ``nn.Flatten`` and other modules
      have no error;
    - sums of a skip connection and functional code are seen;
    - the rules stay on the modules; Captum removes them with the first call.

    Args:
        model: the model.

    Raises:
        ArgumentError: a module's ``rule`` is none of these.

    >>> from funcattr.compat.captum import GammaRule
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)
    ... )
    >>> model[0].rule = GammaRule(0.5)
    >>> LRP(model).attribute(torch.ones(4, 2), target=1).shape
    torch.Size([4, 2])
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        super().__init__(model)
        self.model = model
        list(rows(model))  # its check

    @logged
    def attribute(
        self,
        inputs: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        verbose: bool = False,
    ) -> Any:
        """The relevance of the inputs; with ``return_convergence_delta`` and what is missing."""
        composite = Composite(rows(self.model)) + COMPOSITE
        if verbose:
            for _, module, rule in layers(self.model):
                print(f"Applied {rule or EpsilonRule()} on layer {module}")
        func = one_device(self.forward_func)
        maps = self._maps(
            lambda argnums: lrp(func, composite, argnums),
            inputs,
            additional_forward_args,
            partial(selected, target=target),
        )
        if not return_convergence_delta:
            return maps
        out = self._value(inputs, target, additional_forward_args)
        return maps, self.compute_convergence_delta(maps, out)

    def compute_convergence_delta(self, attributions: Any, output: Tensor) -> Tensor:
        """What is missing of the output in the sum of the relevance of each example."""
        return output.flatten() - _sums(attributions)


class DeepLift(_Shared):
    """Captum's ``DeepLift``, by the rescale rule; as a function `funcattr.deep_lift`.

    The numbers are Captum's, but

    - functions have the rule as modules do, and all activations, of which Captum knows six;
    - modules may run more than once;
    - an activation and a max pooling, or two activations, may follow each other directly; Captum
      takes the gradient from before the second one's rule, and its maps do not add up;
    - a softmax has its true derivative; Captum subtracts a mean over the whole batch there.

    Args:
        model: the model.
        multiply_by_inputs: whether multipliers are multiplied by inputs less baselines.
        eps: 1e-10, below which a difference counts as none.

    Raises:
        ArgumentError: ``eps`` is another.

    >>> model = torch.nn.Sequential(
    ...     torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)
    ... )
    >>> maps, delta = DeepLift(model).attribute(
    ...     torch.ones(4, 2), target=1, return_convergence_delta=True
    ... )
    >>> bool(delta.abs().max() < 1e-5)
    True
    """

    def __init__(
        self, model: Callable[..., Any], multiply_by_inputs: bool = True, eps: float = 1e-10
    ) -> None:
        super().__init__(model)
        if eps != 1e-10:
            raise ArgumentError(f"eps is 1e-10 here, in float32 and float64 alike; got {eps!r}.")
        self.model, self.eps, self._multiply_by_inputs = model, eps, multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        """As the constructor was told."""
        return self._multiply_by_inputs

    @logged
    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: Any = None,
    ) -> Any:
        """The inputs' part in what the output has more than for the baselines.

        Raises:
            ArgumentError: there is a ``custom_attribution_func``.
        """
        if custom_attribution_func is not None:
            raise ArgumentError(
                "custom_attribution_func is not there: DeepLift(model, multiply_by_inputs=False) "
                "gives the multipliers, which go into any function."
            )
        starts = _baselines(baselines, as_tuple(inputs))
        func = one_device(self.forward_func)

        def method(argnums: tuple[int, ...]) -> Attribution:
            attr = deep_lift(func, baseline=detached(starts), argnums=argnums)
            if self._multiply_by_inputs:
                return attr
            assert isinstance(attr.method, OnePass)
            return Attribution.by(ByGradient(attr.method.ruled, argnums, finish=_multiplier))

        select = partial(selected, target=target)
        maps = self._maps(method, inputs, additional_forward_args, select)
        if not return_convergence_delta:
            return maps
        return maps, self.compute_convergence_delta(
            maps, starts, inputs, target, additional_forward_args
        )

    def compute_convergence_delta(
        self,
        attributions: Any,
        start_point: Any,
        end_point: Any,
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """What the sum of the maps of each example has too much."""
        starts = _baselines(start_point, as_tuple(end_point))
        values = [
            self._value(point, target, additional_forward_args) for point in (starts, end_point)
        ]
        return _sums(attributions) - (values[1] - values[0])


def _multiplier(g: Tensor, x: Tensor) -> Tensor:
    return g


def _sums(attributions: Any) -> Tensor:
    total: Tensor = sum(a.flatten(1).sum(1) for a in as_tuple(attributions))
    return total


def _baselines(baselines: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What each input is compared with, as a tensor of its shape."""
    given = (0,) * len(inputs) if baselines is None else baselines
    given = given if isinstance(given, tuple) else (given,)
    assert len(given) == len(inputs), (
        "Input and baseline must have the same dimensions, baseline has "
        f"{len(given)} features whereas input has {len(inputs)}."
    )
    for start, x in zip(given, inputs):
        assert isinstance(start, (Tensor, int, float)), (
            "baseline input argument must be either a torch.Tensor or a number however "
            f"{type(start)} detected"
        )
        fits = not isinstance(start, Tensor) or start.shape in (x.shape, (1, *x.shape[1:]))
        assert fits, (
            "Baseline can be provided as a tensor for just one input and broadcasted to the batch "
            "or input and baseline must have the same shape or the baseline corresponding to each "
            f"input tensor must be a scalar. Found baseline: {start} and input: {x}"
        )
    return tuple(
        torch.as_tensor(start, dtype=x.dtype, device=x.device).expand_as(x)
        for start, x in zip(given, inputs)
    )
