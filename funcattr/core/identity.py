"""What is known of tensors, by their identity, and what is read in the place of some."""

from __future__ import annotations

import weakref
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from .graph import new_key, note_writes, refuse_writes
from .levels import compiling
from .private import version
from .trees import pack

T = TypeVar("T")
Args = tuple[Any, ...]
Kwargs = dict[str, Any]

_WRITTEN = (
    "between two operations that rules put together, as a convolution and its batch norm, or a "
    "gate and what it multiplies, the model writes to a tensor of one by a view or another name of "
    "it, which compiled code cannot follow. Call the attribution without torch.compile, or write "
    "x = ... out of place there."
)


class Entry(NamedTuple):
    """What is known of a tensor, and how often that and its base were written to by then."""

    value: Any
    base: Tensor | None
    own: int
    bases: int


class Traced(NamedTuple):
    """The same in traced code, which sees writes to the very tensor, and no counts.

    Others (to a view of it) are noticed by nodes of the graph, under ``key``.
    """

    t: Tensor
    value: Any
    base: Tensor | None
    intact: bool
    key: str


class ByIdentity(Generic[T]):
    """Maps tensors to values, for as long as they live and nobody writes to them.

    A value may rest on another tensor as well, its base.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], Entry]] = {}
        self._traced: list[Traced] = []

    def get(self, t: object) -> tuple[T, bool] | None:
        """What was set last for this very tensor, and whether its base is as it was then."""
        if compiling():
            return self._get_traced(t)
        ref, entry = self._known.get(id(t), (None, None))
        if ref is None or entry is None or not isinstance(t, Tensor) or ref() is not t:
            return None
        if version(t) != entry.own:
            return None
        return entry.value, entry.base is None or version(entry.base) == entry.bases

    def set(self, t: Tensor, value: T, base: Tensor | None = None) -> None:
        """Sets it."""
        if compiling():
            name = new_key()
            note_writes(t, name)
            if base is not None:
                note_writes(base, f"{name} base")
            self._traced.append(Traced(t, value, base, True, name))
            return
        key, known = id(t), self._known

        def gone(dead: weakref.ref[Tensor]) -> None:
            if key in known and known[key][0] is dead:
                del known[key]

        entry = Entry(value, base, version(t), 0 if base is None else version(base))
        known[key] = weakref.ref(t, gone), entry

    def _get_traced(self, t: object) -> tuple[T, bool] | None:
        found = [entry for entry in self._traced if entry.t is t]
        if not found:
            return None
        entry = found[-1]
        refuse_writes(entry.t, entry.key, _WRITTEN, False)
        if entry.base is not None and entry.intact:
            refuse_writes(entry.base, f"{entry.key} base", _WRITTEN, False)
        return entry.value, entry.intact

    def written(self, t: Tensor) -> None:
        """Is told of a call that writes to this very tensor."""
        others = [entry for entry in self._traced if entry.t is not t]
        self._traced = [
            entry._replace(intact=False) if entry.base is t else entry for entry in others
        ]

    def clear(self) -> None:
        """Forgets all."""
        self._known.clear()
        self._traced.clear()


class Stands:
    """Tensors in the place of others, wherever these are read.

    A derivative at a layer is taken at a tensor that is put in the place of its output. Who kept
    the output aside (a forward hook, the layer itself) and reads it later is to read that one, too.
    """

    def __init__(self) -> None:
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}  # by the identity of the first
        self._traced: list[tuple[Tensor, Tensor]] = []

    def __bool__(self) -> bool:
        return bool(self._pairs or self._traced)

    def put(self, old: Tensor, new: Tensor) -> None:
        """Puts ``new`` in the place of ``old``, and of what ``old`` stands for."""
        if old is new:
            return
        if compiling():  # where a tensor has no identity but ``is``
            pairs = [(a, new if b is old else b) for a, b in self._traced if a is not old]
            self._traced = [*pairs, (old, new)]
            return
        for a, b in list(self._pairs.values()):
            if b is old:
                self._pairs[id(a)] = a, new
        self._pairs.pop(id(new), None)  # a layer that writes in place gives what it got
        self._pairs[id(old)] = old, new

    def arguments(self, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        """The arguments to go on with."""
        if any(map(self._among, args)):
            args = tuple(map(self._instead, args))
        if kwargs and any(map(self._among, kwargs.values())):
            kwargs = {name: self._instead(value) for name, value in kwargs.items()}
        return args, kwargs

    def returned(self, out: Any) -> Any:
        """What the model returns."""
        tensors, unpack = pack(out)
        others = list(map(self._instead, tensors))
        return unpack(others) if any([a is not b for a, b in zip(tensors, others)]) else out

    def _among(self, value: Any) -> bool:
        if type(value) is list or type(value) is tuple:
            return any(map(self._among, value))
        return isinstance(value, Tensor) and self._of(value) is not value

    def _instead(self, value: Any) -> Any:
        if type(value) is list or type(value) is tuple:
            return type(value)(map(self._instead, value))
        return self._of(value) if isinstance(value, Tensor) else value

    def _of(self, t: Tensor) -> Tensor:
        if compiling():
            found = [new for old, new in self._traced if old is t]
            return found[0] if found else t
        return self._pairs[id(t)][1] if id(t) in self._pairs else t
