"""Operations of a forward pass for a baseline, which rules compare others with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .. import rules
from ..errors import FuncattrError
from .kinds.stand_in import StandIn
from .operation import Args, Call, Kind, Kwargs, Operation


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
        tensors = (*call.tensors, *call.kind.constants(x))
        collected.append(Operation(call.kind, x, tensors, tuple(x.shape), known=out.clone()))
    return out


def compared(
    references: Mapping[int, Iterator[Operation]], kind: Kind, own: Sequence[rules.Rule | None]
) -> Sequence[Operation | None]:
    """For each rule that compares, the operation that this one is compared with.

    Raises:
        FuncattrError: the baseline's forward pass was made of other operations.
    """
    if not references:
        return ()
    found: list[Operation | None] = []
    for i, rule in enumerate(own):
        found.append(next(references[i], None) if getattr(rule, "compares", False) else None)
        here = kind.kind if isinstance(kind, StandIn) else kind
        other = found[-1]
        if getattr(rule, "compares", False) and (other is None or other.kind != here):
            raise FuncattrError(
                "the function calls other operations for the baseline than for the input, so they "
                "cannot be compared; take what it decides by the values of its input out of it."
            )
    return found
