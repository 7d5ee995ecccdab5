"""Private structural copies of a model."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..core.private import uncompiled
from ..errors import ArgumentError, uninitialised

Forward = Callable[..., Any]
# Modules, and what to put around their ``forward``.
Wraps = Sequence[tuple[nn.Module, Callable[[Forward], Forward]]]


def named_tensors(model: nn.Module, *, repeats: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers with their names; tied ones once, or as often as they have names."""
    yield from model.named_parameters(remove_duplicate=not repeats)
    yield from model.named_buffers(remove_duplicate=not repeats)


class _Forward:
    """The ``forward`` of a copy, which has its name on top of ``path`` while it runs.

    It does not refer to the copy, so that all that the copy holds is freed with it.
    """

    def __init__(self, module: nn.Module, name: str, path: list[str]) -> None:
        self._module, self._own = weakref.ref(module), module.__dict__.get("forward")
        self._name, self._path = name, path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._path.append(self._name)
        try:
            return self._bound()(*args, **kwargs)
        finally:
            self._path.pop()

    def _bound(self) -> Forward:
        if self._own is not None:
            return self._own  # type: ignore[no-any-return]
        module: Any = self._module()
        return types.MethodType(uncompiled(type(module).forward), module)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._bound())


class Copy:
    """Copies the structure of a model; its tensors are shared, or others stand in their places.

    A forward pass may write to its modules: to buffers, plain attributes, lists, dicts. It gets all
    of these as copies. What refers to the model in its attributes, hooks and functions refers to
    the copy here, as far as that can be found: in containers of any depth, bound methods, partials,
    closures, default arguments, slots. Where a module runs that was not found, `swap` still has
    what stands for its tensors.

    Args:
        model: the model.
        tensors: what stands for some of its parameters and buffers, by name.
        path: where given, has the name of the running module on its top.
        wraps: goes around the ``forward`` of modules; needs a path.
        detach: whether the parameters are cut off from their graph.
    """

    def __init__(
        self,
        model: nn.Module,
        tensors: Mapping[str, Tensor],
        path: list[str] | None = None,
        wraps: Wraps = (),
        detach: bool = False,
    ) -> None:
        own = dict(named_tensors(model, repeats=True)) if tensors else {}
        #: What stands for a tensor of the model, by its identity.
        self.swap = {id(own[name]): tensor for name, tensor in tensors.items()}
        #: The identities of those tensors for which ``tensors`` has another.
        self.given, self._detach = frozenset(self.swap), detach
        self._copies: dict[int, Any] = {}  # by the identity of what was copied
        self._alive: list[Any] = []  # an identity holds as long as its object
        self._names: dict[str, nn.Module] = {}
        #: The parts that are TorchScript, by their paths.
        self.scripted: list[tuple[str, nn.Module]] = []
        self.root = self._module(model, "")
        self._attributes()
        if path is not None:
            for name, module in self._names.items():
                module.__dict__["forward"] = _Forward(module, name, path)
        for original, wrap in wraps:
            inside = self._copies[id(original)]
            inside.__dict__["forward"] = wrap(inside.__dict__["forward"])
            around_hooks = getattr(wrap, "around_hooks", None)
            if around_hooks is not None:
                around_hooks(inside)

    def of(self, module: nn.Module) -> nn.Module | None:
        """The copy of one of the model's modules."""
        return self._copies.get(id(module))

    def _module(self, module: nn.Module, name: str) -> nn.Module:
        if (known := self.of(module)) is not None:
            return known
        plain = uncompiled(module)
        if plain is not module:
            clone = self._module(plain, name)
        elif isinstance(module, torch.jit.ScriptModule):
            if any(id(tensor) in self.given for tensor in module.parameters()):
                raise ArgumentError(
                    f"{name or 'the model'!r} is TorchScript, whose parameters cannot be replaced; "
                    "leave them out of the parameters, or use the Python module in its place."
                )
            clone = module
            self.scripted.append((name, module))
        else:
            clone = object.__new__(type(module))
            self._copies[id(module)] = self._names[name] = clone
            state = clone.__dict__
            state.update(module.__dict__)
            state.pop("_compiled_call_impl", None)
            dot = f"{name}." if name else ""
            state["_parameters"] = {
                k: p if p is None else self._parameter(p, dot + k)
                for k, p in module._parameters.items()
            }
            state["_buffers"] = {
                k: b if b is None else self._buffer(b) for k, b in module._buffers.items()
            }
            state["_modules"] = {
                k: m if m is None else self._module(m, dot + k) for k, m in module._modules.items()
            }
        self._copies[id(module)] = clone
        return clone

    def _parameter(self, tensor: Tensor, name: str) -> Tensor:
        if id(tensor) in self.swap:
            return self.swap[id(tensor)]
        if is_lazy(tensor):
            raise uninitialised(name)
        if self._detach and tensor.requires_grad:
            self.swap[id(tensor)] = tensor.detach()
            return self.swap[id(tensor)]
        return tensor

    def _buffer(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self.swap:
            self.swap[id(tensor)] = tensor.clone()
        return self.swap[id(tensor)]

    def _attributes(self) -> None:
        """Replaces all other attributes of the copied modules."""
        later = []  # functions, since what they close over may be an attribute as well
        for module in self._names.values():
            state = module.__dict__
            for key in state.keys() - _STANDARD:
                kind = type(state[key])
                if kind in _FUNCTIONS:
                    later.append((module, key, state[key]))
                elif kind not in _ATOMS and not (kind is tuple and _is_data(state[key])):
                    state[key] = self._value(state[key], own=True)
            later += [(module, key, state[key]) for key in _TABLES if state.get(key)]
        for module, key, value in later:
            if key in _TABLES and isinstance(value, dict):  # hooks, which are the user's own
                module.__dict__[key] = table = value.copy()
                table.update((k, self._value(v, own=False)) for k, v in value.items())
            else:
                module.__dict__[key] = self._value(value, own=False)

    def _value(self, value: Any, own: bool) -> Any:
        """``value``, or what stands for it.

        With ``own`` it is the model's, which may write to it; otherwise it is of somebody who
        refers to the model, and is copied only where it does.
        """
        kind = type(value)
        if kind in _ATOMS:
            return value
        if id(value) not in self._copies:
            self._alive.append(value)
            self._copies[id(value)] = value  # while it is looked through, since it may hold itself
            self._copies[id(value)] = self._copied(value, kind, own)
        return self._copies[id(value)]

    def _copied(self, value: Any, kind: type, own: bool) -> Any:
        if isinstance(value, Tensor):
            if own and not isinstance(value, nn.Parameter):
                return self._buffer(value)
            return self.swap.get(id(value), value)
        if isinstance(value, (nn.Module, type)) or kind in _OPAQUE:
            return value  # one of another model, or of no model
        if kind in _CONTAINERS or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
            return self._container(value, kind, own)
        if kind is types.MethodType:
            inside = self._value(value.__self__, own=False)
            same = inside is value.__self__
            return value if same else types.MethodType(value.__func__, inside)
        if kind is functools.partial:
            func = self._value(value.func, own=False)
            args, kwargs = self._value(value.args, False), self._value(value.keywords, False)
            same = func is value.func and args is value.args and kwargs is value.keywords
            return value if same else functools.partial(func, *args, **kwargs)
        if kind is types.FunctionType:
            return self._function(uncompiled(value))
        return self._object(value) if own else value

    def _container(self, value: Any, kind: type, own: bool) -> Any:
        items = [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
        new = items if _is_data(items) else [self._value(item, own) for item in items]
        same = all(a is b for a, b in zip(items, new))
        if same and (not own or isinstance(value, tuple)):
            return value
        if isinstance(value, dict):
            other = value.copy()
            other.clear()
            other.update(zip(new[: len(value)], new[len(value) :]))
            return other
        if kind is deque:
            return deque(new, value.maxlen)
        return kind(*new) if hasattr(kind, "_fields") else kind(new)

    def _function(self, value: types.FunctionType) -> types.FunctionType:
        cells = value.__closure__ or ()
        closure = tuple(map(self._cell, cells))
        defaults = self._value(value.__defaults__, own=False)
        by_keyword = self._value(value.__kwdefaults__, own=False)
        if (
            all(a is b for a, b in zip(cells, closure))
            and defaults is value.__defaults__
            and by_keyword is value.__kwdefaults__
        ):
            return value
        new = types.FunctionType(
            value.__code__, value.__globals__, value.__name__, defaults, closure
        )
        new.__kwdefaults__ = by_keyword
        new.__dict__.update(value.__dict__)
        return new

    def _cell(self, cell: types.CellType) -> types.CellType:
        if id(cell) not in self._copies:
            self._alive.append(cell)
            self._copies[id(cell)] = cell
            try:
                contents = cell.cell_contents
            except ValueError:  # a variable that is not assigned yet
                return cell
            new = self._value(contents, own=False)
            if new is not contents:
                self._copies[id(cell)] = types.CellType(new)
        copied: types.CellType = self._copies[id(cell)]
        return copied

    def _object(self, value: Any) -> Any:
        """An object of any class, copied where it knows something of the model."""
        slots = [s for c in type(value).__mro__ for s in _slots(c) if hasattr(value, s)]
        state = {**getattr(value, "__dict__", {}), **{s: getattr(value, s) for s in slots}}
        new = {name: self._value(v, own=True) for name, v in state.items()}
        if all(v is state[name] for name, v in new.items()):
            return value
        other = copy.copy(value)
        for name, v in new.items():
            object.__setattr__(other, name, v)
        return other


def _is_data(items: Sequence[Any]) -> bool:
    """Whether nothing of a model is in it; there are many of those, and some are large."""
    return _ATOMS.issuperset(map(type, items))


def _slots(cls: type) -> Sequence[str]:
    slots = cls.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else slots
    return [name for name in names if name not in ("__dict__", "__weakref__")]


# Of a module's attributes those that are copied by themselves, and its tables of hooks.
_SEEN_TO = frozenset(("_parameters", "_buffers", "_modules", "training"))
_STANDARD = frozenset(nn.Module().__dict__)
_TABLES = _STANDARD - _SEEN_TO
# What is no part of a model, and leads to everything else.
_OPAQUE = frozenset(
    (types.ModuleType, logging.Logger, type(torch.ops.aten.relu), type(torch.ops.aten.relu.default))
)
_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)
_ATOMS = frozenset(
    (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
)
_CONTAINERS = (list, tuple, set, dict, OrderedDict, defaultdict, deque)
