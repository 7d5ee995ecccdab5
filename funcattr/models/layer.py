"""Which layer of a model a path, or a module, stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..core.private import uncompiled
from ..errors import ArgumentError, LayerError, nearest, short
from .functional import module_of

Layer = str | nn.Module


@dataclass(frozen=True)
class Tapped:
    """One layer of a model, and which of its calls: -1 is the last."""

    module: nn.Module
    name: str
    occurrence: int

    @property
    def writes(self) -> bool:
        """Whether it says of itself that it writes to its input; some do and do not say so."""
        return bool(getattr(self.module, "inplace", False))


def several(layer: Layer | Sequence[Layer]) -> tuple[tuple[Layer, ...], bool]:
    """One layer or several as a tuple, and whether it was several.

    Raises:
        ArgumentError: there is none.
    """
    if isinstance(layer, (list, tuple)):
        if not layer:
            raise ArgumentError("layer is a layer or a list of them; got an empty list.")
        return tuple(layer), True
    one: Any = layer
    return (one,), False


def tapped(func: Callable[..., Any], layer: Layer) -> Tapped:
    """The layer that a path or a module stands for.

    Raises:
        LayerError: there is none, or it cannot be tapped.
    """
    model = module_of(func)
    if model is None:
        raise LayerError(
            f"a layer is a part of a module; got {getattr(func, '__name__', func)!r}, which is a "
            "plain function. Pass the module, or the f of make_functional."
        )
    if isinstance(layer, nn.Module):
        names = [name for name, module in model.named_modules() if module is layer]
        if not names:
            raise LayerError(
                f"the {type(layer).__name__} that was given as a layer is no part of this "
                f"{type(model).__name__}. Take it from the same model, or name it by its path."
            )
        found = Tapped(layer, names[0], -1)
    elif isinstance(layer, str):
        path, colon, number = layer.rpartition(":")
        if not (colon and number.isdigit()):
            path, number = layer, "-1"
        found = Tapped(_by_path(model, path), path, int(number))
    else:
        raise LayerError(f"a layer is a dotted path or a module; got {short(layer)}.")
    if isinstance(found.module, torch.jit.ScriptModule):
        raise LayerError(
            f"layer {found.name!r} is TorchScript, which cannot be looked into; use the Python "
            "module in its place, or the module around it."
        )
    return Tapped(uncompiled(found.module), found.name, found.occurrence)


def _by_path(model: nn.Module, path: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if path in modules:
        return modules[path]
    known = path
    while known not in modules:
        known = known.rpartition(".")[0]
    there = modules[known]
    where = f"{known!r} exists, a {type(there).__name__}, and has" if known else "The model has"
    parts = ", ".join(repr(name) for name, _ in there.named_children()) or "no parts"
    raise LayerError(f"the model has no layer {path!r}. {where} {parts}.{nearest(path, modules)}")
