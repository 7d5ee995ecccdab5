"""A bar for long work."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import ArgumentError, check_flags


class _Quiet:
    def __enter__(self) -> _Quiet:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def update(self, n: int) -> None: ...


def bar(count: int, unit: str, progress: bool, delay: float = 0.0) -> Any:
    """A bar of tqdm's where the output is a terminal, after so many seconds; or none.

    Raises:
        ArgumentError: ``progress`` is asked for, and tqdm is not installed; or it is no bool.
    """
    check_flags(progress=progress)
    if not progress:
        return _Quiet()
    try:
        tqdm = importlib.import_module("tqdm.auto").tqdm
    except ImportError as error:
        raise ArgumentError(
            "progress=True needs tqdm: pip install 'funcattr[progress]', or leave progress out."
        ) from error
    return tqdm(total=count, unit=unit, disable=None, delay=delay)
