"""The activation of a layer as a function: `layer_output`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.contexts import ruled_call
from ..core.levels import compiling
from ..errors import check_flags
from ..models.copies import Wraps
from ..models.functional import Inside, call
from ..models.layer import Layer, Tapped, several, tapped
from ..models.taps import Taps
from ..operations.composite import Composite
from ..operations.operation import Args, Kwargs
from .ruled import check_func
from .run import Plan, run
from .unbroken import unbroken

__all__ = ["layer_output"]


def layer_output(
    model: Callable[..., Any], layer: Layer | Sequence[Layer], *, at_input: bool = False
) -> Callable[..., Any]:
    """The activation of a layer as a pure function of what the model is called with.

    Every attribution of it explains a neuron, and a callable target several at once.

    Args:
        model: an ``nn.Module``, the ``f`` of `make_functional`, or what `relu_rule` returned.
        layer: a dotted path (``"layer3.0.relu"``), or the module itself. Where it is called more
            than once, the last call; ``"layer3.0.relu:0"`` names another. Or a list of layers.
        at_input: whether it is what goes into the layer instead.

    Returns:
        A callable with the signature of ``model`` that returns the activation: a tensor, a tuple
        where the layer has several, a list for a list of layers.

    Raises:
        ArgumentError: ``model`` is no model, or the list of layers is empty.
        LayerError: the model has no such layer; when called: the layer does not run, or has no
            float tensor.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> layer_output(model, "1")(torch.ones(5, 3)).shape
    torch.Size([5, 4])
    """
    check_func(model)
    check_flags(at_input=at_input)
    function = LayerOutput(model, *several(layer), at_input)
    function.tapped()
    return function


@dataclass(eq=False)
class LayerOutput(Inside):
    """The activations of layers, as a function."""

    func: Callable[..., Any]
    layers: tuple[Layer, ...]
    many: bool
    at_input: bool

    def tapped(self) -> list[Tapped]:
        """The layers, as the model is now."""
        return [tapped(self.func, layer) for layer in self.layers]

    @unbroken
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        plans = [Plan(Composite(()), False)]
        if compiling():
            return run(self, plans, args, kwargs)[0]
        return ruled_call(run, self, plans, args, kwargs)[0]

    def call(self, args: Args, kwargs: Kwargs, *, wraps: Wraps = (), **how: Any) -> Any:
        layers = self.tapped()
        found: list[dict[int, list[Tensor]]] = [{} for _ in layers]

        def visit(i: int, number: int | None, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
            if number is None:
                return tensors
            if layers[i].occurrence < 0:
                found[i].clear()
            if layers[i].occurrence in (-1, number):
                found[i][number] = [t.clone() for t in tensors]  # the model may write to them
            return tensors

        taps = Taps(layers, self.at_input, visit, marks=False)
        call(self.func, args, kwargs, wraps=(*wraps, *taps.wraps()), **how)
        calls = taps.check(fused_at=how["mode"].fused)
        acts = [one_or_tuple(f[number]) for f, number in zip(found, calls)]
        return acts if self.many else acts[0]


def one_or_tuple(values: Sequence[Any]) -> Any:
    """What stands for the tensors of one layer: the only one, or a tuple of several."""
    return values[0] if len(values) == 1 else tuple(values)
