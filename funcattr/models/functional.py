"""Models as pure functions of their parameters, and calls that change nothing of the user's."""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map

from ..core.levels import compiling
from ..core.trees import leaves
from ..errors import (
    ArgumentError,
    FuncattrError,
    check_flags,
    first_line,
    nearest,
    uninitialised,
)
from ..operations.intercept import Intercept
from ..operations.operation import Args, Kwargs
from .copies import Copy, Forward, Wraps, named_tensors
from .substitutes import Substitutes

__all__ = ["Functional", "make_functional"]


@dataclass(frozen=True)
class Functional:
    """A model as a pure function of its parameters: ``f(params, *args, **kwargs)``."""

    model: nn.Module

    def __call__(self, params: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        return call(self, (params, *args), kwargs, mode=Intercept((), depth=0))


def make_functional(
    model: nn.Module, *, buffers: bool = False
) -> tuple[Functional, dict[str, Tensor]]:
    """A model as a pure function, and the parameters to call it with.

    Args:
        model: any module. It is used as it is at the time of each call (submodules, train or eval
            mode), never written to.
        buffers: whether the buffers (running statistics, say) are among the parameters as well.

    Returns:
        ``(f, params)``. ``f(params, *args, **kwargs)`` is ``model(*args, **kwargs)`` with the
        tensors of ``params`` in the place of its own; names left out stand for the model's own.
        ``params`` maps the name of every parameter (with ``buffers`` of every buffer as well) to a
        detached tensor that shares the model's memory. Batch norm in train mode works on copies of
        its buffers.

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
            + _instead_of_module(model)
        )
    check_flags(buffers=buffers)
    named = named_tensors(model) if buffers else model.named_parameters()
    tensors = dict(named)
    for name, tensor in tensors.items():
        if is_lazy(tensor):
            raise uninitialised(name)
    return Functional(model), {name: tensor.detach() for name, tensor in tensors.items()}


def _instead_of_module(given: object) -> str:
    if isinstance(given, type):
        return "Pass an instance of the class."
    if isinstance(given, Mapping):
        return "A state dict holds weights only; load it into a model, and pass that."
    if callable(given) and not hasattr(given, "linearize"):
        return "A plain function is pure already: pass it as it is."
    return "Pass the model itself."


class Inside(ABC):
    """A function made of another one, that has to be called from the inside (see `call`)."""

    func: Callable[..., Any]

    @abstractmethod
    def call(self, args: Args, kwargs: Kwargs, **how: Any) -> Any:
        """`call`, for this function."""


def module_of(func: Callable[..., Any]) -> nn.Module | None:
    """The module that ``func`` runs, where it is known."""
    if isinstance(func, Inside):
        return module_of(func.func)
    if isinstance(func, Functional):
        return func.model
    return func if isinstance(func, nn.Module) else None


def takes_parameters(func: Callable[..., Any]) -> bool:
    """Whether the first argument of ``func`` is the parameters of a model."""
    return takes_parameters(func.func) if isinstance(func, Inside) else isinstance(func, Functional)


def call(
    func: Callable[..., Any],
    args: Args,
    kwargs: Kwargs,
    *,
    mode: Intercept,
    detach: bool = False,
    path: list[str] | None = None,
    wraps: Wraps = (),
) -> Any:
    """``func(*args, **kwargs)`` under ``mode``, changing nothing of the user's.

    ``detach`` cuts all parameters off from their graph, but for those that are arguments.
    ``path``, where given, has the name of the running module on its top. ``wraps`` go around the
    ``forward`` of modules.
    """
    if isinstance(func, Inside):
        return func.call(args, kwargs, mode=mode, detach=detach, path=path, wraps=wraps)
    # Not functional_call on the model itself: threads that swap tensors in and out of a shared
    # module can leave it with the wrong ones for good. Code that is traced runs in one thread.
    run = _traced if compiling() else _copied
    return run(func, args, kwargs, mode, detach, path, wraps)


def _copied(
    func: Callable[..., Any],
    args: Args,
    kwargs: Kwargs,
    mode: Intercept,
    detach: bool,
    path: list[str] | None,
    wraps: Wraps,
) -> Any:
    given: Mapping[str, Tensor] = {}
    kept = {id(t) for t in leaves((args, kwargs)) if isinstance(t, Tensor)}
    model = module_of(func)
    if isinstance(func, Functional):
        given, args = _parameters(func.model, args)
    # The first thing that a model does may be to write to its input.
    args, kwargs = tuple(map(_fresh, args)), {k: _fresh(v) for k, v in kwargs.items()}
    if model is None:
        mode.substitute = Substitutes({}, kept, detach)
        return _in_words(mode, func, args, kwargs)
    if given:
        buffers = [name for name, _ in model.named_buffers() if name in given]
        given = {**given, **{name: given[name].clone() for name in buffers}}
    copy = Copy(model, given, path, wraps, detach)
    mode.substitute = Substitutes(copy.swap, kept, detach, copy.given)
    mode.scripted = copy.scripted
    return _in_words(mode, copy.root, args, kwargs)


def _in_words(mode: Intercept, func: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
    try:
        return mode.around(func, *args, **kwargs)
    except Exception as error:
        if isinstance(error, FuncattrError) or not _compiled(error):
            raise
        raise FuncattrError(
            "a part of the model compiles itself as it runs (torch.cond, or a function wrapped by "
            "torch.compile), which torch does under no mode. Leave that part uncompiled, and write "
            f"torch.where or an if of Python's for a cond. It said: {first_line(error)}"
        ) from error


def _compiled(error: Exception) -> bool:
    """Whether it was raised while torch compiled a frame."""
    if type(error).__module__.startswith("torch._dynamo"):
        return True
    at = error.__traceback__
    while at is not None and at.tb_frame.f_globals.get("__name__") != "torch._dynamo.convert_frame":
        at = at.tb_next
    return at is not None


def _traced(
    func: Callable[..., Any],
    args: Args,
    kwargs: Kwargs,
    mode: Intercept,
    detach: bool,
    path: list[str] | None,
    wraps: Wraps,
) -> Any:
    given: Mapping[str, Tensor] = {}
    model = module_of(func)
    if isinstance(func, Functional):
        given, args = _parameters(func.model, args)
    args, kwargs = tuple(map(_fresh, args)), {k: _fresh(v) for k, v in kwargs.items()}
    if model is None:
        with mode:
            return func(*args, **kwargs)
    tensors = dict(given)
    if detach:
        own = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        tensors = {**own, **given}
    tensors.update((name, tensors.get(name, b).clone()) for name, b in model.named_buffers())
    with mode, _wrapped(model, path, wraps):
        return functional_call(model, tensors, args, kwargs) if tensors else model(*args, **kwargs)


def _tracking(forward: Forward, name: str, path: list[str]) -> Forward:
    """``forward``, which has ``name`` on top of ``path`` while it runs."""

    def tracked(*args: Any, **kwargs: Any) -> Any:
        path.append(name)
        try:
            return forward(*args, **kwargs)
        finally:
            path.pop()

    return tracked


@contextlib.contextmanager
def _wrapped(model: nn.Module, path: list[str] | None, wraps: Wraps) -> Iterator[None]:
    """What `Copy` does, to the model itself: for traced code only, where nothing is written."""
    changed = list(wraps)
    if path is not None:
        for name, module in model.named_modules():
            changed.append((module, functools.partial(_tracking, name=name, path=path)))
    own = {module: module.__dict__.get("forward") for module, _ in changed}
    for module, wrap in changed:
        module.__dict__["forward"] = wrap(module.forward)
    try:
        yield
    finally:
        for module, forward in own.items():
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward


def _fresh(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, value)


def _parameters(model: nn.Module, args: Args) -> tuple[Mapping[str, Tensor], Args]:
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
