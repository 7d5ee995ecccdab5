"""What the classes of `funcattr.compat.captum` share: Captum's targets, neurons and errors."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import LayerError, NoMatchError, TargetError
from ..methods.attribution import Attribution
from ..methods.attribution import Method as Maker

GradientBase: Any
LayerBase: Any
NeuronBase: Any
try:  # its NoiseTunnel and metrics ask what is a GradientAttribution
    from captum.attr._utils import attribution as _captum  # type: ignore[import, unused-ignore]
except ImportError:
    GradientBase, LayerBase, NeuronBase = (type(name, (), {}) for name in "GLN")
else:
    GradientBase = _captum.GradientAttribution
    LayerBase, NeuronBase = _captum.LayerAttribution, _captum.NeuronAttribution

Neuron = int | tuple[int | slice, ...] | list[int | slice] | Callable[..., Any]
_F = TypeVar("_F", bound=Callable[..., Any])

COULD_NOT_INTERPOLATE = (
    "Couldn't appropriately interpolate GradCAM attributions for some input tensors, "
    "returning empty tensor for corresponding attributions."
)
NO_TARGET = (
    "Target not provided when necessary, cannot take gradient with respect to multiple outputs."
)
NO_OUTPUTS = "Forward hook did not obtain any outputs for given layer"


def logged(attribute: _F) -> _F:
    """``attribute`` with the ``__wrapped__`` by which Captum's NoiseTunnel calls it."""

    @functools.wraps(attribute)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return attribute(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


@contextlib.contextmanager
def captums_errors() -> Iterator[None]:
    """Our errors as those of Captum that mean the same."""
    try:
        yield
    except LayerError as error:
        raise AssertionError(f"{NO_OUTPUTS}: {error}") from error
    except TargetError as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None  # of `selected` or `neuron_of`


def as_tuple(inputs: Any) -> tuple[Any, ...]:
    """The inputs as a tuple."""
    assert isinstance(inputs, (tuple, Tensor)), (
        f"`inputs` must be a torch.Tensor or a tuple[torch.Tensor] but found: {type(inputs)}"
    )
    return inputs if isinstance(inputs, tuple) else (inputs,)


def check_tensors(inputs: tuple[Any, ...]) -> None:
    """Raises where an input that is explained is no tensor."""
    assert all(isinstance(x, Tensor) for x in inputs), "Given input is not a torch.Tensor"


def detached(values: Any) -> Any:
    """``values`` cut off from whatever graph they are in, so that the maps have none."""
    return tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, values)


def selected(out: Any, target: Any) -> Tensor:
    """One number per example, as Captum selects them by a target.

    Raises:
        AssertionError, IndexError: with Captum's words.
    """
    assert isinstance(out, Tensor), (
        f"{NO_TARGET} The output is a {type(out).__name__}; funcattr's functions take a callable "
        "target, which chooses a tensor of it."
    )
    chosen = _chosen(out, target)
    assert (chosen[0] if chosen.dim() else chosen).numel() == 1, NO_TARGET
    return chosen


def _chosen(out: Tensor, target: Any) -> Tensor:
    if target is None:
        return out
    if isinstance(target, Tensor):
        if target.numel() == 1 and isinstance(target.item(), int):
            return _column(out, (int(target.item()),))
        assert target.dim() == 1 and len(target) == len(out), (
            f"Tensor target dimension {target.shape} is not valid. {out.shape}"
        )
        return _one_each(out, target)
    if isinstance(target, (int, tuple)):
        return _column(out, target if isinstance(target, tuple) else (target,))
    assert isinstance(target, list), f"Target type {type(target)} is not valid."
    assert len(target) == len(out), "Target list length does not match output!"
    if isinstance(target[0], int):
        return _one_each(out, torch.tensor(target, device=out.device))
    assert isinstance(target[0], tuple), (
        f"Target element type {type(target[0])} in list is not valid."
    )
    indices = [(i, *index) for i, index in enumerate(target)]
    return torch.stack([out[index] for index in indices])


def _column(out: Tensor, index: tuple[Any, ...]) -> Tensor:
    assert len(index) < out.dim(), f"Cannot choose target column with output shape {out.shape}."
    where = (slice(None), *index)
    return out[where]


def _one_each(out: Tensor, index: Tensor) -> Tensor:
    assert out.dim() == 2, "Output must be 2D to select tensor of targets."
    index = index.to(out.device)
    from_start = torch.where(index < 0, index + out.shape[1], index)  # Captum refuses negative ones
    return out.gather(1, from_start.unsqueeze(1)).squeeze(1)


def neuron_of(out: Any, selector: Neuron) -> Tensor:
    """One number per example, as Captum selects them of a layer's output.

    Raises:
        AssertionError, IndexError, RuntimeError: with Captum's words.
    """
    if callable(selector):
        chosen: Tensor = selector(out)
    else:
        assert isinstance(out, Tensor), (
            "Cannot select neuron index from layer with multiple tensors, consider providing a "
            "neuron selector function instead."
        )
        index = tuple(selector) if isinstance(selector, (tuple, list)) else (selector,)
        chosen = _column(out, index)
        if any(isinstance(i, slice) for i in index):
            return chosen.flatten(1).sum(1) if chosen.dim() > 1 else chosen
    if chosen.numel() > 1 and chosen.dim() != 1:
        raise RuntimeError(
            "grad can be implicitly created only for scalar outputs: a neuron is one number per "
            f"example, and {selector!r} selects {tuple(chosen.shape)}. Slices are summed."
        )
    return chosen


class Method(GradientBase):  # type: ignore[misc]
    """What all methods share: the attributes that Captum reads, and the call."""

    forward_func: Callable[..., Any]

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        self.forward_func = forward_func

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether a map is a product with what is explained."""
        return False

    def has_convergence_delta(self) -> bool:
        """Whether ``attribute`` can return an error of approximation: no gradient can."""
        return False

    def attribute_future(self, *args: Any, **kwargs: Any) -> Any:
        """Raises NotImplementedError, as Captum's."""
        name = type(self).__name__
        raise NotImplementedError(f"attribute_future is not implemented for {name}")

    def _maps(
        self,
        method: Callable[[tuple[int, ...]], Attribution],
        inputs: Any,
        extra: Any,
        select: Callable[[Any], Tensor],
        *,
        at_inputs: bool = True,
        keep_graph: bool = False,
    ) -> Any:
        """The maps of ``method(argnums)``; as the inputs are, a tensor or a tuple of them."""
        tensors = as_tuple(inputs)
        if at_inputs:
            check_tensors(tensors)
        args = (
            *tensors,
            *(extra if isinstance(extra, tuple) else () if extra is None else (extra,)),
        )
        with captums_errors():
            attr = method(tuple(range(len(tensors))))
            maps = attr(*(args if keep_graph else detached(args)), target=select)
        return maps[0] if at_inputs and not isinstance(inputs, tuple) else maps


class Internal(Method):
    """A method with a layer of its own."""

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | Sequence[nn.Module],
        device_ids: list[int] | None = None,
    ) -> None:
        super().__init__(forward_func)
        self.layer = layer
        self.device_ids = device_ids


@dataclass(frozen=True)
class _OrPlain(Maker):
    """A method, but the plain gradient of a model without any ReLU, and a warning."""

    method: Callable[..., Attribution]
    func: Callable[..., Any]
    argnums: tuple[int, ...]

    def linearize(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], once: bool = False
    ) -> tuple[Any, Any]:
        strict = self.method(self.func, self.argnums).method
        plain = self.method(self.func, self.argnums, require_match=False).method
        assert strict is not None and plain is not None
        try:
            return strict.linearize(args, kwargs, once)
        except NoMatchError as error:
            if not error.met:  # else what is explained comes before all ReLUs
                warnings.warn(
                    f"There is no ReLU here to modify, so this is the plain gradient: {error}",
                    stacklevel=7,
                )
        return plain.linearize(args, kwargs, once)


def or_plain(method: Callable[..., Attribution]) -> Callable[..., Attribution]:
    """``method``, but the plain gradient of a model without any ReLU, and a warning."""
    return lambda func, argnums: Attribution.by(_OrPlain(method, func, argnums))
