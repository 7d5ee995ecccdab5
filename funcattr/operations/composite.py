"""Composites: which operations get which rule."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any

import torch

from .. import rules
from ..core.levels import compiling
from ..errors import ArgumentError, short
from ..rules.pair import makes_rules
from .fresh import held
from .kinds.activation import ACTIVATIONS, Activation
from .kinds.table import GROUP_OF, KINDS
from .operation import Call
from .where import ONE_OPERATION, First, Test, named, shown, spellings, test_of

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
            - a torch function; any spelling stands for all of them (methods, in place or not);
            - a module class: one of torch's own that is an operation (``nn.Conv2d``, ``nn.ReLU``)
              stands for that; of any other the whole module is one operation;
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
        self.rows: tuple[tuple[tuple[Test, ...], rules.Rule], ...] = tuple(map(_checked, rows))
        self._look_through()

    def _look_through(self) -> None:
        #: The groups of kinds that it may have a rule for.
        self.groups = {group for row in self.rows for group in _groups(*row)}
        #: The torch functions of its rows that are of no kind: any elementwise ones.
        self.functions = frozenset().union(
            *[spellings(t.value) for tests, _ in self.rows for t in tests if _of_no_kind(t)]
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]
        self._look_through()

    def __repr__(self) -> str:
        return f"Composite({', '.join(self.texts())})"

    def texts(self) -> list[str]:
        """Its rows, as they are shown."""
        return [f"{_text(tests)}: {rule_name(rule)}" for tests, rule in self.rows]

    def __add__(self, other: Composite) -> Composite:
        """The rows of both, those of ``self`` first."""
        if not isinstance(other, Composite):
            return NotImplemented
        both = Composite(())
        both.rows = self.rows + other.rows
        both.groups = self.groups | other.groups
        both.functions = self.functions | other.functions
        return both

    def rule(
        self,
        call: Call,
        func: Callable[..., Any],
        path: str | None,
        before: Container[str] = (),
        running: type | None = None,
    ) -> rules.Rule | None:
        """The rule of a call of ``func`` in the module at ``path``; None where no row fits.

        ``before`` are the kinds of the operations that ran before it, and ``running`` is the class
        of the module that makes it, where that is but one operation.
        """
        for tests, rule in self.rows:
            fit = all([test.fits(call, func, path, before, running) for test in tests])
            if fit and _acts(tests, rule, call):
                return rule
        return None

    @functools.cached_property
    def ignores_x(self) -> bool:
        """Whether a rule gives relevance to what is 0, for which it takes `rules.floored`."""
        return any([getattr(rule, "ignores_x", False) for _, rule in self.rows])

    @property
    def by_input(self) -> bool:
        """Whether its rules go by which tensors depend on the input, be that explained or not."""
        return not {"linear", "matmul", "product", "attention"}.isdisjoint(self.groups)

    def everywhere(self) -> set[str]:
        """The kinds of operations of which all have a rule of relevance, wherever they are."""
        rows = [(tests, rule) for tests, rule in self.rows if getattr(rule, "merges", False)]
        alone = [tests[0] for tests, _ in rows if len(tests) == 1]
        return {test.value for test in alone if test.by == "kind"}

    def kinds(self) -> set[str]:
        """The kinds of operations that its rows name."""
        return {test.value for tests, _ in self.rows for test in tests if test.by == "kind"}

    def classes(self) -> tuple[type, ...]:
        """The module classes of its rows."""
        return tuple([t.value for tests, _ in self.rows for t in tests if t.by == "module"])

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
        return any([test.by in ("path", "module") for tests, _ in self.rows for test in tests])

    def unmet(self, model: torch.nn.Module) -> Iterator[str]:
        """Those rows, in words, that name modules of which the model has none."""
        parts = dict(model.named_modules())
        for tests, rule in self.rows:
            for test in tests:
                if test.by == "path":
                    fits = any(map(test.holds, parts))
                elif test.by == "module" and not issubclass(test.value, ONE_OPERATION):
                    fits = any([isinstance(part, test.value) for part in parts.values()])
                else:
                    continue
                if not fits:
                    yield f"{_text(tests)}: {rule_name(rule)}"

    def described(self) -> str:
        """The places of its rows, in words."""
        return ", ".join([_text(tests) for tests, _ in self.rows])


def among(func: Callable[..., Any], functions: Collection[Any]) -> bool:
    """Whether a function is one of those.

    To the compiler a function that is written in Python is in no set, whatever it holds.
    """
    if func in functions or not compiling():
        return func in functions
    return any([func is f for f in functions if isinstance(f, FunctionType)])


#: What no row is for that does not name it: their rules are of more than one call.
_BY_NAME = {"elementwise", "deviation"}


def _groups(tests: tuple[Test, ...], rule: rules.Rule) -> set[str]:
    """The groups of kinds that a row may be for."""
    if not rules.is_pair(rule):
        return {"activation"}
    if any(map(_of_no_kind, tests)):
        return set()
    classes = [t.value for t in tests if t.by == "module"]
    if classes and not all([issubclass(cls, ONE_OPERATION) for cls in classes]):
        return set()
    return _named(tests) or set(KINDS.values()) - _BY_NAME


def _of_no_kind(test: Test) -> bool:
    return test.by == "function" and test.value not in GROUP_OF


def _named(tests: Iterable[Test]) -> set[str]:
    """The groups of kinds that the conditions of a row name."""
    named = [KINDS[t.value] for t in tests if t.by == "kind"]
    named += [KINDS[kind] for t in tests if t.by == "first" for kind in t.value]
    named += ["activation" for t in tests if t.by == "activation"]
    named += [GROUP_OF[t.value] for t in tests if t.by == "function" and t.value in GROUP_OF]
    return set(named)


def _acts(tests: tuple[Test, ...], rule: rules.Rule, call: Call) -> bool:
    """Whether a rule can act on an operation: an elementwise one on elementwise functions."""
    if call.module is not None:
        return rules.is_pair(rule) and any([t.by == "module" for t in tests])
    if not rules.is_pair(rule):
        return isinstance(call.kind, Activation)
    if getattr(rule, "compares", False) and getattr(call.kind, "straight", False):
        return bool(call.tensors)  # it needs none; for a baseline the divisor may be what depends
    if not _BY_NAME.isdisjoint(call.kind.names) and _BY_NAME.isdisjoint(_named(tests)):
        return False
    if getattr(rule, "needs_weight", False) and not _named(tests):
        return call.kind.weights(*call.tensors) is not None
    return True


def _checked(row: Any) -> tuple[tuple[Test, ...], rules.Rule]:
    if not isinstance(row, (tuple, list)) or len(row) != 2:
        raise ArgumentError(f"a row of a composite is a pair (where, rule); got {row!r}.")
    where, rule = row
    places = where if isinstance(where, tuple) else (where,)
    if makes_rules(rule):
        raise ArgumentError(f"rules.{rule.__name__} makes a rule; call it, {rule.__name__}(...).")
    if not rules.is_pair(rule) and not callable(rule):
        raise ArgumentError(f"rule is a function (x, g) -> g_in, or a pair; got {rule!r}.")
    if not rules.is_pair(rule) and not _takes_two(rule):
        raise ArgumentError(
            f"a rule is called with two tensors, (x, g) -> g_in; {rule_name(rule)!r} cannot be."
        )
    tests = tuple([test_of(place) for place in places])
    others = _named(tests) - {"activation"}
    classes = [t.value for t in tests if t.by == "module"]
    others |= {cls.__name__ for cls in classes if not issubclass(cls, ONE_OPERATION)}
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


def rule_name(rule: rules.Rule) -> str:
    """How a rule is shown."""
    return named(rule).strip("_").lower() if rules.is_pair(rule) else named(rule)


def _text(tests: tuple[Test, ...]) -> str:
    return " where ".join(map(shown, tests))
