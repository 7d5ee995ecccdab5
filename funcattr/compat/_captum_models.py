"""What Captum's users hand over in the place of a module."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


def one_device(func: Callable[..., Any]) -> Callable[..., Any]:
    """A model that would run in threads, which no rule would reach, without its DataParallel."""
    several = isinstance(func, nn.DataParallel) and len(func.device_ids) > 1
    return func.module if several else func  # type: ignore[attr-defined]


def as_module(func: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls modules, as a module that has them as its parts."""
    if isinstance(func, nn.Module):
        return func
    held = [v for v in _reached(func) if isinstance(v, nn.Module)]
    names = _global_modules(func)
    return _Calling(func, held, names) if held or names else func


class _Calling(nn.Module):
    """Calls a function. In a copy of it the function calls the copies (see `Copy`)."""

    def __init__(
        self, func: Callable[..., Any], held: list[nn.Module], names: dict[str, nn.Module]
    ) -> None:
        super().__init__()
        self.held = nn.ModuleList(held)
        self.globals = nn.ModuleList(names.values())
        self.names = list(names)
        self.func = func

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        func = self.func
        if self.names:  # of a function that finds its model among the globals
            assert isinstance(func, types.FunctionType)
            scope = {**func.__globals__, **dict(zip(self.names, self.globals))}
            own = func.__kwdefaults__
            func = types.FunctionType(
                func.__code__, scope, func.__name__, func.__defaults__, func.__closure__
            )
            func.__kwdefaults__ = own
        return func(*args, **kwargs)


def _reached(func: Any) -> Iterator[Any]:
    """What a function holds on to: its self, its closure, the arguments bound to it."""
    if isinstance(func, functools.partial):
        yield from (func.func, *func.args, *func.keywords.values())
        yield from _reached(func.func)
    elif isinstance(func, types.MethodType):
        yield func.__self__
    elif isinstance(func, types.FunctionType):
        for cell in func.__closure__ or ():
            with contextlib.suppress(ValueError):  # not assigned yet
                yield cell.cell_contents
    else:
        yield from getattr(func, "__dict__", {}).values()


def _global_modules(func: Any) -> dict[str, nn.Module]:
    if not isinstance(func, types.FunctionType):
        return {}
    found = {name: func.__globals__.get(name) for name in func.__code__.co_names}
    return {name: value for name, value in found.items() if isinstance(value, nn.Module)}
