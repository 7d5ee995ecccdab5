"""Where a model's operations are seen and replaced: every spelling of every activation, and the
mode that looks out for them.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from . import rules
from ._linear_calls import LINEAR
from ._scope import Replay, Scope, Token, Unfold, applied, compiling, is_raw
from ._site import Activation, Site, levels
from ._spellings import RELUS, SPELLINGS, Spelling, ceiling_of
from .errors import NoSiteError

_OPAQUE = {  # what holds a ReLU where no mode can see it, and the way out
    torch.rnn_relu: "nn.RNN(nonlinearity='relu')",
    torch.rnn_relu_cell: "nn.RNNCell(nonlinearity='relu')",
}
_AUTOGRAD = (torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward)
_GRAD_FN: Any = torch.Tensor.grad_fn
_HOOKED = (torch.Tensor.register_hook, torch.Tensor.retain_grad, _GRAD_FN.__get__)
WATCHED = dict.fromkeys((*SPELLINGS, *_OPAQUE, *_AUTOGRAD, *_HOOKED, *LINEAR))


class Entry:
    """An activation's spelling and the rule that a ruled function gives to it."""

    _count: ClassVar[itertools.count[int]] = itertools.count()
    _all: ClassVar[weakref.WeakValueDictionary[str, Entry]] = weakref.WeakValueDictionary()

    def __init__(self, spelling: Spelling, rule: rules.Rule, only_clipped: bool = False) -> None:
        self.spelling, self.rule, self.only_clipped = spelling, rule, only_clipped
        # A compiled graph holds tensors and constants only; in there an entry goes by its name
        # (not a number, which the compiler would make dynamic).
        self.key = f"{spelling.text}#{next(self._count)}"
        self._all[self.key] = self


def site(
    key: str,
    depth: int,
    ceiling: float | None,
    args: tuple[Any, ...],
    kwargs: tuple[tuple[str, Any], ...],
    names: tuple[str, ...],
    x: Tensor,
    *tensors: Tensor,
    scope: Scope | None = None,
    call: tuple[Callable[..., Any], str | None] | None = None,
    kept: Tensor | None = None,
) -> Tensor:
    """The output of a fresh site, asked for in tensors and constants (in a graph, those alone)."""
    entry = Entry._all[key]
    activation = Activation(entry.spelling.call, ceiling, args, kwargs, names)
    token = Token(depth, scope, call)
    return applied(Site, scope, activation, entry.rule, token, kept, x, *tensors)  # type: ignore[no-any-return]


def overwrite(x: Tensor, y: Tensor) -> Tensor:
    """``x.copy_(y)``, which hands no zeros to what ``x`` was before."""
    if not x._is_view():
        x.detach_()
    return x.copy_(y)


STANDARD = {f: Entry(s, rules.standard) for f, s in SPELLINGS.items()}


class Met(NamedTuple):
    """One activation that a forward pass met; a row of the report of `funcattr.sites`."""

    activation: str
    spelling: str
    path: str
    shape: tuple[int, ...]
    replaced: bool


@dataclass(eq=False)
class Plan:
    """Which functions get which rule, and in which modules."""

    entries: Mapping[Callable[..., Any], Entry] = field(default_factory=dict)
    where: Callable[[str], bool] | None = None
    require_match: bool = False

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """The activations that it is for."""
        return frozenset(entry.spelling.activation for entry in self.entries.values())

    def entry(
        self, func: Callable[..., Any], path: str | None, ceiling: float | None
    ) -> Entry | None:
        """What stands for a call of ``func`` in the module at ``path``, if it is an activation."""
        entry = self.entries.get(func)
        if entry is None or (entry.only_clipped and ceiling is None):
            return None
        here = self.where is None or path is None or self.where(path)
        # Out of place of the rule it is a site all the same, so that every ReLU in autograd's graph
        # is one that was not seen.
        return entry if here else STANDARD[func]

    def rule(
        self, func: Callable[..., Any], path: str | None, ceiling: float | None
    ) -> rules.Rule | None:
        """The rule of that call."""
        entry = self.entry(func, path, ceiling)
        return None if entry is None else entry.rule

    def same(self, other: Plan) -> bool:
        """Whether ``other`` says the same."""
        alike = self.where is other.where and self.require_match == other.require_match
        return alike and self.entries == other.entries


class Intercept(TorchFunctionMode):
    """Sees every call of a torch function and puts sites in the place of activations.

    ``depth`` is the number of levels of differentiation under way (`_site.count_levels`);
    ``path`` the stack of the paths of the modules that are running, where it is known; ``met``,
    where given, collects every activation. ``also`` are plans that a backward pass may follow in
    the place of ``plan``.
    """

    def __init__(
        self,
        plan: Plan,
        depth: int,
        path: list[str] | None = None,
        met: list[Met] | None = None,
        scope: Scope | None = None,
        also: Sequence[Plan] = (),
        replay: Replay | None = None,
    ) -> None:
        super().__init__()
        self.depth, self.path, self.met = depth, path, met
        self.scope, self.replay = scope, replay
        self.plans = (plan, *also)
        self.entries = plan.entries
        for other in also:
            self.entries = {**other.entries, **self.entries}
        # For each plan, how many calls follow its rule, and which activations are none of its.
        self.matched = [0 for _ in self.plans]
        self.others: list[list[str]] = [[] for _ in self.plans]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.entries:
            return self._activation(self.entries[func], func, args, kwargs)
        if func in WATCHED:
            if func in LINEAR:
                return LINEAR[func](func, args, kwargs, self.scope, self.replay)
            elif func in SPELLINGS:
                for others in self.others:
                    others.append(SPELLINGS[func].activation)
                if self.met is not None:
                    self._note(SPELLINGS[func].text, SPELLINGS[func].activation, args[0], False)
            elif func in _HOOKED:
                if self.scope is not None and self.scope.folds:
                    raise Unfold
            elif self._strict() and (func in _OPAQUE or levels() == self.depth):
                self._refuse(func)
            elif func in _OPAQUE and self.met is not None:
                self._note(_OPAQUE[func], "relu", args[0], False)
        return func(*args, **kwargs)

    def _strict(self) -> bool:
        return any(plan.require_match for plan in self.plans)

    def _note(self, text: str, activation: str, x: Tensor, replaced: bool) -> None:
        if self.met is not None:
            path = self.path[-1] if self.path else ""
            self.met.append(Met(activation, text, path, tuple(x.shape), replaced))

    def _refuse(self, func: Callable[..., Any]) -> None:
        if func in _AUTOGRAD:
            raise NoSiteError(
                "the function takes gradients of its own by plain autograd, and a rule cannot "
                "tell those from yours. Use torch.func.grad inside of it, or pass "
                "require_match=False to let the rule act on both."
            )
        where = f" in {self.path[-1]!r}" if self.path and self.path[-1] else ""
        raise NoSiteError(
            f"{_OPAQUE[func]}{where} runs its ReLUs inside of one kernel, where no rule can reach. "
            "Write the recurrence with torch.relu, or pass require_match=False to "
            "differentiate through it as it is."
        )

    def _activation(
        self,
        entry: Entry,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        spelling = entry.spelling
        rest = dict(kwargs)
        positional = args[1:]
        x: Tensor = args[0] if args else rest.pop("input" if "input" in rest else "self")
        in_place = spelling.in_place
        if spelling.flag is not None and len(args) > spelling.flag:
            in_place, positional = args[spelling.flag], positional[: spelling.flag - 1]
        elif spelling.flag is not None:
            in_place = rest.pop("inplace", False)
        ceiling = ceiling_of(spelling.activation, positional, rest)
        path = self.path[-1] if self.path else None
        found = [plan.entry(func, path, ceiling) for plan in self.plans]
        known = any(e is not None for e in found)
        active = known and x.is_floating_point() and (compiling() or not is_raw())
        text = spelling.text + ("(inplace=True)" if in_place and not spelling.in_place else "")
        self._note(text, spelling.activation, x, active and found[0] is entry)
        if not active:
            return func(*args, **kwargs)
        for i, (plan, own) in enumerate(zip(self.plans, found)):
            if own is None:
                self.others[i].append(spelling.activation)
            self.matched[i] += own is not None and own is plan.entries.get(func)
        first = found[0] or Entry(spelling, rules.standard)
        lead = 0
        while lead < len(positional) and isinstance(positional[lead], Tensor):
            lead += 1
        names = tuple(name for name, value in rest.items() if isinstance(value, Tensor))
        y = self._site(
            (func, path),
            first.key,
            self.depth,
            ceiling,
            positional[lead:],
            tuple((name, value) for name, value in rest.items() if name not in names),
            names,
            # An activation in place writes over the x that its backward needs.
            x.clone() if in_place else x,
            *positional[:lead],
            *(rest[name] for name in names),
        )
        if not in_place:
            return y
        if compiling():
            from ._graph import overwrite_in_graph

            return overwrite_in_graph(x, y)
        return overwrite(x, y)

    def _site(self, call: tuple[Callable[..., Any], str | None], *args: Any) -> Tensor:
        if compiling():
            # Imported while the compiler traces, since it imports the compiler (about a second).
            from ._graph import site_in_graph

            kept = None if self.replay is None else self.replay.next(args[6].shape)
            return site_in_graph(*args, kept=kept)  # type: ignore[no-any-return]
        if self.scope is not None and self.scope.record is not None:
            self.scope.note(args[6])
        return site(*args, scope=self.scope, call=call)


def entries(
    names: Mapping[str, rules.Rule], others: Mapping[Callable[..., Any], rules.Rule]
) -> Mapping[Callable[..., Any], Entry]:
    """A plan's entries: activations by name, and any other elementwise torch function by itself."""
    table = {}
    for func, spelling in SPELLINGS.items():
        rule, only_clipped = names.get(spelling.activation), False
        if rule is None and spelling.activation == "hardtanh":
            rule, only_clipped = names.get("hardtanh(0, c)"), True
        if rule is not None:
            table[func] = Entry(spelling, rule, only_clipped)
    for func, rule in others.items():
        text = resolve_name(func) or repr(func)
        table[func] = Entry(Spelling(text, text, func), rule)
    return table


_NAMED = (rules.standard, rules.guided, rules.deconvnet, rules.guided_inclusive)
# Made once, and so known to a compiler that traces the making of a ruled function.
RELU_ENTRIES = {rule: entries(dict.fromkeys(RELUS["relu"], rule), {}) for rule in _NAMED}
