"""Operations of several tensors that depend on the input, each with a part of the rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...core.graft import graft
from ...core.levels import compiling
from ...core.private import forward_mode_active, vmap_active
from ...rules import Rule
from ..kinds.outcome import Outcome
from ..kinds.transformer.attention import Attention, drops, written_out
from ..kinds.transformer.kernel import by_kernel, fits
from ..operation import Args, Call, Kwargs
from .origin import Origins, cuts

if TYPE_CHECKING:
    from ..intercept import Intercept


def operands_of(call: Call, args: Args, kwargs: Kwargs) -> list[Tensor]:
    """The tensors of a call that rules have parts for."""
    return [args[p] if isinstance(p, int) else kwargs[p] for _, p in call.operands]


def by_operands(
    mode: Intercept,
    call: Call,
    own: Sequence[Rule | None],
    func: Callable[..., Any],
    args: Args,
    kwargs: Kwargs,
) -> Any:
    """The call, of operands behind which a part of its rule stands."""
    operands = operands_of(call, args, kwargs)
    here = [i for i, t in enumerate(operands) if mode.depends(t)]
    known = mode.origins or Origins()
    parts: list[list[Rule | None]] = [[None for _ in own] for _ in operands]
    for n, rule in enumerate(own):
        roles = known.roles(call, operands, n)
        open_ = [i for i in here if roles[i] is not None]
        divide = getattr(rule, "parts", None)
        if divide is not None:
            for i, part in zip(open_, divide([roles[i] for i in open_])):
                parts[i][n] = part
    replaced, named = list(args), dict(kwargs)
    for (_, place), t, some in zip(call.operands, operands, parts):
        if cuts(mode, some):
            t = t.detach()
        elif any([part is not None for part in some]):
            outcome = Call(Outcome(call.kind.names[0]), t, (), call.spelling)
            t = mode.given(mode.site(outcome, some, t))
        if isinstance(place, int):
            replaced[place] = t
        else:
            named[place] = t
    if isinstance(call.kind, Attention):
        out = _attended(mode, func, tuple(replaced), named)
    elif call.in_place:  # the caller writes, and the derivative needs what is there before
        out = torch.mul(replaced[0].clone(), *replaced[1:])
    else:
        out = func(*replaced, **named)
    rest = [None if hasattr(rule, "parts") else rule for rule in own]
    if any([rule is not None for rule in rest]):
        outcome = Call(Outcome(call.kind.names[0]), out, (), call.spelling)
        out = mode.given(mode.site(outcome, rest, out))
    return out


def _attended(mode: Intercept, func: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
    """Attention by torch's kernel where one backward pass is all that is asked for.

    Its derivative knows neither many cotangents nor a derivative of its own; written out it does.
    """
    once = mode.passing is not None and mode.passing.final
    if (once and not mode.quick) or drops(args, kwargs):
        return func(*args, **kwargs)
    if once and fits(args, kwargs) and any(map(mode.depends, args[:2])):
        return by_kernel(args, kwargs)
    written = written_out(args, kwargs)
    if compiling() or vmap_active() or forward_mode_active():
        return written
    with torch.no_grad():
        value = func(*args, **kwargs)
    return graft(value, written)
