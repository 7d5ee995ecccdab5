"""Calls of rules, of the user's too: what they return is checked, and what they are given kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .. import rules
from ..core import layout
from ..core.private import unbatched, version
from ..errors import MISUSED, ArgumentError, FuncattrError, first_line, short
from .operation import Operation, Shape


def by_users(
    rule: rules.Rule, call: Callable[[], Tensor | None], shape: Shape, *given: Tensor | None
) -> Tensor:
    """What ``call`` returns, which calls a rule of the user's with the tensors ``given``.

    Raises:
        ArgumentError: it fails, writes to what it is given, or returns another shape than ``x``'s.
    """
    pair = rules.is_pair(rule)
    name = repr(getattr(rule, "__name__", type(rule).__name__ if pair else rule))
    form = "(operation, g, *prepared) -> g_in" if pair else "(x, g) -> g_in"
    before = [_version(t) for t in given]
    try:
        result = call()
    except MISUSED as error:
        if isinstance(error, FuncattrError):
            raise
        kind = "is linear in g, pull" if pair else "is elementwise, "
        raise ArgumentError(
            f"the rule {name} raised {first_line(error)}. A rule {kind}{form}, and in sweeps it "
            "runs under torch.vmap: without .item(), numpy, or an if on values (torch.where)."
        ) from error
    if before != [_version(t) for t in given]:
        raise ArgumentError(
            f"the rule {name} writes to a tensor that it is given, which others go by as well; "
            "return a new one (g.clamp(min=0) instead of g.clamp_(min=0))."
        )
    first = 1 if pair else 0  # the batch, of which merged cotangents have more
    if (
        not isinstance(result, Tensor)
        or result.shape[first:] != shape[first:]
        or not result.is_floating_point()
    ):
        came = short(result)
        if isinstance(result, Tensor):
            came = f"shape {tuple(result.shape)}, {result.dtype}"
        how = "" if pair else "elementwise: "
        raise ArgumentError(
            f"a rule returns a float tensor of the shape of x, here {tuple(shape)}; {name} "
            f"returned {came}. Write it {how}{form}."
        )
    return result


def _version(t: Tensor | None) -> int:
    t = None if t is None else unbatched(t)
    return 0 if t is None or t.is_inference() else version(t)


def prepared_by(rule: rules.Rule | None, operation: Operation) -> Sequence[Tensor]:
    """What a rule prepares.

    Raises:
        ArgumentError: that is no sequence of tensors.
    """
    if not rules.is_pair(rule):
        return ()
    made = rule.prepare(operation)
    if not isinstance(made, (tuple, list)) or not all([isinstance(t, Tensor) for t in made]):
        raise ArgumentError(
            f"prepare of a rule returns a tuple of tensors, which may be empty; that of "
            f"{type(rule).__name__!r} returned {short(made)}."
        )
    return made


def pulled_by(
    rule: rules.Pair, g: Tensor, operation: Operation, prepared: Sequence[Tensor | None]
) -> Tensor | None:
    """The cotangent of ``x`` as a pair says, by what it has prepared."""
    made = [beside(operation, n, t, g) for n, t in enumerate(prepared)]
    pull = functools.partial(rule.pull, operation, g, *made)
    if isinstance(rule, rules.Plain):
        return pull()
    return by_users(rule, pull, operation.shape, g, operation.x, *made)


def beside(operation: Operation, n: int, t: Tensor | None, g: Tensor) -> Any:
    """What was prepared, in the layout that many cotangents ``g`` have."""
    if t is None or t.dim() != 4 or not layout.many(g):
        return t
    return operation.keep(("prepared by the rule", n), lambda: layout.channels_last(t))
