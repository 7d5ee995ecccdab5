"""What a store holds by now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .store import Store

__all__ = ["Summary", "summary"]

_LISTED = 10


@dataclass(frozen=True)
class Summary:
    """What came of a sweep.

    Args:
        store: where it is.
        examples: how many there are.
        done: of how many the maps are there.
        smaller: of how many of these they were made in smaller pieces, since memory or another
            example made the batch fail; they are right to rounding.
        missing: how many nobody has tried yet; other processes may be at it.
        failed: the numbers of those that failed, each with its error.
        computed: how many this call has tried.
        seconds: how long that took.
    """

    store: str
    examples: int
    done: int
    smaller: int
    missing: int
    failed: Sequence[tuple[int, str]]
    computed: int = 0
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether the maps of every example are there."""
        return self.done == self.examples

    @property
    def exit_status(self) -> int:
        """0, or 1 where examples failed."""
        return 1 if self.failed else 0

    def __str__(self) -> str:
        parts = [f"{self.store}: {self.done} of {self.examples} examples done"]
        if self.smaller:
            parts.append(f"{self.smaller} of them in smaller pieces")
        parts.append(f"{len(self.failed)} failed, {self.missing} missing")
        if self.computed:
            parts.append(f"{self.computed} tried here in {self.seconds:.1f} s")
        lines = ["; ".join(parts)]
        lines += [f"  example {number}: {text}" for number, text in self.failed[:_LISTED]]
        if len(self.failed) > _LISTED:
            lines.append(f"  and {len(self.failed) - _LISTED} more")
        return "\n".join(lines)


def summary(store: Store, computed: int = 0, seconds: float = 0.0) -> Summary:
    """Of a store, while it is written or after."""
    status = store.status()
    count: Any = np.bincount(status, minlength=4)
    return Summary(
        store.name, len(status), int(count[1] + count[2]), int(count[2]), int(count[0]),
        store.errors() if count[3] else [], computed, seconds,
    )  # fmt: skip
