"""Levels of differentiation: which are under way, and which one a rule belongs to.

PyTorch runs a Function's ``backward`` at *every* level of differentiation that is under way, but a
rule belongs to one of them: the innermost level outside of the ruled function, at its entry. Levels
further out differentiate the map, and levels inside are part of the function's value; both need the
true derivative.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .graph import constant
from .private import (
    compiles_here,
    forward_mode_active,
    transforms,
    transforms_active,
    vmap_active,
    vmaps,
)

_is_compiling = getattr(getattr(torch, "compiler", None), "is_compiling", None)


def compiling() -> bool:
    """Whether torch.compile is tracing, which a torch that is too old for it refuses."""
    if _is_compiling is None or not _is_compiling():
        return False
    # Dynamo puts True in the place of both of torch's functions, in the code that it traces.
    if not torch.compiler.is_dynamo_compiling() and not compiles_here():
        return False
    from . import compiler  # noqa: F401  what the compiler must know of us

    return True


def transforming() -> bool:
    """Whether a transform, of torch.func or of forward-mode autograd, is under way."""
    return compiling() or transforms_active() or forward_mode_active()


class Counter:
    """Counts the levels at which one call of a Function is set up.

    ``setup_context`` gets the output of ``forward``, which at a level calls the one further out; so
    it runs once per level, from the outermost (plain autograd) to the innermost.
    """

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def next(self) -> int:
        """The number of the level whose turn it is."""
        self.count += 1
        return self.count - 1


class _Count(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, counter: Counter) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        inputs[1].next()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g, None

    @staticmethod
    def jvp(ctx: Any, t: Tensor, _: None) -> Tensor:
        return t


@constant
def _counted() -> int:
    counter = Counter()
    apply(_Count, torch.empty(()), counter)
    return counter.count


def levels() -> int:
    """How many levels of differentiation are under way; plain autograd is always one."""
    if not compiling() and (not transforms_active() or _only_vmap()):
        return 1
    return _counted()


def _only_vmap() -> bool:
    """Whether all transforms are ``torch.vmap``, no level; to count these takes a millisecond."""
    known = vmaps()
    return known is not None and known == len(transforms())


def vmapping() -> bool:
    """Whether a ``torch.vmap`` is under way."""
    compiling()  # which tells the compiler what is a constant to it, before it meets one
    return _vmapping()


def depth() -> int:
    """How many transforms of torch.func are under way, ``torch.vmap`` among them."""
    compiling()
    return _depth()


@constant
def _depth() -> int:
    return len(transforms()) if transforms_active() else 0


@constant
def _vmapping() -> bool:
    return vmap_active()


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """``function.apply(*args)``, which torch leaves without types."""
    return function.apply(*args)
