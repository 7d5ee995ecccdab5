"""What stands behind an operation, or a whole module, and takes its cotangent by a rule.

Some rules compare an operation with what it is for a baseline, in an earlier forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import rules
from ..core.graph import node
from ..core.levels import compiling
from ..core.private import is_batched, is_view, saved_tensors_are_hooked, version
from ..core.trees import leaves
from ..errors import ArgumentError, FuncattrError, HiddenSiteError
from .fold import Mergeable
from .kinds.activation import ELUS, Activation
from .kinds.group_norm import GroupNorm
from .kinds.norm import Norm
from .kinds.others.elementwise import turned
from .kinds.outcome import Outcome
from .kinds.stand_in import StandIn, Whole
from .kinds.transformer.layer_norm import LayerNorm
from .operation import Args, Call, Kind, Kwargs, Operation
from .where import ONE_OPERATION

if TYPE_CHECKING:
    from .intercept import Intercept

Own = Sequence[rules.Rule | None]


def behind(
    mode: Intercept,
    call: Call,
    own: Own,
    func: Callable[..., Tensor],
    args: Args,
    kwargs: Kwargs,
) -> Tensor:
    """The operation itself, and where it has rules, what stands behind it."""
    ruled = [rule is not None for rule in own]
    if not any(ruled) and not mode.pays(call):
        return func(*args, **kwargs)
    if any(ruled):
        _refuse_two(mode, call)
    if mode.passing is not None and mode.passing.final and all(ruled):
        with torch.no_grad():  # nobody asks for its own derivative
            out = func(*args, **kwargs)
    else:
        out = mode.given(mode.site(call, [None for _ in own], call.x))
    if not any(ruled):
        return out
    y = stand_in(mode, call, out, own)
    mode.note(call, own[0], y)
    found = Mergeable.of(call, own)
    if found is not None:
        mode.outputs.set(y, found, call.x)
    return y


def merged(
    mode: Intercept,
    call: Call,
    own: Own,
    func: Callable[..., Any],
    args: Args,
    kwargs: Kwargs,
) -> Tensor | None:
    """The output of a batch norm, if it is merged into the operation before it."""
    before = mode.outputs.get(call.x) if isinstance(call.kind, Norm) else None
    whole = None if before is None else before[0].with_norm(call, before[1])
    if before is None or whole is None:
        return None
    _refuse_two(mode, call)
    ruled_by = before[0].own
    rest = [None if rule is not None else one for rule, one in zip(ruled_by, own)]
    out = behind(mode, call, rest, func, args, kwargs)
    mode.note(call, ruled_by[0], out)
    return stand_in(mode, whole, out, ruled_by)


def stand_in(mode: Intercept, call: Call, out: Tensor, own: Own) -> Tensor:
    """``out``, the output of a call, with its rules."""
    behind = Call(StandIn(call.kind), call.x, (out, *call.tensors), "")
    return mode.given(mode.site(behind, own, call.x))


def whole(
    mode: Intercept,
    module: torch.nn.Module,
    path: str,
    forward: Callable[..., Any],
    args: Args,
    kwargs: Kwargs,
) -> Any:
    """The call of a module that is one operation to some composite.

    Raises:
        ArgumentError: it does not make one float tensor of another, or writes to it.
    """
    name, outer = type(module).__name__, mode.running
    mode.running = type(module) if isinstance(module, ONE_OPERATION) else None
    if mode.path is not None:
        mode.path.append(path)
    try:
        if mode.running is not None:
            return forward(*args, **kwargs)
        floats = [t for t in leaves((args, kwargs)) if isinstance(t, Tensor)]
        floats = [t for t in floats if t.is_floating_point()]
        x = floats[0] if floats else torch.empty(0)
        call = Call(Whole(), x, (), name, module=type(module))
        own = mode.rules_of(call, Whole)
        if not any([rule is not None for rule in own]):
            return forward(*args, **kwargs)
        before = _version(x)
        inside = [rule is not None for rule in own]
        mode.within = [n + more for n, more in zip(mode.within, inside)]
        try:
            out = forward(*args, **kwargs)
            if not isinstance(out, Tensor) or not out.is_floating_point() or _version(x) != before:
                raise ArgumentError(
                    f"a row of the composite has a rule for a whole {name}, as {mode.where!r} is; "
                    "that takes a module which makes one float tensor of another, and does not "
                    "write to it."
                )
            y = _ruled(mode, call, out, own)
        finally:
            mode.within = [n - more for n, more in zip(mode.within, inside)]
        mode.note(call, own[0], y)
        return y
    finally:
        mode.running = outer
        if mode.path is not None:
            mode.path.pop()


def _version(t: Tensor) -> int:
    return 0 if compiling() else version(t)


def _ruled(mode: Intercept, call: Call, out: Tensor, own: Own) -> Tensor:
    """The output of a whole module, with its rules.

    Some scale what goes into its true derivative, and some stand in the place of that.
    """
    scale = [rule if getattr(rule, "scales", False) else None for rule in own]
    if any([rule is not None for rule in scale]):
        outcome = Call(Outcome("module"), out, (), call.spelling)
        out = mode.given(mode.site(outcome, scale, out))
    rest = [None if one is not None else rule for rule, one in zip(own, scale)]
    return stand_in(mode, call, out, rest) if any([rule is not None for rule in rest]) else out


def of_two(mode: Intercept, call: Call) -> bool:
    """Whether an operation of one tensor is one of two that depend on the input.

    A linear one has a weight that does, and a clamp limits, among which it chooses.

    Raises:
        HiddenSiteError: it is of complex numbers.
    """
    if call.x.is_complex():
        if mode.strict and call.kind.names[0] not in ("sum", "mean"):
            raise of_complex(mode, call.spelling)
        return True
    if isinstance(call.kind, Activation) and mode.origins is not None:
        return call.kind.activation == "clamp" and any(map(mode.depends, call.tensors))
    weights = call.kind.weights(*call.tensors)
    return weights is not None and mode.depends(weights[0])


def of_complex(mode: Intercept, spelling: str) -> HiddenSiteError:
    """The error of an operation of complex numbers that would have a rule."""
    where = f" at {mode.where!r}" if mode.where else ""
    return HiddenSiteError(
        f"{spelling}{where} is of complex numbers that depend on the input, and rules are for real "
        "ones. Write it by the real and the imaginary part, or pass require_match=False to let "
        "relevance pass it by its true derivative."
    )


def _refuse_two(mode: Intercept, call: Call) -> None:
    """Raises where the weight of a norm depends on the input, a product that no rule would see."""
    norm = isinstance(call.kind, (Norm, GroupNorm, LayerNorm))
    if norm and mode.strict and mode.depends(call.tensors[-2]):
        where = f" at {mode.where!r}" if mode.where else ""
        raise HiddenSiteError(
            f"{call.spelling}{where} multiplies by a weight that depends on the input, a product "
            "that no rule can see. Call it without, and write * weight + bias behind it, or pass "
            "require_match=False to give both the whole relevance."
        )


def elsewhere(mode: Intercept, call: Call, func: Callable[..., Any]) -> bool:
    """Whether an operation would have a rule in another module, or by another name.

    It is a site all the same, so that each ReLU in autograd's graph is one that was not seen.
    """
    if not (mode.strict and mode.path and isinstance(call.kind, Activation)):
        return False
    if of_two(mode, call):
        return False
    alike = call.kind.activation in ELUS and any(
        [not ELUS.isdisjoint(c.activations) for c in mode.composites]
    )
    return alike or any([c.rule(call, func, None) is not None for c in mode.composites])


def collect(
    collected: list[Operation],
    call: Call,
    rule: rules.Rule | None,
    func: Callable[..., Any],
    args: Args,
    kwargs: Kwargs,
) -> Any:
    """The call itself, noted where its rule compares."""
    compares = getattr(rule, "compares", False)
    x = call.x.clone() if compares else call.x  # the model may write to it
    out = func(*args, **kwargs)
    if compares:
        others = [t if t is None else t.clone() for t in call.tensors]
        tensors = (*others, *call.kind.constants(x))
        collected.append(Operation(call.kind, x, tensors, tuple(x.shape), known=out.clone()))
    return out


def compared(
    references: Mapping[int, Iterator[Operation]], kind: Kind, own: Own
) -> Sequence[Operation | None]:
    """For each rule that compares, the operation that this one is compared with.

    Raises:
        FuncattrError: the baseline's forward pass was made of other operations, or the operation
            is in a checkpoint.
    """
    if not references:
        return ()
    found: list[Operation | None] = []
    repeated = not compiling() and saved_tensors_are_hooked(unknown=False)
    for i, rule in enumerate(own):
        if repeated and getattr(rule, "compares", False):
            raise FuncattrError(
                "what runs in a checkpoint (or under other hooks of what autograd saves) is "
                "repeated, where it cannot be compared with the baseline; switch it off."
            )
        found.append(next(references[i], None) if getattr(rule, "compares", False) else None)
        here = kind.kind if isinstance(kind, StandIn) else kind
        other = found[-1]
        if other is not None and other.kind != here:
            found[-1] = other = turned(other, here)
        if getattr(rule, "compares", False) and (other is None or other.kind != here):
            raise FuncattrError(
                "the function calls other operations for the baseline than for the input, so they "
                "cannot be compared; take what it decides by the values of its input out of it."
            )
    return found


@node
def overwrite(x: Tensor, y: Tensor) -> Tensor:
    """``x.copy_(y)``.

    Detaches ``x`` first, so that the backward of ``copy_`` sends no zeros to what ``x`` was before.
    Where gradients are switched off, they do not see the write at all. What is one of many cannot
    be detached so, and a view neither.
    """
    if torch.is_grad_enabled() and not (is_batched(x) or is_view(x)):
        x.detach_()
    return x.copy_(y)
