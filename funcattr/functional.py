"""Models as pure functions: parameters as an argument, and private copies of the module tree."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from ._clone import Clone, Wraps, named_tensors, wrapped
from ._intercept import Intercept, Plan
from ._scope import compiling
from .errors import ArgumentError, nearest

__all__ = ["Functional", "make_functional"]


@dataclass(frozen=True)
class Functional:
    """A model as a pure function of its parameters: ``f(params, *args, **kwargs)``."""

    model: nn.Module

    def __call__(self, params: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        return call(self, (params, *args), kwargs, mode=Intercept(Plan(), depth=0))


def make_functional(model: nn.Module) -> tuple[Functional, dict[str, Tensor]]:
    """A model as a pure function, and the parameters to call it with.

    Args:
        model: any module. It is used as it is at the time of each call (submodules, train or eval
            mode), never written to.

    Returns:
        ``(f, params)``. ``f(params, *args, **kwargs)`` is ``model(*args, **kwargs)`` with the
        tensors of ``params`` in the place of its own; names left out stand for the model's own.
        ``params`` maps the name of every parameter and buffer to a detached tensor that shares the
        model's memory. Batch norm in train mode works on copies of its buffers.

    Raises:
        ArgumentError: ``model`` is no module; or, when ``f`` is called, ``params`` is no mapping or
            has a name that the model has not.

    >>> import torch
    >>> f, params = make_functional(torch.nn.Linear(3, 2))
    >>> sorted(params)
    ['bias', 'weight']
    >>> f(params, torch.ones(4, 3)).shape
    torch.Size([4, 2])
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"make_functional takes a torch.nn.Module, got {type(model).__name__}. "
            "A plain function is pure already: pass it as it is."
        )
    params = {name: tensor.detach() for name, tensor in named_tensors(model)}
    return Functional(model), params


class Inside(ABC):
    """A function made of another one, that has to be called from the inside (see `call`)."""

    func: Callable[..., Any]

    @abstractmethod
    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], **how: Any) -> Any:
        """`call`, for this function."""


def module_of(func: Callable[..., Any]) -> nn.Module | None:
    """The module that ``func`` runs, where it is known."""
    if isinstance(func, Inside):
        return module_of(func.func)
    if isinstance(func, Functional):
        return func.model
    return func if isinstance(func, nn.Module) else None


def call(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    mode: AbstractContextManager[Any],
    detach: bool = False,
    path: list[str] | None = None,
    wraps: Wraps = (),
) -> Any:
    """``func(*args, **kwargs)`` under ``mode``, changing nothing of the user's.

    ``detach`` cuts a module off from its own parameters (but for TorchScript's). ``path``, where
    given, has the name of the running module on its top. ``wraps`` go around the ``forward`` of
    modules.
    """
    if isinstance(func, Inside):
        return func.call(args, kwargs, mode=mode, detach=detach, path=path, wraps=wraps)
    given: Mapping[str, Tensor] = {}
    model = module_of(func)
    if isinstance(func, Functional):
        given, args = _parameters(func.model, args)
    # The first thing that a model does may be to write to its input.
    args = tuple(map(_fresh, args))
    kwargs = {name: _fresh(value) for name, value in kwargs.items()}
    if model is None:
        with mode:
            return func(*args, **kwargs)
    tensors = _replacements(model, given, detach)
    if not compiling():
        # Not functional_call on the model itself: threads that swap tensors in and out of a shared
        # module can leave it with the wrong ones for good.
        clone = Clone(model, tensors, path, wraps, detach)
        try:
            with mode:
                return clone.root(*args, **kwargs)
        finally:
            clone.release()
    with mode, wrapped(model, path, wraps):
        return functional_call(model, tensors, args, kwargs) if tensors else model(*args, **kwargs)


def _fresh(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, value)


def _parameters(
    model: nn.Module, args: tuple[Any, ...]
) -> tuple[Mapping[str, Tensor], tuple[Any, ...]]:
    if not args or not isinstance(args[0], Mapping):
        came = type(args[0]).__name__ if args else "nothing"
        raise ArgumentError(
            "a model made by make_functional takes its parameters first, a dict of names to "
            f"tensors; got {came}. Call f(params, x), and explain x with argnums=1."
        )
    own = dict(named_tensors(model, repeats=True))
    for name, tensor in args[0].items():
        if name not in own:
            raise ArgumentError(
                f"the model has no parameter or buffer {name!r}.{nearest(str(name), own)}"
            )
        if not isinstance(tensor, Tensor) or tensor.shape != own[name].shape:
            came = str(tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor))
            raise ArgumentError(
                f"parameter {name!r} is a tensor of shape {tuple(own[name].shape)}; got {came}. "
                "Stacked parameters of an ensemble go under vmap."
            )
    return args[0], args[1:]


def _replacements(model: nn.Module, given: Mapping[str, Tensor], detach: bool) -> dict[str, Tensor]:
    """The tensors that stand in the place of the model's own, by name."""
    tensors = dict(given)
    if compiling():
        if detach:
            own = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
            tensors = {**own, **given}
        tensors.update((name, tensors.get(name, b).clone()) for name, b in model.named_buffers())
    elif given:  # a clone sees to the rest
        names = (name for name, _ in model.named_buffers() if name in given)
        tensors.update((name, given[name].clone()) for name in names)
    return tensors
