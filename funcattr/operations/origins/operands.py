"""Operations of several tensors that depend on the input, each with a part of the rule."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...core.graft import graft
from ...core.levels import compiling
from ...core.private import forward_mode_active, vmap_active
from ...errors import HiddenSiteError
from ...rules import Rule
from ...rules.propagation import Share, floored
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


def unstopped(
    origins: Origins, call: Call, own: list[Rule | None], args: Args, kwargs: Kwargs
) -> list[Rule | None]:
    """The rules of a product; None where one operand gets nothing anyway, so that the other gets
    all.
    """
    if isinstance(call.kind, Attention):
        return own
    roles = functools.partial(origins.roles, call, operands_of(call, args, kwargs))
    return [None if rule is None or None in roles(i) else rule for i, rule in enumerate(own)]


def of_several(
    mode: Intercept,
    call: Call,
    own: Sequence[Rule | None],
    func: Callable[..., Any],
    args: Args,
    kwargs: Kwargs,
) -> Any:
    """A call of several tensors that each have a part of a rule; None where it is a site."""
    apart = any([getattr(rule, "by_operands", False) for rule in own])
    if isinstance(call.kind, Attention):
        mode.fused.append(mode.where)
    if apart or isinstance(call.kind, Attention):
        return _by_operands(mode, call, own, func, args, kwargs)
    return _gate(mode, call, own, args)


def _by_operands(
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
            if mode.strict:
                _refuse_mixed(mode, call, [roles[i] for i in open_])
            for i, part in zip(open_, divide([roles[i] for i in open_])):
                parts[i][n] = part
    cut = [cuts(mode, some) for some in parts]
    operands = [t.detach() if gone else t for t, gone in zip(operands, cut)]
    kernel = isinstance(call.kind, Attention) and _in_kernel(mode, args, kwargs, operands)
    factors = [_factors(some) if kernel else None for some in parts]
    mode.cut = mode.cut or any(factors)
    replaced, named = list(args), dict(kwargs)
    for n, (_, place) in enumerate(call.operands):
        t, some = operands[n], parts[n]
        if not cut[n] and factors[n] is None and any([part is not None for part in some]):
            outcome = Call(Outcome(call.kind.names[0]), t, (), call.spelling)
            t = mode.given(mode.site(outcome, some, t))
        if isinstance(place, int):
            replaced[place] = t
        else:
            named[place] = t
    if kernel and mode.passing is not None:
        out = by_kernel(mode.passing, factors, tuple(replaced), named)
    elif isinstance(call.kind, Attention):
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


def _refuse_mixed(mode: Intercept, call: Call, roles: Sequence[str | None]) -> None:
    """Raises where one factor was made of softmaxes by a layer, say, and so may be weights."""
    if "mixed" in roles and "factor" in roles:
        where = f" at {mode.where!r}" if mode.where else ""
        raise HiddenSiteError(
            f"{call.spelling}{where} multiplies what was made of a softmax (attention's weights "
            "mixed between heads, or with other weights), and the rule cannot tell whether that "
            "are weights, which get nothing. If so, detach them in the model; or pass "
            "require_match=False to give a half to each factor."
        )


def _gate(mode: Intercept, call: Call, own: Sequence[Rule | None], args: Args) -> Tensor | None:
    """A product shared by its operands; None where it takes a site.

    All there is on the cotangent's way to an operand, and through an activation before it, are
    constants. Multiplied once in the forward pass, they take one pass over memory for each target.
    """
    final = mode.passing is not None and mode.passing.final and mode.quick
    rule = own[0] if len(own) == 1 else None
    if not final or not isinstance(rule, Share) or call.kind.names[0] != "product":
        return None
    operands = operands_of(call, args, {})
    if call.in_place or mode.origins is None or {t.shape for t in operands} != {call.x.shape}:
        return None
    if call.operands[0] == call.operands[1]:  # a variance, which is no product number by number
        return None
    ways = []
    for t, other in zip(operands, reversed(operands)):
        origin, constant = mode.origins.of(t), rule.part * other.detach()
        if origin.passed and origin.root is not None:
            constant *= floored(t.detach()) / floored(origin.root.detach())
            t = origin.root
        ways.append(t * constant)
    mode.cut = True
    return graft(call.x.detach(), ways[0] + ways[1])


def _in_kernel(mode: Intercept, args: Args, kwargs: Kwargs, operands: Sequence[Tensor]) -> bool:
    """Whether one backward pass is all that is asked for, of many cotangents.

    Where queries and keys are constants, so are the weights, and one product is quicker.
    """
    once = mode.passing is not None and mode.passing.final and mode.quick and not vmap_active()
    fixed = not any(map(mode.depends, operands[:2]))
    return once and not fixed and not drops(args, kwargs) and fits(args, kwargs)


def _factors(parts: Sequence[Rule | None]) -> Sequence[float] | None:
    """What rules let through of a cotangent, where that is a number for each composite."""
    if not all([part is None or isinstance(part, Share) for part in parts]):
        return None
    return [part.part if isinstance(part, Share) else 1.0 for part in parts]


def _attended(mode: Intercept, func: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
    """Attention with every derivative, where it is not torch's kernel's that is asked for.

    That knows neither many cotangents nor a derivative of its own; written out it does.
    """
    once = mode.passing is not None and mode.passing.final
    if (once and not mode.quick) or drops(args, kwargs):
        return func(*args, **kwargs)
    written = written_out(args, kwargs)
    if compiling() or vmap_active() or forward_mode_active():
        return written
    with torch.no_grad():
        value = func(*args, **kwargs)
    return graft(value, written)
