"""Contexts that a thread can be inside of."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor

from .levels import compiling, levels
from .trees import leaves

T = TypeVar("T")


class _State(threading.local):
    """What this thread is inside of."""

    raw = plain = ruled = False
    see: Callable[[Any], None] | None = None


_local = _State()

# These are functions and no context managers: an interrupt can come between the end of a ``with``
# and the first line of its ``__exit__``, and would leave the thread inside for good. Nothing comes
# before an assignment in a ``finally``.


def raw(f: Callable[..., T], *args: Any) -> T:
    """``f(*args)``, in which every interceptor leaves all calls alone: they are our own."""
    before = _local.raw
    _local.raw = True
    try:
        return f(*args)
    finally:
        _local.raw = before


def is_raw() -> bool:
    """Whether this thread is inside of `raw`."""
    return _local.raw


def plain_pass(f: Callable[..., T], *args: Any) -> T:
    """``f(*args)``, a forward pass of ours in plain autograd."""
    before = _local.plain
    _local.plain = True
    try:
        with torch.enable_grad():
            return f(*args)
    finally:
        _local.plain = before


def within_plain_pass() -> bool:
    """Whether this thread is inside of `plain_pass`: somebody outside will differentiate."""
    return not compiling() and _local.plain


def ruled_call(f: Callable[..., T], *args: Any) -> T:
    """``f(*args)``, a ruled function whose derivative somebody else takes.

    Its rules belong to a level, so that a pass of ours inside of it needs a level of its own.
    """
    before = _local.ruled
    _local.ruled = True
    try:
        return f(*args)
    finally:
        _local.ruled = before


def within_ruled_call() -> bool:
    """Whether this thread is inside of `ruled_call`."""
    return _local.ruled


class watching:
    """Inside of this context ``see`` is called with what a site returns, which no mode sees."""

    def __init__(self, see: Callable[[Any], None]) -> None:
        self.see = see

    def __enter__(self) -> None:
        self.before = _local.see
        _local.see = self.see

    def __exit__(self, *exc: object) -> None:
        _local.see = self.before


def seen(out: Any) -> None:
    """Shows what a site returns to whoever is `watching`."""
    if _local.see is not None:
        _local.see(out)


def tracked(values: Any) -> bool:
    """Whether somebody outside may differentiate what is computed from ``values``."""
    if levels() > 1 or within_plain_pass():
        return True
    return any(isinstance(v, Tensor) and v.requires_grad for v in leaves(values))


def graph_only_if(tracked: bool) -> AbstractContextManager[Any]:
    """No graph, unless somebody outside may differentiate.

    Without this a map would carry the graph of whatever parameters a function closes over.
    """
    if levels() > 1:
        return contextlib.nullcontext()
    if not compiling() and torch.is_inference_mode_enabled():
        return _outside_of_inference_mode()
    return contextlib.nullcontext() if tracked or within_plain_pass() else torch.no_grad()


@contextlib.contextmanager
def _outside_of_inference_mode() -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad():
        yield


def no_autocast(tensors: Sequence[Tensor]) -> AbstractContextManager[Any]:
    """Autocast off, where it is on.

    A backward pass runs in the dtypes of its forward pass, as torch.autocast itself advises.
    """
    device = tensors[0].device.type
    try:
        on = torch.is_autocast_enabled(device)
    except TypeError:  # before torch 2.4
        on = torch.is_autocast_cpu_enabled() if device == "cpu" else torch.is_autocast_enabled()
    return torch.autocast(device, enabled=False) if on else contextlib.nullcontext()


def autocast_dtype(device: torch.device) -> str | None:
    """The type that torch.autocast has products computed in; None where it is not on."""
    one = torch.ones(1, 1, dtype=torch.float32, device=device)
    found = torch.mm(one, one).dtype
    return None if found is one.dtype else str(found)
