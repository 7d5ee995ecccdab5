"""Private structural copies of a module tree, and calls seen from the inside of one."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .errors import ArgumentError

Forward = Callable[..., Any]
# Modules, and what to put around their ``forward``.
Wraps = Sequence[tuple[nn.Module, Callable[[Forward], Forward]]]


def named_tensors(model: nn.Module, *, repeats: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers with their names; tied ones once, or as often as they have names."""
    yield from model.named_parameters(remove_duplicate=not repeats)
    yield from model.named_buffers(remove_duplicate=not repeats)


def _tracking(forward: Callable[..., Any], name: str, path: list[str]) -> Callable[..., Any]:
    def tracked(*args: Any, **kwargs: Any) -> Any:
        path.append(name)
        try:
            return forward(*args, **kwargs)
        finally:
            path.pop()

    tracked.__wrapped__ = forward  # type: ignore[attr-defined] # for whoever asks for its signature
    return tracked


@contextlib.contextmanager
def wrapped(model: nn.Module, path: list[str] | None, wraps: Wraps) -> Iterator[None]:
    """What `Clone` does, to the model itself: for traced code only, where nothing is written."""
    changed = list(wraps)
    if path is not None:
        for name, module in model.named_modules():
            changed.append((module, functools.partial(_tracking, name=name, path=path)))
    own = [(module, module.__dict__.get("forward")) for module, _ in changed]
    for module, wrap in changed:
        module.__dict__["forward"] = wrap(module.forward)
    try:
        yield
    finally:
        for module, forward in reversed(own):
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward


class Clone:
    """Copies the structure of a model and shares its tensors, but for those given by name.

    What a forward pass may write to is copied as well: buffers, plain attributes and containers.
    ``detach`` cuts parameters off from their graph (but for TorchScript's).
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
        self.swap = {id(own[name]): tensor for name, tensor in tensors.items()}
        self.given, self.detach = frozenset(self.swap), detach
        self.copies: dict[int, Any] = {}  # by the identity of what was copied
        self.kept: list[Any] = []
        self.names: dict[str, nn.Module] = {}
        self.root = self._module(model, "")
        for module in self.names.values():
            state = module.__dict__
            for key, value in state.items():
                if type(value) in _ATOMS or key in _SEEN_TO or (key in _OWN and not value):
                    continue
                state[key] = self._value(value)
        self.own = {m: m.__dict__.get("forward") for m in self.names.values()}
        if path is not None:
            for name, module in self.names.items():
                module.__dict__["forward"] = _tracking(module.forward, name, path)
        for original, wrap in wraps:
            inside = self.copies[id(original)]
            inside.__dict__["forward"] = wrap(inside.forward)

    def release(self) -> None:
        """Takes apart what refers to itself, so that no activation waits for the collector."""
        for module, forward in self.own.items():
            if forward is None:
                module.__dict__.pop("forward", None)
            else:  # a checkpoint may yet repeat it
                module.__dict__["forward"] = forward
        self.copies.clear()
        self.kept.clear()

    def _module(self, module: nn.Module, name: str) -> nn.Module:
        if id(module) in self.copies:
            return self.copies[id(module)]  # type: ignore[no-any-return]
        if type(module).__name__ == "OptimizedModule":  # torch.compile hides what is in it
            clone = self._module(module._orig_mod, name)  # type: ignore[arg-type]
        elif isinstance(module, torch.jit.ScriptModule):
            if any(id(tensor) in self.given for tensor in module.parameters()):
                raise ArgumentError(
                    f"{name or 'the model'!r} is TorchScript, whose parameters cannot be replaced; "
                    "leave them out of the parameters, or use the Python module in its place."
                )
            clone = module
        else:
            clone = object.__new__(type(module))
            self.copies[id(module)] = self.names[name] = clone
            state = clone.__dict__
            state.update(module.__dict__)
            state.pop("_compiled_call_impl", None)
            dot = f"{name}." if name else ""
            state["_parameters"] = {
                k: p if p is None else self._tensor(p, dot + k)
                for k, p in module._parameters.items()
            }
            state["_buffers"] = {
                k: b if b is None else self._tensor(b, dot + k, copied=True)
                for k, b in module._buffers.items()
            }
            state["_modules"] = {
                k: m if m is None else self._module(m, dot + k) for k, m in module._modules.items()
            }
        self.copies[id(module)] = clone
        return clone

    def _tensor(self, tensor: Tensor, name: str = "", copied: bool = False) -> Tensor:
        """What stands in the place of a parameter, or of a buffer, which is copied."""
        if id(tensor) in self.swap:
            return self.swap[id(tensor)]
        if is_lazy(tensor):
            raise ArgumentError(
                f"{name!r} is not initialised yet; run the model once on an input before."
            )
        if copied:
            return tensor.clone()
        if self.detach and tensor.requires_grad:
            self.swap[id(tensor)] = tensor.detach()
            return self.swap[id(tensor)]
        return tensor

    def _value(self, value: Any) -> Any:
        """A plain attribute, which may refer to the model's modules and tensors in its own way."""
        kind = type(value)
        if kind in _ATOMS:
            return value
        if id(value) not in self.copies:
            self.kept.append(value)  # an identity holds as long as its object
            self.copies[id(value)] = value  # while it is looked through, since it may hold itself
            self.copies[id(value)] = self._copied(value, kind)
        return self.copies[id(value)]

    def _copied(self, value: Any, kind: type) -> Any:
        if kind in _CONTAINERS:
            items = value.values() if isinstance(value, dict) else value
            if type(next(iter(items), None)) in _ATOMS:
                # Data, and maybe a lot of it.
                return value if isinstance(value, tuple) else value.copy()
            if isinstance(value, dict):
                new = value.copy()
                new.update((k, self._value(v)) for k, v in value.items())
                return new
            values = [self._value(v) for v in value]
            return deque(values, value.maxlen) if isinstance(value, deque) else type(value)(values)
        if kind is types.MethodType:
            return types.MethodType(value.__func__, self._value(value.__self__))
        if kind is functools.partial:
            args = map(self._value, value.args)
            return functools.partial(self._value(value.func), *args, **self._value(value.keywords))
        if kind is types.FunctionType:
            return self._function(value)
        if isinstance(value, Tensor):
            return self._tensor(value, copied=not isinstance(value, nn.Parameter))
        if isinstance(value, (nn.Module, type)) or not hasattr(value, "__dict__"):
            return value
        own = {name: self._value(v) for name, v in vars(value).items()}
        if all(v is vars(value)[name] for name, v in own.items()):
            return value  # an object that knows nothing of the model
        new = copy.copy(value)
        new.__dict__.update(own)
        return new

    def _function(self, value: types.FunctionType) -> types.FunctionType:
        """A function that closes over parts of the model."""
        cells = value.__closure__ or ()
        contents = [cell.cell_contents for cell in cells if _filled(cell)]
        if not any(isinstance(c, nn.Module) and id(c) in self.copies for c in contents):
            return value
        closure = tuple(
            types.CellType(self._value(c.cell_contents)) if _filled(c) else c for c in cells
        )
        new = types.FunctionType(
            value.__code__, value.__globals__, value.__name__, value.__defaults__, closure
        )
        new.__kwdefaults__ = value.__kwdefaults__
        return new


# Of a module's own attributes those that `Clone` treats by themselves, or that hold no reference.
_SEEN_TO = frozenset(("_parameters", "_buffers", "_modules", "training"))
_OWN = frozenset(nn.Module().__dict__)  # mostly tables of hooks, mostly empty
_ATOMS = frozenset(
    (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
)
_CONTAINERS = (list, tuple, set, dict, OrderedDict, defaultdict, deque)


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a variable that is not assigned yet
        return False
