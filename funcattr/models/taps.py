"""Taps: a layer's activation seen, and put in the reach of a derivative, without a hook."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.levels import compiling
from ..core.private import uncompiled, version
from ..core.trees import pack
from ..errors import LayerError, nearest
from .copies import Forward, Wraps
from .functional import module_of

Layer = str | nn.Module
# (layer, call, tensors) -> the tensors to go on with
Visit = Callable[[int, int, list[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class Tapped:
    """One layer of a model, and which of its calls: -1 is the last."""

    module: nn.Module
    name: str
    occurrence: int

    @property
    def reads(self) -> bool:
        """Whether it leaves its input alone (as far as it says)."""
        return not getattr(self.module, "inplace", False)


def several(layer: Layer | Sequence[Layer]) -> tuple[tuple[Layer, ...], bool]:
    """One layer or several as a tuple, and whether it was several."""
    if isinstance(layer, (list, tuple)):
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
        raise LayerError(f"a layer is a dotted path or a module; got {layer!r}.")
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


class Taps:
    """Lets ``visit`` see, and replace, what goes out of (or into) layers.

    After the forward pass `check` raises where a layer never ran.
    """

    def __init__(self, layers: Sequence[Tapped], at_input: bool, visit: Visit) -> None:
        self.layers, self.at_input, self.visit = layers, at_input, visit
        self.calls = [0] * len(layers)

    def wraps(self) -> Wraps:
        """For `functional.call`."""
        return [(tap.module, self._wrap(i)) for i, tap in enumerate(self.layers)]

    def _wrap(self, i: int) -> Callable[[Forward], Forward]:
        around = self._around_input if self.at_input else self._around_output

        def wrap(forward: Forward) -> Forward:
            return lambda *args, **kwargs: around(i, forward, args, kwargs)

        return wrap

    def _visited(self, i: int, value: Any) -> Any:
        tensors, unpack = pack(value)
        floats = [n for n, t in enumerate(tensors) if t.is_floating_point() or t.is_complex()]
        if not floats:
            came = ", ".join(str(t.dtype) for t in tensors) or type(value).__name__
            raise LayerError(
                f"the {'input' if self.at_input else 'output'} of layer {self.layers[i].name!r} "
                f"holds no float tensor to explain; it is {came}."
            )
        call, self.calls[i] = self.calls[i], self.calls[i] + 1
        new = list(tensors)
        for n, tensor in zip(floats, self.visit(i, call, [tensors[n] for n in floats])):
            new[n] = tensor
        return unpack(new)

    def _around_output(
        self, i: int, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self.layers[i].reads or not args:
            return self._visited(i, forward(*args, **kwargs))
        # Others read what it writes; but what it saves for its backward must stay as it is.
        out = forward(args[0].clone(), *args[1:], **kwargs)
        return args[0].copy_(self._visited(i, out))

    def _around_input(
        self, i: int, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        new, more = self._visited(i, (args, kwargs))
        before = _versions((args, kwargs))
        out = forward(*new, **more)
        if self.layers[i].reads:
            if _versions((args, kwargs)) != before:
                raise LayerError(
                    f"layer {self.layers[i].name!r} writes to its own input, which then is no "
                    "longer there to be explained; explain the output of the layer before it."
                )
            return out
        return args[0].copy_(out)

    def check(self) -> list[int]:
        """The number of the call that each layer stands for."""
        chosen = []
        for tap, calls in zip(self.layers, self.calls):
            if calls == 0:
                raise LayerError(
                    f"layer {tap.name!r} exists, but this forward pass never calls it. "
                    "Choose a layer that runs (a module that is only a container does not)."
                )
            if tap.occurrence >= calls:
                raise LayerError(
                    f"layer {tap.name!r} is called {calls} time{'s' if calls > 1 else ''}; "
                    f"{tap.name}:{tap.occurrence} "
                    f"does not exist, the last is {tap.name}:{calls - 1}."
                )
            chosen.append(calls - 1 if tap.occurrence < 0 else tap.occurrence)
        return chosen


def _versions(values: Any) -> list[int]:
    return [] if compiling() else [version(t) for t in pack(values)[0]]
