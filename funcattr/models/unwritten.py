"""Models whose plain attributes are put back after compiled code has written to them."""

from __future__ import annotations

import inspect
import types
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from ..core.private import version

_STANDARD = frozenset(nn.Module().__dict__) - {"training"}
_CONTAINERS = (dict, list, set, deque)


def models_in(*values: Any) -> list[nn.Module]:
    """The models in dataclasses, tuples, and variables of functions."""
    found: dict[int, Any] = {}
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if id(value) in found:
            continue
        found[id(value)] = value
        if isinstance(value, nn.Module):
            continue
        if isinstance(value, tuple):
            waiting += value
        elif is_dataclass(value) and not isinstance(value, type):
            waiting += [getattr(value, field.name) for field in fields(value) if field.compare]
        elif isinstance(value, types.FunctionType):
            used = inspect.getclosurevars(value)
            held = {**used.globals, **used.nonlocals}.values()
            waiting += [v for v in held if isinstance(v, (nn.Module, types.FunctionType))]
    return [value for value in found.values() if isinstance(value, nn.Module)]


class Undo:
    """What brings plain attributes of models, lists and dicts in them too, back to what they are.

    In eager a forward pass writes to a private copy. Code that is compiled runs on the model, and
    writes its attributes at the end, when the next call would begin with others.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._seen: dict[int, Any] = {}  # an identity holds as long as its object
        self._steps: list[Callable[[], bool]] = []
        for module in dict.fromkeys(part for model in models for part in model.modules()):
            self._attributes(module)

    def __call__(self) -> bool:
        """Puts back what was written; whether anything was."""
        return any([step() for step in self._steps])

    def _attributes(self, value: Any) -> None:
        """Of a module, or of another object that a module holds."""
        standard: frozenset[str] = _STANDARD if isinstance(value, nn.Module) else frozenset()
        now = {k: v for k, v in vars(value).items() if k not in standard}

        def back() -> bool:
            held = vars(value)
            added = [name for name in held if name not in now and name not in standard]
            for name in added:
                del held[name]
            others = {k: v for k, v in now.items() if k not in held or held[k] is not v}
            held.update(others)
            return bool(added or others)

        self._steps.append(back)
        for inside in now.values():
            self._look(inside)

    def _look(self, value: Any) -> None:
        if id(value) in self._seen or isinstance(value, (nn.Module, type, types.ModuleType)):
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, _CONTAINERS):
            self._container(value)
        elif isinstance(value, tuple):
            for item in value:
                self._look(item)
        elif hasattr(value, "__dict__") and _is_of_users(type(value)):
            self._attributes(value)

    def _tensor(self, value: Tensor) -> None:
        if value.requires_grad:
            return  # a parameter under another name
        now, before = value.clone(), version(value)

        def back() -> bool:
            changed = version(value) != before
            if changed:
                value.copy_(now)
            return changed

        self._steps.append(back)

    def _container(self, value: Any) -> None:
        now = _items(value)

        def back() -> bool:
            new = _items(value)
            changed = len(new) != len(now) or any(a is not b for a, b in zip(new, now))
            if changed:
                value.clear()
                if isinstance(value, dict):
                    value.update(zip(now[::2], now[1::2]))
                else:
                    (value.update if isinstance(value, set) else value.extend)(now)
            return changed

        self._steps.append(back)
        for item in now:
            self._look(item)


def _items(value: Any) -> list[Any]:
    """What a container holds; of a dict its keys too."""
    return [x for pair in value.items() for x in pair] if isinstance(value, dict) else list(value)


def _is_of_users(kind: type) -> bool:
    """Not of what leads to everything else (functions, partials), nor of torch's own."""
    return kind.__module__.partition(".")[0] not in ("builtins", "torch", "functools")
