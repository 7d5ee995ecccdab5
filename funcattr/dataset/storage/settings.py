"""The settings that a store was made with, and how those of another call differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import ArgumentError

__all__ = ["check_same", "differences"]

_SHOWN = 4


def check_same(stored: Mapping[str, Any], asked: Mapping[str, Any], place: str) -> None:
    """Raises where a store cannot be gone on with.

    Raises:
        ArgumentError: a setting differs.
    """
    found = list(differences(stored, asked))
    if not found:
        return
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise ArgumentError(
        f"the store {place} was made with other settings: {'; '.join(found[:_SHOWN])}{more}. Go on "
        "with the settings it has, or give another store."
    )


def differences(stored: Any, asked: Any, path: str = "") -> Iterator[str]:
    """Each setting that is not the same in both, with both values.

    >>> list(differences({"dtype": "float32", "batch": 8}, {"dtype": "float16", "batch": 8}))
    ["dtype is 'float32' there, 'float16' here"]
    """
    if isinstance(stored, Mapping) and isinstance(asked, Mapping):
        for key in dict.fromkeys([*stored, *asked]):
            inside = f"{path}.{key}" if path else str(key)
            yield from differences(stored.get(key), asked.get(key), inside)
    elif isinstance(stored, list) and isinstance(asked, list) and len(stored) == len(asked):
        for i, (one, other) in enumerate(zip(stored, asked)):
            yield from differences(one, other, f"{path}[{i}]")
    elif stored != asked:
        yield f"{path} is {_short(stored)} there, {_short(asked)} here"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
