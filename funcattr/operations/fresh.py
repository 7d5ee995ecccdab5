"""Rules of the user's in compiled code: what they read is as fresh as in eager, or refused."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import rules
from ..core.graph import constant, name_of
from ..errors import ArgumentError
from .operation import Operation


@dataclass(frozen=True)
class Named:
    """A rule that is no plain data, as a compiled graph refers to it."""

    name: str


def reference(rule: rules.Rule | None) -> Any:
    """A rule, as an argument of a node."""
    if rule is None or isinstance(rule, rules.Plain):
        return rule
    return Named(name_of(rule))


@dataclass(frozen=True)
class Held:
    """A rule that is a partial or a bound method, of which the compiler makes new ones."""

    rule: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, x: Tensor, g: Tensor) -> Tensor:
        return self.rule(x, g)

    @property
    def __name__(self) -> str:
        inside = getattr(self.rule, "func", self.rule)
        return getattr(inside, "__name__", type(inside).__name__)


def held(rule: Any) -> Any:
    """``rule``, as an object that stays the same in compiled code."""
    return Held(rule) if isinstance(rule, (functools.partial, types.MethodType)) else rule


def shown(rule: rules.Rule | None, operation: Operation, prepared: Sequence[Tensor]) -> None:
    """Shows the compiler what a rule reads, by a call whose result is of no use.

    The compiler does not look into the node of a site. A rule that reads an attribute, a global or
    a closed-over number would keep the value that it had when the graph was made.
    """
    if rule is None or isinstance(rule, rules.Plain) or rule in rules.BY_EXAMPLE:
        return
    _refuse_tensors(rule)
    if rules.is_pair(rule):
        rule.pull(operation, torch.zeros_like(operation.value()), *prepared)
    else:
        assert operation.x is not None
        rule(operation.x, torch.zeros_like(operation.x))


@constant
def _refuse_tensors(rule: Any) -> bool:
    """Raises where a rule holds a tensor, which would be a constant of the graph."""
    for name, value in _read(rule):
        if isinstance(value, Tensor):
            shown = getattr(rule, "__name__", type(rule).__name__)
            raise ArgumentError(
                f"the rule {shown!r} reads the tensor {name!r}, which compiled code would freeze. "
                "Give it as a number, make it of x and g, or call without torch.compile."
            )
    return True


def _read(rule: Any) -> Iterator[tuple[str, Any]]:
    """What a rule reads by name: attributes, closed-over variables, globals, arguments."""
    if isinstance(rule, Held):
        yield from _read(rule.rule)
    elif isinstance(rule, types.MethodType):
        yield from _read(rule.__self__)
        yield from _read(rule.__func__)
    elif isinstance(rule, functools.partial):
        yield from rule.keywords.items()
        yield from ((str(n), value) for n, value in enumerate(rule.args))
        yield from _read(rule.func)
    elif inspect.isfunction(rule):
        found = inspect.getclosurevars(rule)
        yield from {**found.nonlocals, **found.globals, **(rule.__kwdefaults__ or {})}.items()
        yield from ((f"default {n}", value) for n, value in enumerate(rule.__defaults__ or ()))
    else:
        yield from getattr(rule, "__dict__", {}).items()
        for name in ("__call__", "prepare", "pull"):
            function = getattr(type(rule), name, None)
            if inspect.isfunction(function):
                yield from _read(function)
