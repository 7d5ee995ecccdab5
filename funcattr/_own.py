"""Cotangents that are nobody else's, so that their memory can be written to.

Autograd hands one cotangent to several nodes, or to whoever asked for it, and hooks may keep it. So
its memory counts as ours only where all that holds it in Python and in C++ is as many as for a
cotangent that certainly has no other holder, which `learn` has measured.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from torch import Tensor

from ._scope import raw

_functorch: Any = torch._C._functorch
_use_count: Any = getattr(Tensor, "_use_count", None)
_learned: dict[bool, set[tuple[Any, ...]]] = {}


def memory(g: Tensor) -> Tensor | None:
    """The memory of ``g`` if it is ours, under one ``torch.vmap`` that of all, with these in front.

    To be called from the ``backward`` of a Function, which has done nothing with ``g`` before.
    """
    many = _functorch.is_batchedtensor(g)
    if many not in _learned or _counts(g) not in _learned[many]:
        return None
    inner = _inner(g)
    usual = type(inner) is Tensor and not _functorch.is_functorch_wrapped_tensor(inner)
    in_front = not many or _functorch.maybe_get_bdim(g) == 0
    return inner if usual and in_front and _dense(inner) else None


def _inner(g: Tensor) -> Tensor:
    return _functorch.get_unwrapped(g) if _functorch.is_batchedtensor(g) else g


def _counts(g: Tensor) -> tuple[Any, ...]:
    """What holds ``g``, what is inside of it, the tensor that this is a view of, and the memory."""
    inner: Any = _inner(g)
    storage, base = inner.untyped_storage(), inner._base
    found = [sys.getrefcount(g), _use_count(g), sys.getrefcount(inner), inner._use_count()]
    if base is not None:
        found += [sys.getrefcount(base), base._use_count()]
    # What came from outside of torch (an array's) cannot be resized.
    return *found, torch._C._storage_Use_Count(storage._cdata), storage.resizable()


def _dense(t: Tensor) -> bool:
    """Whether ``t`` fills its memory, each number once; what reads it next would copy a crop."""
    step = 1
    for stride, size in sorted(zip(t.stride(), t.shape)):
        if size > 1:
            if stride != step:
                return False
            step *= size
    return True


class _Probe(torch.autograd.Function):
    """Sees the counts of its cotangent."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: set[Any]) -> Tensor:
        ctx.seen = seen
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        ctx.seen.add(_seen(g))
        return g, None


def _seen(g: Tensor) -> tuple[Any, ...]:
    return _counts(g)  # at the depth of calls that `memory` has


def learn() -> None:
    """Measures what `memory` goes by, once; without it nothing is ours.

    Outside of transforms. Some versions of torch do not tell the counts.
    """
    if _learned or _use_count is None or torch._C._len_torch_dispatch_stack():
        return
    found: dict[bool, set[Any]] = {False: set(), True: set()}
    with torch.inference_mode(False), torch.enable_grad(), raw():
        for many, seen in found.items():
            x = torch.zeros(2, 2, requires_grad=True)
            fresh = _Probe.apply(x, seen) * 2  # type: ignore[no-untyped-call]
            view = _Probe.apply(x, seen).flatten() * 2  # type: ignore[no-untyped-call]
            for out in fresh, view:
                pull = functools.partial(torch.autograd.grad, out, x)
                c = torch.zeros_like(out)
                if many:
                    torch.vmap(pull)(c.expand(2, *c.shape))
                else:
                    pull(c)
    _learned.update(found)
