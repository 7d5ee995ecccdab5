"""Under which modes of torch a forward and a backward pass run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ._scope import compiling, within_plain
from ._site import levels
from ._tree import leaves


def tracked(values: Any) -> bool:
    """Whether somebody outside may differentiate what is computed from ``values``."""
    if levels() > 1 or within_plain():
        return True
    return any(isinstance(v, Tensor) and v.requires_grad for v in leaves(values))


def graph_only_if(tracked: bool) -> AbstractContextManager[Any]:
    """Without this a map would carry the graph of whatever parameters a function closes over."""
    if tracked or levels() > 1 or within_plain():
        return contextlib.nullcontext()
    if not compiling() and torch.is_inference_mode_enabled():
        return _outside_of_inference_mode()
    return torch.no_grad()


@contextlib.contextmanager
def _outside_of_inference_mode() -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad():
        yield


def no_autocast(tensors: Sequence[Tensor]) -> AbstractContextManager[Any]:
    """Autocast off, where it is on."""
    # A backward pass runs in the dtypes of its forward pass, as torch.autocast itself advises.
    device = tensors[0].device.type
    try:
        on = torch.is_autocast_enabled(device)
    except TypeError:  # before torch 2.4
        on = torch.is_autocast_cpu_enabled() if device == "cpu" else torch.is_autocast_enabled()
    return torch.autocast(device, enabled=False) if on else contextlib.nullcontext()
