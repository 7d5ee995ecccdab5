"""Models as pure functions: parameters as an argument, and private copies of the module tree."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from ._intercept import Intercept, Plan
from ._site import compiling
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

    >>> f, params = make_functional(nn.Linear(3, 2))
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
    params = {name: tensor.detach() for name, tensor in _tensors(model)}
    return Functional(model), params


def _tensors(model: nn.Module, *, repeats: bool = False) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=not repeats)
    yield from model.named_buffers(remove_duplicate=not repeats)


def module_of(func: Callable[..., Any]) -> nn.Module | None:
    """The module that ``func`` runs, where it is known."""
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
) -> Any:
    """``func(*args, **kwargs)`` under ``mode``, changing nothing of the user's.

    ``detach`` cuts a module off from its own parameters. ``path``, where given, has the name of the
    running module on its top.
    """
    given: Mapping[str, Tensor] = {}
    model = module_of(func)
    if isinstance(func, Functional):
        given, args = _parameters(func.model, args)
    # The first thing that a model does may be to write to its input.
    args, kwargs = tree_map(_fresh, (args, kwargs))
    if model is None:
        with mode:
            return func(*args, **kwargs)
    tensors = _replacements(model, given, detach)
    if not compiling():
        # Not functional_call on the model itself: threads that swap tensors in and out of a shared
        # module can leave it with the wrong ones for good.
        model, tensors = _Clone(model, tensors, path).root, {}
    with mode, _tracked(model, path):
        if not tensors:
            return model(*args, **kwargs)
        return functional_call(model, tensors, args, kwargs)


def _fresh(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _parameters(
    model: nn.Module, args: tuple[Any, ...]
) -> tuple[Mapping[str, Tensor], tuple[Any, ...]]:
    if not args or not isinstance(args[0], Mapping):
        came = type(args[0]).__name__ if args else "nothing"
        raise ArgumentError(
            "a model made by make_functional takes its parameters first, a dict of names to "
            f"tensors; got {came}. Call f(params, x), and explain x with argnums=1."
        )
    own = {name for name, _ in _tensors(model, repeats=True)}
    for name in args[0]:
        if name not in own:
            raise ArgumentError(
                f"the model has no parameter or buffer {name!r}.{nearest(name, own)}"
            )
    return args[0], args[1:]


def _replacements(model: nn.Module, given: Mapping[str, Tensor], detach: bool) -> dict[str, Tensor]:
    """The tensors that stand in the place of the model's own, by name."""
    tensors: dict[str, Tensor] = {}
    if detach:
        tensors = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    tensors.update(given)
    for prefix, module in model.named_modules():
        if module.training:
            for name, b in module.named_buffers(prefix, recurse=False):
                tensors[name] = tensors.get(name, b).clone()
    return tensors


@contextlib.contextmanager
def _tracked(model: nn.Module, path: list[str] | None) -> Iterator[None]:
    """Tracks the path on the model itself: in traced code only, where nothing is written."""
    modules = dict(model.named_modules()) if path is not None and compiling() else {}
    for name, module in modules.items():
        module.__dict__["forward"] = _tracking(module.forward, name, path)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for module in modules.values():
            del module.__dict__["forward"]


def _tracking(forward: Callable[..., Any], name: str, path: list[str]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def tracked(*args: Any, **kwargs: Any) -> Any:
        path.append(name)
        try:
            return forward(*args, **kwargs)
        finally:
            path.pop()

    return tracked


class _Clone:
    """Copies the structure of a model and shares its tensors, but for those given by name."""

    _plain = frozenset(nn.Module().__dict__)

    def __init__(
        self, model: nn.Module, tensors: Mapping[str, Tensor], path: list[str] | None
    ) -> None:
        own = dict(_tensors(model, repeats=True)) if tensors else {}
        self.swap = {id(own[name]): tensor for name, tensor in tensors.items()}
        self.modules: dict[int, nn.Module] = {}
        self.names: dict[str, nn.Module] = {}
        self.root = self._module(model, "")
        for name, module in self.names.items():
            state = module.__dict__
            for key in state.keys() - self._plain:
                state[key] = self._value(state[key])
            if path is not None:
                state["forward"] = _tracking(module.forward, name, path)

    def _module(self, module: nn.Module, name: str) -> nn.Module:
        if id(module) in self.modules:
            return self.modules[id(module)]
        if type(module).__name__ == "OptimizedModule":  # torch.compile hides what is in it
            clone = self._module(module._orig_mod, name)  # type: ignore[arg-type]
        elif isinstance(module, torch.jit.ScriptModule):
            clone = module
        else:
            clone = object.__new__(type(module))
            state = clone.__dict__
            state.update(module.__dict__)
            state.pop("_compiled_call_impl", None)
            state["_parameters"] = {k: self._tensor(t) for k, t in module._parameters.items()}
            state["_buffers"] = {k: self._tensor(t) for k, t in module._buffers.items()}
            self.modules[id(module)] = clone
            dot = f"{name}." if name else ""
            state["_modules"] = {
                k: m if m is None else self._module(m, dot + k) for k, m in module._modules.items()
            }
            self.names[name] = clone
        self.modules[id(module)] = clone
        return clone

    def _tensor(self, tensor: Tensor | None) -> Tensor | None:
        return self.swap.get(id(tensor), tensor)

    def _value(self, value: Any) -> Any:
        """A plain attribute, which may refer to the model's modules and tensors in its own way."""
        kind = type(value)
        if kind in (list, tuple, set, dict) and len(value) > 1000:
            return value  # data, and too long to look through at every call
        if kind in (list, tuple, set):
            return kind(map(self._value, value))
        if kind is dict:
            return {k: self._value(v) for k, v in value.items()}
        if kind is types.MethodType:
            return types.MethodType(value.__func__, self._value(value.__self__))
        if kind is functools.partial:
            args = map(self._value, value.args)
            return functools.partial(self._value(value.func), *args, **self._value(value.keywords))
        if isinstance(value, nn.Module):
            return self.modules.get(id(value), value)
        return self._tensor(value) if isinstance(value, Tensor) else value
