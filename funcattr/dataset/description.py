"""What an attribution is made of, as plain values that can be stored and compared."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..methods.attribution import Attribution
from ..operations.composite import Composite

__all__ = ["Description", "digest_of"]

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")  # what they return goes on
_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)
# The values that a function may go by, beside callables of the user's; other objects (a logger)
# lead to everything else.
_GLOBALS = (
    *(nn.Module, Tensor, np.ndarray, int, float, complex, str, bytes),
    *(Mapping, Sequence, Set, *_FUNCTIONS, types.BuiltinFunctionType, type),
)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_INTERNAL = set(vars(nn.Module())) - {"training"}
_LIBRARIES = ("torch", "funcattr", "numpy", "builtins", "math", "_operator", "operator")
_STANDARD = f"{PurePath(os.__file__).parent}{os.sep}"
_PACKAGES = {"site-packages", "dist-packages"}


class Description:
    """Describes values; ``weights`` is the digest of all parameters and buffers met on the way."""

    def __init__(self) -> None:
        self._modules: dict[int, nn.Module] = {}
        self._loose: list[Tensor] = []
        self._inside: set[int] = set()
        self._code: dict[int, tuple[str, Any]] = {}  # with what it is, or its id would go to others
        self._queue: list[Any] = []

    def of(self, value: Any) -> Any:
        """``value`` as something that JSON can hold, the same for the same value."""
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else repr(value)
        if id(value) in self._inside:
            return "(itself)"
        outermost = not self._inside
        self._inside.add(id(value))
        try:
            found = self._of(value)
            if not (outermost and self._queue):
                return found
            code = {"its code": digest_of(json.dumps(list(self._queued())).encode())}
            return {**found, **code} if isinstance(found, dict) else {"value": found, **code}
        finally:
            self._inside.discard(id(value))

    def weights(self) -> str:
        """The digest of the parameters and buffers of all models, and of tensors beside them."""
        digest = hashlib.sha256()
        for module in self._modules.values():
            for named in (module.named_parameters, module.named_buffers):
                for name, tensor in named(remove_duplicate=False):
                    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                    digest.update(_bytes(tensor))
        for tensor in self._loose:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(_bytes(tensor))
        return f"sha256:{digest.hexdigest()}"

    def device(self) -> torch.device | None:
        """Where the first weight is."""
        for module in self._modules.values():
            for tensor in (*module.parameters(), *module.buffers()):
                return tensor.device
        return next((tensor.device for tensor in self._loose), None)

    def _of(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, Tensor):
            self._loose.append(value)
            return f"tensor {value.dtype} {tuple(value.shape)}"
        if isinstance(value, np.ndarray):
            return f"array {value.dtype} {value.shape} {digest_of(value.tobytes())}"
        if isinstance(value, torch.Generator):
            return f"generator {digest_of(_bytes(value.get_state()))}"
        if isinstance(value, Attribution):
            return self.of(value.linearize if value.method is None else value.method)
        if isinstance(value, Composite):
            return [[self.of(where), self.of(rule)] for where, rule in value.rows]
        if isinstance(value, type):
            return _name(value) if _of_library(value) else self._later(value)
        if isinstance(value, _FUNCTIONS):
            return self._function(value)
        if isinstance(value, Mapping):
            return {str(key): self.of(item) for key, item in value.items()}
        if isinstance(value, Set):
            return sorted((self.of(item) for item in value), key=str)
        if isinstance(value, Sequence) and not isinstance(value, (bytes, range)):
            return [self.of(item) for item in value]
        return self._object(value)

    def _object(self, value: Any) -> Any:
        if is_dataclass(value):
            held = {f.name: getattr(value, f.name) for f in fields(value) if f.compare}
        else:
            held = dict(getattr(value, "__dict__", {}))
        kind = self.of(type(value))
        if not held:
            named = hasattr(value, "__qualname__")
            plain = _name(value) if named else _ADDRESS.sub("", repr(value))
            return plain if _of_library(type(value)) else {"type": kind, "value": plain}
        return {"type": kind, **{n: self.of(item) for n, item in held.items()}}

    def _module(self, module: nn.Module) -> str:
        known = id(module) in self._modules
        self._modules.setdefault(id(module), module)
        if known:
            return f"{type(module).__qualname__} (the same)"
        parts = [
            (name, self.of(type(part)), self.of({k: v for k, v in vars(part).items() if _own(k)}))
            for name, part in module.named_modules()
        ]
        hooks = [
            (name, table, self.of(list(vars(part)[table].values())))
            for name, part in module.named_modules()
            for table in _HOOKS
            if vars(part).get(table)
        ]
        text = json.dumps([parts, hooks] if hooks else parts)
        return f"{type(module).__qualname__} {digest_of(text.encode())}"

    def _function(self, value: Any) -> Any:
        if isinstance(value, functools.partial):
            return {"partial": self.of(value.func), "of": self.of([value.args, value.keywords])}
        if isinstance(value, types.MethodType):
            does, whose = self.of(value.__func__), self.of(value.__self__)
            return {"method": value.__qualname__, "function": does, "self": whose}
        module = str(value.__globals__.get("__name__"))  # functools.wraps changes __module__
        home = module.split(".")[0]
        if home in _LIBRARIES and not value.__closure__:
            return _name(value)
        text = f"{_name(value)} {digest_of(_code(value.__code__).encode())}"
        read: dict[str, Any] = {}
        if home in _LIBRARIES or _installed(value.__code__.co_filename):
            # What it calls goes by the version; globals of packages hold caches and registries.
            text += f" {getattr(sys.modules.get(home), '__version__', '')}".rstrip()
        else:
            for name in _names(value.__code__):
                used = value.__globals__.get(name)
                if isinstance(used, types.FunctionType):
                    read[name] = self._later(used)
                elif _matters(used):
                    read[name] = used
        held = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        rest = [value.__defaults__, value.__kwdefaults__, held, read]
        inside = self.of([item for item in rest if item])
        return {"function": text, "holds": inside} if inside else text

    def _later(self, value: Any) -> str:
        """A name for code that is described once, and not from inside of what it is called by.

        Calls go deeper than Python's stack, and by more ways than can be gone.
        """
        if id(value) not in self._code:
            self._code[id(value)] = f"{_name(value)} ({len(self._code)})", value
            self._queue.append(value)
        return self._code[id(value)][0]

    def _queued(self) -> Iterator[Any]:
        """What is left for later, and what that leaves."""
        while self._queue:
            value = self._queue.pop(0)
            if isinstance(value, type):
                yield [self.of(list(value.__mro__[1:])), self.of(_held_by(value))]
            else:
                yield self._function(value)


def digest_of(data: bytes) -> str:
    """A short digest, to tell things apart in a line of text."""
    return hashlib.sha256(data).hexdigest()[:16]


def _own(name: str) -> bool:
    return name not in _INTERNAL


def _name(value: Any) -> str:
    module = getattr(value, "__module__", None)
    return f"{module}.{value.__qualname__}" if module else str(value.__qualname__)


def _of_library(value: Any) -> bool:
    return str(getattr(value, "__module__", None)).split(".")[0] in _LIBRARIES


def _installed(file: str) -> bool:
    """Whether code is Python's own, or of a package with a version."""
    theirs = file.startswith((_STANDARD, "<frozen "))
    return theirs or not _PACKAGES.isdisjoint(PurePath(file).parts)


def _matters(value: Any) -> bool:
    """Whether a global, or an attribute of a class, is what a function may go by."""
    if isinstance(value, _GLOBALS):
        return True
    acts = callable(value) or hasattr(type(value), "__get__")
    return acts and not _of_library(type(value))


def _held_by(kind: type) -> dict[str, Any]:
    """The methods and attributes of a class itself, by their names, without what Python notes."""
    held: dict[str, Any] = {}
    for name, item in sorted(vars(kind).items(), key=lambda pair: pair[0]):
        if isinstance(item, property):
            item = [item.fget, item.fset, item.fdel]
        elif isinstance(item, (staticmethod, classmethod)):
            item = item.__func__
        elif isinstance(item, (functools.cached_property, functools.partialmethod)):
            item = item.func if isinstance(item, functools.cached_property) else vars(item)
        elif name.startswith("__annotate") or (
            name.startswith("__") and name.endswith("__") and not isinstance(item, _FUNCTIONS)
        ):
            continue
        if _matters(item):
            held[name] = item
    return held


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 empty cells raise
    except ValueError:
        return False
    return True


def _names(code: types.CodeType) -> list[str]:
    """The names that a function may read, those of functions inside of it too."""
    inside = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return list(dict.fromkeys([*code.co_names, *(n for c in inside for n in _names(c))]))


def _code(code: types.CodeType) -> str:
    """What a function does, without where it stands."""
    return repr((code.co_code, code.co_names, [_constant(c) for c in code.co_consts]))


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return _code(value)
    if isinstance(value, tuple):
        return str([_constant(item) for item in value])
    if isinstance(value, frozenset):  # whose order is another in every process
        return f"set {sorted(map(_constant, value))}"
    return repr(value)


def _bytes(tensor: Tensor) -> bytes:
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
