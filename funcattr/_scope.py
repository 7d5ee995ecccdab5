"""What a site is told by the forward and the backward pass that it is part of."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch._functorch.utils import unwrap_dead_wrappers

from . import _layout, rules
from .errors import FuncattrError

_compiling = getattr(getattr(torch, "compiler", None), "is_compiling", None)


def compiling() -> bool:
    """Whether torch.compile is tracing; before torch 2.3 this library cannot be compiled."""
    return _compiling is not None and _compiling()


# A quick answer to the usual case; the slow one is right without it.
_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def forward_mode() -> bool:
    """Whether forward-mode autograd, by torch.func.jvp or by itself, is under way."""
    return torch.autograd.forward_ad._current_level >= 0


def transforming() -> bool:
    """Whether a transform, of torch.func or of forward-mode autograd, is under way."""
    return compiling() or _transforms_active() or forward_mode()


_local = threading.local()


class _Counted:
    """A context that a thread can be inside of, several times over."""

    name: ClassVar[str]

    def __enter__(self) -> None:
        setattr(_local, self.name, getattr(_local, self.name, 0) + 1)

    def __exit__(self, *exc: object) -> None:
        setattr(_local, self.name, getattr(_local, self.name) - 1)


class plainly(_Counted):
    """Inside of this context a forward pass runs at the level of plain autograd, on its own."""

    name = "plain"


def within_plain() -> bool:
    """Whether this thread is inside of `plainly`: somebody outside will differentiate."""
    return not compiling() and getattr(_local, "plain", 0) > 0


class Unfold(BaseException):
    """Raised through a model that asks for what folding leaves out; it then runs without."""


class raw(_Counted):
    """Inside of this context activations are left alone by every `Intercept`."""

    name = "raw"


def is_raw() -> bool:
    """Whether this thread is inside of `raw`."""
    return getattr(_local, "raw", 0) > 0


class Rules(Protocol):
    """Says which rule a call of an activation follows."""

    def rule(
        self, func: Callable[..., Any], path: str | None, ceiling: float | None
    ) -> rules.Rule | None:
        """The rule of a call of ``func`` in the module at ``path``; None where it has none."""


class Scope:
    """One forward pass in eager; what its sites are to do in a backward pass.

    ``rules`` are those of this backward pass, where they are not the sites' own; ``keeping`` says
    that what is made for this one is as good for the next. Two are fixed: with ``alone`` no
    derivative of the maps will ever be asked for, with ``folds`` none at a tensor between two
    operations that fold into one. ``record``, where it is a list, collects what sites save.
    ``convolved`` is the last convolution, which may fold.
    """

    def __init__(self, alone: bool = False, folds: bool = False) -> None:
        self.alone, self.folds, self.keeping = alone, folds, False
        self.record: list[Tensor] | None = None
        self.convolved: Any = None
        self.rules: Rules | None = None
        self._lock = threading.RLock()

    def note(self, saved: Tensor) -> None:
        """Records a copy, since the model may go on to write to what it is of."""
        order = torch.channels_last if _layout.suits(saved) else torch.preserve_format
        assert self.record is not None
        self.record.append(saved.detach().clone(memory_format=order))

    @contextlib.contextmanager
    def using(self, rules: Rules | None, keeping: bool) -> Iterator[None]:
        """Within, sites do as told."""
        with self._lock:
            before = self.rules, self.keeping
            self.rules, self.keeping = rules, keeping
            try:
                yield
            finally:
                self.rules, self.keeping = before


class Replay:
    """What the sites of one forward pass have saved, for the sites of the same pass in a graph.

    Those then need nothing that the graph's forward pass computes, and the compiler leaves it out.
    """

    def __init__(self, saved: Sequence[Tensor]) -> None:
        self.saved, self.count = saved, 0

    def next(self, shape: Sequence[int] | None = None) -> Tensor:
        """For the next site, which would save a tensor of this shape."""
        self.count += 1
        if self.count > len(self.saved):
            self._refuse()
        saved = self.saved[self.count - 1]
        if shape is not None and saved.shape != shape:
            self._refuse()
        return saved

    def check(self) -> None:
        """Raises where there were fewer sites."""
        if self.count != len(self.saved):
            self._refuse()

    def _refuse(self) -> None:
        raise FuncattrError(
            "the function does not call the same operations when it is compiled as in eager, and "
            "a compiled sweep takes its forward pass in eager; leave compile=True out."
        )


class Token:
    """One call of a site: which level of differentiation its rule belongs to, and where it is.

    ``setup_context`` runs once per level, from the outermost (plain autograd) to the innermost.
    ``depth`` levels were under way when the ruled function was entered; the rule is the last one's.
    """

    __slots__ = ("call", "count", "depth", "kept", "scope")

    def __init__(
        self,
        depth: int,
        scope: Scope | None = None,
        call: tuple[Callable[..., Any], str | None] | None = None,
    ) -> None:
        self.depth, self.scope, self.call, self.count = depth, scope, call, 0
        self.kept: dict[str, Tensor] = {}

    def next(self) -> int:
        """Counts a level, and returns its number."""
        self.count += 1
        return self.count - 1

    def owned_by(self, level: int) -> bool:
        """Whether the rule belongs to ``level``."""
        return level == self.depth - 1

    def rule(self, own: rules.Rule, ceiling: float | None) -> rules.Rule:
        """The rule of this backward pass: the site's own, if nobody has said otherwise."""
        if self.call is None or self.scope is None or self.scope.rules is None:
            return own
        return self.scope.rules.rule(*self.call, ceiling) or rules.standard

    @property
    def alone(self) -> bool:
        """Whether no derivative but one backward pass will ever be asked for."""
        return self.scope is not None and self.scope.alone

    def keep(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` returns, made once for all backward passes where it can be."""
        if self.scope is None or not self.scope.keeping:
            return make()
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def many(self, g: Tensor) -> bool:
        """Whether ``g`` is one of many cotangents of pictures, which share a better layout."""
        return self.scope is not None and _layout.many(g)


class watching:
    """Inside of this context ``see`` is called with what a site returns, which no mode sees."""

    def __init__(self, see: Callable[[Any], None]) -> None:
        self.see = see

    def __enter__(self) -> None:
        self.before = getattr(_local, "see", None)
        _local.see = self.see

    def __exit__(self, *exc: object) -> None:
        _local.see = self.before


def applied(function: Any, scope: Scope | None, *args: Any) -> Any:
    """``function.apply(*args)``, without what that does for transforms where there are none."""
    # A checkpoint can repeat a forward pass that was alone within a backward pass under vmap.
    if scope is not None and scope.alone and not _transforms_active():
        out = super(torch.autograd.Function, function).apply(*unwrap_dead_wrappers(args))
    else:
        out = function.apply(*args)
    see = getattr(_local, "see", None)
    if see is not None:
        see(out)
    return out
