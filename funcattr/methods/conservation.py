"""Where relevance went: `conserved`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from ..core.levels import compiling, levels
from ..core.private import is_batched
from ..cotangents import cotangents
from ..display.table import Table
from ..engine.linearize import linearize
from ..engine.ruled import Ruled
from ..errors import ArgumentError, short
from ..models.arguments import Chosen
from ..operations.composite import Composite, rule_name
from ..rules import Pair, floored, is_pair
from ..targets import Target
from .attribution import Attribution, PerToken, times
from .gradients import ByGradient

__all__ = ["Conservation", "conserved"]


class Taken(NamedTuple):
    """What one operation has done with relevance; ``[B]`` each."""

    operation: str
    path: str
    rule: str
    came: Tensor
    passed: Tensor

    @property
    def taken(self) -> Tensor:
        """What it kept: its bias, its stabiliser, or a stop."""
        return self.came - self.passed


@dataclass(frozen=True, repr=False)
class Conservation(Table):
    """Where the relevance of an output went; a table in print and in a notebook, of
    its sums over the batch.

    ``explained`` is what there was, ``arrived`` what came to the input, ``[B]`` each; ``rows`` are
    the operations with a rule, the last first.
    """

    explained: Tensor
    arrived: Tensor
    rows: tuple[Taken, ...]
    head: ClassVar[Sequence[str]] = ("operation", "path", "rule", "came", "passed", "kept")

    @property
    def elsewhere(self) -> Tensor:
        """What operations without a rule kept (the shift of a norm), or made."""
        kept = sum([row.taken for row in self.rows], torch.zeros_like(self.arrived))
        return self.explained - self.arrived - kept

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (row.operation, row.path or "-", row.rule, *map(_shown, (row.came, row.passed)))
            + (_shown(row.taken),)
            for row in self.rows
        ]

    def _summary(self) -> str:
        explained, arrived, elsewhere = map(_shown, (self.explained, self.arrived, self.elsewhere))
        return f"of {explained}, {arrived} arrived; {elsewhere} stayed where no rule is"


def _shown(t: Tensor) -> str:
    return f"{float(t.sum()):.6g}"


def conserved(attr: Attribution, *args: Any, target: Target = None, **kwargs: Any) -> Conservation:
    """How much of the relevance of an output arrives at the input, and where the rest went.

    LRP's rules conserve relevance but for what biases take, for the stabilisers, and for rules that
    stop it. This does the forward pass and the backward pass of ``attr`` once more and keeps a book
    at every operation with a rule.

    Args:
        attr: what `lrp` returned.
        *args: what it is called with; the first dim of what is explained is the batch.
        target: likewise.
        **kwargs: likewise.

    Returns:
        A `Conservation`.

    Raises:
        ArgumentError: ``attr`` is no relevance propagation, or the book is to be differentiated or
            compiled: it holds numbers.

    >>> import funcattr as fa
    >>> layer = torch.nn.Linear(3, 2, bias=False)
    >>> book = conserved(fa.lrp(layer, fa.composites.epsilon_plus()), torch.ones(4, 3), target=0)
    >>> bool(((book.explained - book.arrived).abs() < 1e-5).all()), len(book.rows)
    (True, 1)
    """
    method = attr.method if isinstance(attr, Attribution) else None
    if isinstance(method, PerToken) and method.tokens is not None:
        args = method.tokens.model.embedded(args, method.tokens.nums)
        method = method.method
    if not isinstance(method, ByGradient) or method.argnums is None or not _shares(method):
        raise ArgumentError(
            f"conserved is for what funcattr.lrp returns; got {short(attr)}. Relevance of a layer "
            "is explained by lrp of funcattr.layer_output."
        )
    if "targets" in kwargs:
        raise ArgumentError("conserved keeps the book of one target, conserved(attr, x, target=0).")
    if compiling() or levels() > 1:
        raise ArgumentError(
            "conserved keeps a book of numbers, which nothing is differentiated through and which "
            "is not compiled: call it outside of torch.func.grad, torch.func.jvp and torch.compile."
        )
    book: list[Taken] = []
    plan = method.ruled.plan
    noted = replace(plan, composite=_noted(plan.composite, book))
    chosen = Chosen(args, method.argnums)
    done = linearize(method.ruled.func, [noted], args, kwargs, chosen)
    cots = cotangents(done.outs, done.unpack, target)
    weighed = [c if method.of_one else c * o for c, o in zip(cots, done.outs) if c is not None]
    maps = replace(method, ruled=Ruled(method.ruled.func, noted)).explain(done, chosen)(target)
    arrived = [m for m in tree_flatten(maps)[0] if m is not None]
    return Conservation(_sums(weighed), _sums(arrived), tuple(book))


def _shares(method: ByGradient) -> bool:
    """Whether its maps are relevance: cotangents by rules of that, times the input."""
    by_pairs = any([is_pair(rule) for _, rule in method.ruled.plan.composite.rows])
    return method.finish is times(method.ruled) and (by_pairs or method.name == "lrp")


def _sums(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of each example."""
    sums = [t.detach().reshape(-1) if t.dim() < 2 else t.detach().flatten(1) for t in tensors]
    sums = [t if t.dim() < 2 else t.sum(1) for t in sums]
    return torch.stack(sums).sum(0)


def _noted(composite: Composite, book: list[Taken]) -> Composite:
    """The same composite, whose pairs keep a book."""
    noted = Composite(())
    noted.rows = tuple(
        # What has parts for several operands keeps nothing, all of them together.
        (tests, _Noted(rule, book) if is_pair(rule) and not hasattr(rule, "parts") else rule)
        for tests, rule in composite.rows
    )
    noted.groups, noted.functions = composite.groups, composite.functions
    return noted


class _Noted:
    """A rule that notes what comes and what it lets pass."""

    reads_x = True

    def __init__(self, rule: Pair, book: list[Taken]) -> None:
        self._rule, self._book = rule, book

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._rule, name)

    def prepare(self, operation: Any) -> Sequence[Tensor]:
        return (operation.value(), *self._rule.prepare(operation))

    def pull(self, operation: Any, g: Tensor, *prepared: Tensor) -> Tensor:
        out, *rest = prepared
        if is_batched(g):
            raise ArgumentError(
                f"conserved keeps a book of numbers, and {operation.where} is under a torch.vmap "
                "of the model's own, where they are of one example each. Write that part on the "
                "whole batch."
            )
        pulled = self._rule.pull(operation, g, *rest)
        if pulled is None:
            pulled = g.new_zeros(operation.shape)
        came, passed = _sums([g * floored(out)]), _sums([pulled * floored(operation.x)])
        name = operation.kind.names[0]
        if name == "deviation":  # what it divides got all
            return pulled
        self._book.append(Taken(name, operation.path, rule_name(self._rule), came, passed))
        return pulled
