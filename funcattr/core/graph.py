"""Functions that stand in a compiled graph by themselves.

Marking them imports the compiler, so they are only noted here; `funcattr.core.compiler` marks all
of them when the compiler first traces.
"""

from __future__ import annotations

import itertools
import threading
import uuid
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import resolve_name

from ..errors import FuncattrError, HiddenSiteError, LayerError
from .private import CAN_COMPILE, share_memory, version

F = TypeVar("F", bound=Callable[..., Any])

nodes: list[Callable[..., Any]] = []
constants: list[Callable[..., Any]] = []
shown: list[Callable[..., Any]] = []


def check_compiler() -> None:
    """Raises where this torch cannot compile what this library does."""
    if not CAN_COMPILE:
        raise FuncattrError(
            "funcattr compiles with torch 2.13 and later; the compiler of this older torch would "
            "lose rules and layers. Call it without torch.compile, and sweep without compile=True."
        )


def node(f: F) -> F:
    """Notes that a call of ``f`` is one node of a graph, which AOTAutograd traces and fuses.

    Dynamo refuses to trace an ``autograd.Function`` that has a ``jvp``, and fails on ``vmap`` over
    one. The arguments of a node are tensors, plain values, and frozen dataclasses of such.
    """
    nodes.append(f)
    return f


def constant(f: F) -> F:
    """Notes that ``f`` is called while the compiler traces, and its result a part of the graph."""
    constants.append(f)
    return f


def show(*functions: Callable[..., Any]) -> None:
    """Notes torch functions that a mode has to see in traced code, too."""
    shown.extend(functions)


_named: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_lasting: dict[str, Any] = {}  # what cannot be referred to weakly, such as a method of a C type
_lock = threading.Lock()


@constant
def name_of(value: Any) -> str:
    """A name for any object, by which a graph can refer to it.

    No two objects ever have the same, in this process or another, so that no cache of graphs can
    take one for the other.
    """
    with _lock:
        # Not the items: what is freed in another thread leaves them while they are gone through.
        for ref in _named.valuerefs():
            if ref() is value:
                return ref.key
        for name, known in _lasting.items():
            if known is value:
                return name
        name = f"{getattr(value, '__name__', type(value).__name__)}-{uuid.uuid4().hex}"
        if _is_torchs(value):
            _lasting[name] = value  # where traced code can look it up
            return name
        try:
            _named[name] = value
        except TypeError:
            _lasting[name] = value
        return name


def _is_torchs(value: Any) -> bool:
    """Whether it is a function of torch's."""
    try:
        return bool(resolve_name(value))
    except TypeError:  # of what cannot be a key
        return False


def named(name: str) -> Any:
    """The object of that name."""
    return _lasting[name] if name in _lasting else _named[name]


# How often a tensor was written to, which traced code cannot read. The nodes of its graph can,
# while the compiler traces them, and refuse.
_keys = itertools.count()
_counts: dict[str, int | None] = {}


@constant
def new_key() -> str:
    """A key for `note_writes`."""
    return str(next(_keys))


@node
def note_writes(t: Tensor, key: str, *pair: Tensor) -> Tensor:
    """Notes how often ``t`` was written to; where a pair is given, only if that shares memory."""
    _counts[key] = version(t) if not pair or share_memory(*pair) else None
    return torch.empty(0)


@node
def refuse_writes(t: Tensor, key: str, why: str, at_layer: bool) -> Tensor:
    """Raises where ``t`` was written to since it was noted."""
    if _counts[key] not in (None, version(t)):
        raise (LayerError if at_layer else HiddenSiteError)(why)
    return torch.empty(0)
