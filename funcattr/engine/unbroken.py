"""Calls that the compiler takes as a whole, or leaves to Python as a whole."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from ..core.private import CAN_COMPILE

P = ParamSpec("P")
T = TypeVar("T")


class _Unbroken:
    """In a context of a class that it does not know, dynamo breaks no graph: it leaves the frame.

    So a frame under one is traced to its end, or not at all.
    """

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, *error: object) -> None:
        """Nothing."""


def unbroken(f: Callable[P, T]) -> Callable[P, T]:
    """``f``, of which no part is compiled where another is not.

    Where a model breaks the graph, dynamo would go on to compile single functions of ours, which
    then take for granted that all is traced (`compiling`), with what others made that were not.
    """
    if not CAN_COMPILE:
        return f

    @functools.wraps(f)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with _Unbroken():
            # Nothing is compiled where the compiler was never imported. Not `compiling`, which is a
            # function of ours that dynamo may compile by itself.
            if torch.compiler.is_dynamo_compiling() or "torch._dynamo" not in sys.modules:
                return f(*args, **kwargs)
            return _by_python(f)(*args, **kwargs)  # type: ignore[no-any-return]

    return call


@functools.cache
def _by_python(f: Callable[P, T]) -> Callable[P, T]:
    return torch.compiler.disable(f)  # type: ignore[no-any-return]
