"""Inputs, and tables of models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..subject import Subject

Build = Callable[[], Subject]


def image(size: int = 64, channels: int = 3, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, size, size)


def table(
    names: Iterable[str] | Mapping[str, Any], make: Callable[..., Subject]
) -> dict[str, Build]:
    """``make(name)`` for each name, ``make(name, value)`` where they are a mapping."""
    if isinstance(names, Mapping):
        return {name: functools.partial(make, name, value) for name, value in names.items()}
    return {name: functools.partial(make, name) for name in names}


def named(*builds: Callable[[], Subject]) -> dict[str, Build]:
    """Functions by their own names."""
    return {build.__name__: build for build in builds}


def listed(text: str) -> list[str]:
    """Names with blanks between."""
    return text.split()
