"""Where sites are: in which pass, at which level their rules belong, and what a pass has met."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .. import rules
from ..core.levels import Counter, transforming


class Pass:
    """One forward pass of ours in eager, and what its sites are to do while it is pulled.

    Args:
        plain: it runs in plain autograd, outside of all transforms.
        folds: nobody can ask for a gradient between a convolution and its batch norm, so they may
            be merged.
    """

    def __init__(self, plain: bool, folds: bool) -> None:
        self.plain, self.folds = plain, folds
        #: Whether its backward passes are all that is ever differentiated by it.
        self.last = False
        #: Whether the backward pass may repeat parts of the forward pass, as a checkpoint does.
        self.repeats = False
        #: Which of the composites is followed by the backward pass under way; None for none.
        self.composite: int | None = None
        self.keeping = False
        self._lock = threading.RLock()

    @property
    def final(self) -> bool:
        """`last`, and no transform is under way, which inside of the model takes its own."""
        return self.last and not transforming()

    @contextlib.contextmanager
    def pulled(self, composite: int, keeping: bool) -> Iterator[None]:
        """Within, sites follow the composite of this number.

        With ``keeping``, sites cache what they derive from weights and activations for later
        backward passes.
        """
        with self._lock:
            before = self.composite, self.keeping
            self.composite, self.keeping = composite, keeping
            try:
                yield
            finally:
                self.composite, self.keeping = before


class Place:
    """Where a site is: in which pass, at which level its rules belong, what was made for it.

    Args:
        depth: how many levels of differentiation were under way when the ruled function was
            entered; the rules belong to the last one.
        rules: one for each composite of the pass, None where a composite has none here.
        sizes: how many of the site's tensors are weights, and how many each rule has prepared.
        passing: the pass in eager, where it is ours.
        merges: whether many cotangents are pulled as one larger batch.
        path: of the module that makes the call, where it is known.
    """

    __slots__ = ("_kept", "counter", "depth", "merges", "passing", "path", "rules", "sizes")

    def __init__(
        self,
        depth: int,
        rules: Sequence[rules.Rule | None],
        sizes: Sequence[int],
        passing: Pass | None,
        merges: bool,
        path: str,
    ) -> None:
        self.depth, self.rules, self.sizes, self.passing = depth, rules, sizes, passing
        self.merges, self.path = merges, path
        self.counter = Counter()
        self._kept: dict[Any, Tensor] = {}

    def rule(self, level: int) -> tuple[rules.Rule | None, int, int]:
        """The rule of a backward pass at ``level``, and which of the tensors it has prepared."""
        which = 0 if self.passing is None else self.passing.composite
        if level != self.depth - 1 or which is None or not self.rules:
            return None, 0, 0
        start = sum(self.sizes[: which + 1])
        return self.rules[which], start, start + self.sizes[which + 1]

    @property
    def alone(self) -> bool:
        """Whether no graph of the backward pass under way is made."""
        return self.passing is not None and self.passing.keeping

    def keep(self, name: Any, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` returns, made once for all backward passes where it can be.

        Each composite keeps its own, since their rules may give one name to different things.
        """
        if self.passing is None or not self.alone:
            return make()
        key = self.passing.composite, name
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


class Met(NamedTuple):
    """One operation that a forward pass met; a row of the report of `funcattr.sites`."""

    activation: str
    spelling: str
    path: str
    shape: tuple[int, ...]
    rule: rules.Rule | None
    node: Any = None
    reached: bool = True

    @property
    def replaced(self) -> bool:
        """Whether a rule acts there."""
        return self.rule is not None and self.reached
