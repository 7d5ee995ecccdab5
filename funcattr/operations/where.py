"""Where a rule of a composite acts: the conditions of its rows."""

from __future__ import annotations

import types
from collections.abc import Callable, Container, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch.overrides import resolve_name

from ..core.levels import compiling
from ..errors import MISUSED, ArgumentError, FuncattrError, first_line, nearest, short
from .kinds.activation import SPELLINGS, Activation
from .kinds.others.operators import FUNCTIONS
from .kinds.table import KINDS
from .operation import Call

#: Torch's own modules that make one call of a torch function whose kind is known.
ONE_OPERATION = tuple(
    getattr(torch.nn, name)
    for name in (
        *("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
        *("Linear", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d"),
        *("MaxPool1d", "MaxPool2d", "MaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d"),
        *("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d"),
        *("ReLU", "ReLU6", "Hardtanh", "SELU", "SiLU", "Mish", "Hardswish", "Hardsigmoid"),
        *("LeakyReLU", "ELU", "CELU", "Threshold", "PReLU", "GELU", "Softplus", "Sigmoid", "Tanh"),
    )
)


@dataclass(frozen=True)
class First:
    """What `first` returns."""

    kinds: tuple[str, ...]


def first(*kinds: str) -> First:
    """The place of the first operation of these kinds that runs, for a row of a `Composite`.

    That is by execution, and so holds for whatever way the model's modules are defined; whether it
    is made of what is explained does not matter.

    Args:
        *kinds: kinds of operations, see `Composite`.

    Returns:
        A place for a row.

    Raises:
        ArgumentError: there is none, or one is not known.

    >>> import funcattr as fa
    >>> fa.Composite([(first("convolution"), fa.rules.z_box(0, 1))])
    Composite(first convolution: z_box)
    """
    if not kinds:
        raise ArgumentError("first is of one kind of operations or several, first('convolution').")
    for kind in kinds:
        if not isinstance(kind, str):
            raise ArgumentError(f"first takes kinds of operations by name; got {short(kind)}.")
        test_of(kind)
    return First(kinds)


class Forward(Protocol):
    """A forward pass, which may be over."""

    finished: bool


class Before:
    """The kinds of operations that have run, for `first`.

    A checkpoint repeats operations when the forward pass is over. The first of its kind is known
    again by the module that calls it.
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._firsts: dict[str, tuple[str | None, str]] = {}
        self._counts: dict[tuple[str | None, str], int] = {}

    def note(self, call: Call, path: str | None) -> None:
        """Is told of a call."""
        if not self._forward.finished:
            # The compiler repeats nothing, and cannot tell the names of all functions apart.
            one = path, "" if compiling() else call.spelling
            self._counts[one] = self._counts.get(one, 0) + 1
            for name in call.kind.names:
                self._firsts.setdefault(name, one)

    def of(self, call: Call, path: str | None) -> Container[str]:
        """The kinds that have run before a call."""
        if not self._forward.finished:
            return self._firsts
        one = path, call.spelling
        others = {name: first for name, first in self._firsts.items() if first != one}
        return _Kinds(others, None if self._counts.get(one, 0) < 2 else call.kind.names)


class _Kinds:
    """Kinds that have run, and those of which nobody can say it."""

    def __init__(self, run: Container[str], unknown: Container[str] | None = None) -> None:
        self._run, self._unknown = run, unknown

    def __contains__(self, kind: object, /) -> bool:
        if kind in self._run:
            return True
        if self._unknown is not None and kind in self._unknown:
            raise FuncattrError(
                f"a row for the first {kind} is for one of several calls of one module (or of a "
                "function), and a checkpoint repeats it, where they cannot be told apart; switch "
                "the checkpoint off, or name the module by a predicate on its path."
            )
        return False


class Test(NamedTuple):
    """One of the conditions of a row."""

    by: str  # "kind", "first", "activation", "function", "module" or "path"
    value: Any

    def fits(
        self,
        call: Call,
        func: Callable[..., Any],
        path: str | None,
        before: Container[str],
        running: type | None,
    ) -> bool:
        if self.by == "kind":
            return self.value in call.kind.names
        if self.by == "first":
            own = any([kind in call.kind.names for kind in self.value])
            return own and not any([kind in before for kind in self.value])
        if self.by == "module":
            return issubclass(call.module or running or object, self.value)
        if self.by == "activation":
            return isinstance(call.kind, Activation) and call.kind.activation == self.value
        if self.by == "function":
            return self.value is ONE_OF.get(func, func)
        return path is None or self.holds(path)

    def __reduce__(self) -> tuple[Any, ...]:
        # A method that torch has wrapped (Tensor.__pow__) has another's name, which pickle goes by.
        name = resolve_name(self.value) if self.by == "function" else None
        if name and _found(name) is self.value:
            return _of_function, (name,)
        return Test, tuple(self)

    def holds(self, path: str) -> bool:
        """Whether a predicate does, of the path of a module."""
        try:
            return bool(self.value(path))
        except MISUSED as error:
            raise ArgumentError(
                f"where of a row is a predicate on module paths, (path) -> bool; {self.value!r} "
                f"raised {first_line(error)}."
            ) from error


_SPACES = (torch.Tensor, torch.special, F)
_C = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
#: Functions that are `torch`'s of the same name: methods, and what writes to its argument.
ONE_OF = {
    getattr(space, spelling): getattr(torch, name)
    for name in dir(torch)
    if isinstance(getattr(torch, name), _C) and not name.endswith("_")
    for space in (torch, *_SPACES)
    for spelling in (name, f"{name}_")
    if isinstance(getattr(space, spelling, None), _C) and not (space is torch and name == spelling)
}


def spellings(f: Callable[..., Any]) -> set[Callable[..., Any]]:
    """All functions that a row for ``f`` is for."""
    return {f, *(other for other, one in ONE_OF.items() if one is f)}


def _found(name: str) -> Any:
    """What torch has by this name."""
    found: Any = torch
    for part in name.split(".")[1:]:
        found = getattr(found, part, None)
    return found


def _of_function(name: str) -> Test:
    return Test("function", _found(name))


def test_of(place: Any) -> Test:
    """The condition that a place of a row means.

    Raises:
        ArgumentError: it is none.
    """
    if isinstance(place, Hashable):
        place = FUNCTIONS.get(place, place)  # type: ignore[call-overload]
    if isinstance(place, str):
        if place not in KINDS:
            raise ArgumentError(
                f"a composite knows the kinds {', '.join(KINDS)}; got {place!r}."
                f"{nearest(place, KINDS)}"
            )
        return Test("kind", place)
    if isinstance(place, First):
        return Test("first", place.kinds)
    if isinstance(place, type) and issubclass(place, torch.nn.Module):
        return Test("module", place)
    if isinstance(place, torch.nn.Module):
        raise ArgumentError(
            f"where of a row is a module class, {type(place).__name__}, or a predicate on module "
            "paths, lambda path: path == 'head'; got a module itself."
        )
    if place is first:
        raise ArgumentError("first makes a place; call it, first('convolution').")
    if not callable(place) or isinstance(place, type):
        raise ArgumentError(
            "where of a row is a kind of operation, first(kind), a torch function, a module class, "
            f"or a predicate on module paths; got {place!r}."
        )
    if place in SPELLINGS:
        return Test("activation", SPELLINGS[place].activation)
    return (
        Test("function", ONE_OF.get(place, place)) if resolve_name(place) else Test("path", place)
    )


def shown(test: Test) -> str:
    """A condition, in words."""
    if test.by == "first":
        return "first " + " or ".join(test.value)
    if isinstance(test.value, str):
        return test.value
    return (not isinstance(test.value, type) and resolve_name(test.value)) or named(test.value)


def named(value: Any) -> str:
    """How an object is called."""
    return getattr(value, "__name__", None) or type(value).__name__
