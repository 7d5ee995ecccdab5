"""Composites: which operations get which rule."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.overrides import resolve_name

from .. import rules
from ..errors import MISUSED, ArgumentError, first_line, nearest, short
from .fresh import held
from .kinds.activation import ACTIVATIONS, SPELLINGS, Activation
from .operation import Call
from .table import GROUP_OF, KINDS


@dataclass(frozen=True)
class First:
    """What `first` returns."""

    kinds: tuple[str, ...]


Where = str | Callable[..., Any] | First | tuple[Any, ...]
Row = tuple[Where, rules.Rule]


class Composite:
    """Which operations get which rule: rows ``(where, rule)``, the first that fits wins.

    Args:
        rows: pairs of a place and a rule. A place is

            - a kind of operation: ``"convolution"``, ``"linear"`` (products with a weight),
              ``"norm"``, ``"max_pool"``, ``"mean"``, ``"sum"`` (of two tensors, or over dims),
              ``"product"`` and ``"matmul"`` (of two that both depend on the input),
              ``"activation"``, ``"relu"`` (``max(x, 0)`` and its clipped forms), or the name of an
              activation (``"gelu"``);
            - ``first(kind, ...)``: the first operation of these kinds that runs;
            - a torch function; any spelling of an activation stands for all of them;
            - a module class: a whole module of it, as one operation;
            - a predicate on the path of the module that makes the call, for the operations there
              that the rule can act on;
            - a tuple of these, all of which have to fit.

    Raises:
        ArgumentError: a row is no such pair, a kind is not known, a rule is none, or an elementwise
            one where only pairs act.

    >>> import funcattr as fa
    >>> early = ("relu", lambda path: path.startswith("features"))
    >>> composite = Composite([(early, fa.rules.guided), ("linear", fa.rules.epsilon())])
    >>> composite
    Composite(relu where <lambda>: guided, linear: epsilon)
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        if not isinstance(rows, Iterable) or isinstance(rows, (str, Mapping)):
            raise ArgumentError(
                f"a composite is made of rows, Composite([(where, rule), ...]); got {short(rows)}."
            )
        self.rows: tuple[tuple[tuple[_Test, ...], rules.Rule], ...] = tuple(map(_checked, rows))
        #: The groups of kinds that it may have a rule for.
        self.groups = {group for row in self.rows for group in _groups(*row)}

    def __repr__(self) -> str:
        shown = [f"{_text(tests)}: {rule_name(rule)}" for tests, rule in self.rows]
        return f"Composite({', '.join(shown)})"

    def __add__(self, other: Composite) -> Composite:
        """The rows of both, those of ``self`` first."""
        if not isinstance(other, Composite):
            return NotImplemented
        both = Composite(())
        both.rows = self.rows + other.rows
        both.groups = self.groups | other.groups
        return both

    def rule(
        self,
        call: Call,
        func: Callable[..., Any],
        path: str | None,
        before: Container[str] = (),
    ) -> rules.Rule | None:
        """The rule of a call of ``func`` in the module at ``path``; None where no row fits.

        ``before`` are the kinds of the operations that ran before it.
        """
        for tests, rule in self.rows:
            fit = all([test.fits(call, func, path, before) for test in tests])
            if fit and _acts(tests, rule, call):
                return rule
        return None

    @functools.cached_property
    def ignores_x(self) -> bool:
        """Whether a rule gives relevance to what is 0, for which it takes `rules.floored`."""
        return any([getattr(rule, "ignores_x", False) for _, rule in self.rows])

    def classes(self) -> tuple[type, ...]:
        """The module classes of its rows."""
        return tuple([t.value for tests, _ in self.rows for t in tests if t.by == "module"])

    def functions(self) -> set[Callable[..., Any]]:
        """The torch functions of its rows that are of no kind: any elementwise ones."""
        found = {t.value for tests, _ in self.rows for t in tests if t.by == "function"}
        return found.difference(GROUP_OF)

    def names(self, activation: str, path: str | None, clipped: bool = False) -> bool:
        """Whether it has a rule for an activation of this name, in the module at ``path``.

        ``clipped`` says that a hardtanh is a clipped ReLU.
        """
        relu = clipped or activation in ("relu", "relu6")
        kind = Activation("", activation, 1.0 if relu else None)
        return self.rule(Call(kind, torch.empty(0), (), ""), torch.empty, path) is not None

    @functools.cached_property
    def activations(self) -> frozenset[str]:
        """The names of the activations that it has a rule for somewhere."""
        return frozenset(name for name in ACTIVATIONS if self.names(name, None))

    def asks_for_paths(self) -> bool:
        """Whether it has to know which module makes a call."""
        return any([test.by == "path" for tests, _ in self.rows for test in tests])

    def described(self) -> str:
        """The places of its rows, in words."""
        return ", ".join([_text(tests) for tests, _ in self.rows])


def first(*kinds: str) -> First:
    """The place of the first operation of these kinds that runs, for a row of a `Composite`.

    That is by execution, and so holds for whatever way the model's modules are defined.

    Args:
        *kinds: kinds of operations, see `Composite`.

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
        _test(kind)
    return First(kinds)


class _Test(NamedTuple):
    """One of the conditions of a row."""

    by: str  # "kind", "first", "activation", "function", "module" or "path"
    value: Any

    def fits(
        self, call: Call, func: Callable[..., Any], path: str | None, before: Container[str]
    ) -> bool:
        if self.by == "kind":
            return self.value in call.kind.names
        if self.by == "first":
            own = any([kind in call.kind.names for kind in self.value])
            return own and not any([kind in before for kind in self.value])
        if self.by == "module":
            return call.module is not None and issubclass(call.module, self.value)
        if self.by == "activation":
            return isinstance(call.kind, Activation) and call.kind.activation == self.value
        if self.by == "function":
            return self.value is func
        return path is None or self._holds(path)

    def _holds(self, path: str) -> bool:
        try:
            return bool(self.value(path))
        except MISUSED as error:
            raise ArgumentError(
                f"where of a row is a predicate on module paths, (path) -> bool; {self.value!r} "
                f"raised {first_line(error)}."
            ) from error


def _groups(tests: tuple[_Test, ...], rule: rules.Rule) -> set[str]:
    """The groups of kinds that a row may be for."""
    if not rules.is_pair(rule):
        return {"activation"}
    if any([t.by == "module" for t in tests]):
        return set()
    return _named(tests) or set(KINDS.values())


def _named(tests: Iterable[_Test]) -> set[str]:
    """The groups of kinds that the conditions of a row name."""
    named = [KINDS[t.value] for t in tests if t.by == "kind"]
    named += [KINDS[kind] for t in tests if t.by == "first" for kind in t.value]
    named += ["activation" for t in tests if t.by == "activation"]
    named += [GROUP_OF[t.value] for t in tests if t.by == "function" and t.value in GROUP_OF]
    return set(named)


def _acts(tests: tuple[_Test, ...], rule: rules.Rule, call: Call) -> bool:
    """Whether a rule can act on an operation: an elementwise one on elementwise functions."""
    if call.module is not None:
        return rules.is_pair(rule) and any([t.by == "module" for t in tests])
    if not rules.is_pair(rule):
        return isinstance(call.kind, Activation)
    if getattr(rule, "needs_weight", False) and not _named(tests):
        return call.kind.weights(*call.tensors) is not None
    return True


def _checked(row: Any) -> tuple[tuple[_Test, ...], rules.Rule]:
    if not isinstance(row, (tuple, list)) or len(row) != 2:
        raise ArgumentError(f"a row of a composite is a pair (where, rule); got {row!r}.")
    where, rule = row
    places = where if isinstance(where, tuple) else (where,)
    if not rules.is_pair(rule) and not callable(rule):
        raise ArgumentError(f"rule is a function (x, g) -> g_in, or a pair; got {rule!r}.")
    if not rules.is_pair(rule) and not _takes_two(rule):
        raise ArgumentError(
            f"a rule is called with two tensors, (x, g) -> g_in; {rule_name(rule)!r} cannot be."
        )
    tests = tuple([_test(place) for place in places])
    others = _named(tests) - {"activation"}
    others |= {t.value.__name__ for t in tests if t.by == "module"}
    if others and not rules.is_pair(rule):
        raise ArgumentError(
            f"{rule_name(rule)!r} is elementwise, a rule of activations; a row for "
            f"{', '.join(sorted(others))} takes a pair, as funcattr.rules.epsilon() is."
        )
    return tests, held(rule)


def _takes_two(rule: Any) -> bool:
    try:
        inspect.signature(rule).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a function of C that does not say
        return True
    return True


def _test(place: Any) -> _Test:
    if isinstance(place, str):
        if place not in KINDS:
            raise ArgumentError(
                f"a composite knows the kinds {', '.join(KINDS)}; got {place!r}."
                f"{nearest(place, KINDS)}"
            )
        return _Test("kind", place)
    if isinstance(place, First):
        return _Test("first", place.kinds)
    if isinstance(place, type) and issubclass(place, torch.nn.Module):
        return _Test("module", place)
    if not callable(place) or isinstance(place, type):
        raise ArgumentError(
            "where of a row is a kind of operation, first(kind), a torch function, a module class, "
            f"or a predicate on module paths; got {place!r}."
        )
    if place in SPELLINGS:
        return _Test("activation", SPELLINGS[place].activation)
    return _Test("function" if resolve_name(place) else "path", place)


def rule_name(rule: rules.Rule) -> str:
    """How a rule is shown."""
    return _name(rule).strip("_").lower() if rules.is_pair(rule) else _name(rule)


def _name(value: Any) -> str:
    return getattr(value, "__name__", None) or type(value).__name__


def _text(tests: tuple[_Test, ...]) -> str:
    return " where ".join(map(_shown, tests))


def _shown(test: _Test) -> str:
    if test.by == "first":
        return "first " + " or ".join(test.value)
    if isinstance(test.value, str):
        return test.value
    return (not isinstance(test.value, type) and resolve_name(test.value)) or _name(test.value)
