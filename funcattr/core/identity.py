"""What is known of tensors, by their identity."""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

from torch import Tensor

from .levels import compiling

T = TypeVar("T")


class ByIdentity(Generic[T]):
    """Maps tensors to values, for as long as they live. Code that is traced knows no identities."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], T]] = {}
        self._traced: list[tuple[Tensor, T]] = []

    def get(self, t: object) -> T | None:
        """What was set last for this very tensor."""
        if compiling():
            found = [value for known, value in self._traced if known is t]
            return found[-1] if found else None
        known = self._known.get(id(t))
        return known[1] if known is not None and known[0]() is t else None

    def set(self, t: Tensor, value: T) -> None:
        """Sets it."""
        if compiling():
            self._traced.append((t, value))
            return
        key, known = id(t), self._known

        def gone(dead: weakref.ref[Tensor]) -> None:
            if key in known and known[key][0] is dead:
                del known[key]

        known[key] = weakref.ref(t, gone), value

    def clear(self) -> None:
        """Forgets all."""
        self._known.clear()
        self._traced.clear()
