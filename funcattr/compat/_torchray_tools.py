"""TorchRay's contexts and probes; their names are those of `funcattr.compat.torchray`."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import rules
from ..core.contexts import raw
from ..core.levels import apply, levels
from ..core.trees import pack
from ..operations.composite import Composite
from ..operations.intercept import Intercept
from ..operations.kinds.activation import CALLS
from ..operations.operation import Args, Call, Kwargs

__all__ = [
    "DeConvNetContext",
    "DeconvNetContext",
    "GuidedBackpropContext",
    "NullContext",
    "Probe",
    "ReLUContext",
]


class NullContext:
    """Changes nothing."""

    def __enter__(self) -> NullContext:
        return self

    def __exit__(self, *exc: object) -> None: ...


class _Mode(Intercept):
    """Sees ReLUs and nothing else; a rule belongs to the level that is innermost at the ReLU."""

    def __init__(self, composite: Composite, function: Any) -> None:
        super().__init__([composite], depth=0)
        self.function = function

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Args = (), kwargs: Kwargs | None = None
    ) -> Any:
        if func in CALLS:
            return super().__torch_function__(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))

    def site(self, call: Call, own: Sequence[rules.Rule | None], x: Tensor) -> Tensor:
        if self.function is None:
            self.depth = levels()
            return super().site(call, own, x)
        # An outer context leaves alone what the function calls.
        out: Tensor = raw(apply, self.function, x)
        return out


class ReLUContext:
    """Within, every ReLU of this thread is ``relu_func.apply``.

    Args:
        relu_func: a class, of ``torch.autograd.Function``, of one argument.

    >>> with GuidedBackpropContext():
    ...     x = torch.tensor([1.0, 0.0, 2.0], requires_grad=True)
    ...     torch.relu(x).backward(torch.tensor([3.0, 3.0, -3.0]))
    >>> x.grad
    tensor([3., 3., 0.])
    """

    # A Function of the user's replaces ReLU itself, not its clipped forms.
    _composite = Composite([(torch.relu, rules.standard)])

    def __init__(self, relu_func: Any) -> None:
        assert isinstance(relu_func, type(torch.autograd.Function)), (
            f"relu_func is a class of torch.autograd.Function; got {relu_func!r}."
        )
        self.relu_func: Any = relu_func
        self._local = threading.local()

    def __enter__(self) -> ReLUContext:
        mode = _Mode(self._composite, self.relu_func)
        mode.__enter__()  # type: ignore[no-untyped-call]
        self._local.modes = [*getattr(self._local, "modes", ()), mode]
        return self

    def __exit__(self, *exc: object) -> None:
        self._local.modes.pop().__exit__(None, None, None)


class _RuleContext(ReLUContext):
    def __init__(self) -> None:
        self.relu_func = None
        self._local = threading.local()


class GuidedBackpropContext(_RuleContext):
    """Within, the ReLUs of this thread follow guided backpropagation, which lets pass at 0."""

    _composite = Composite([("relu", rules.guided_inclusive)])


class DeConvNetContext(_RuleContext):
    """Within, the ReLUs of this thread follow DeconvNet."""

    _composite = Composite([("relu", rules.deconvnet)])


DeconvNetContext = DeConvNetContext


class Probe:
    """Catches what goes into a module (or out of it), and its gradient.

    ``data`` has the tensors of the last call; after a backward pass each has its ``grad``. Until
    `remove`, or the end of a ``with``, the module has two hooks; nothing else of it is changed.

    Args:
        module: where to catch.
        target: ``"input"`` or ``"output"``.

    >>> relu = nn.ReLU()
    >>> with Probe(relu) as probe:
    ...     relu(torch.ones(3)).sum().backward()
    >>> probe.data[0].grad
    tensor([1., 1., 1.])
    """

    hooks: tuple[Any, ...] = ()

    def __init__(self, module: nn.Module, target: str = "input") -> None:
        assert target in ("input", "output"), f"target is 'input' or 'output'; got {target!r}."
        self.module: nn.Module | None = module
        self.target = target
        self.data: list[Tensor] = []
        self.contrast: list[Tensor | None] = []
        self.non_negative_contrast = False
        self._inputs = threading.local()
        me = weakref.ref(self)  # who drops the probe has removed it

        def before(module: nn.Module, args: tuple[Any, ...]) -> Any:
            probe = me()
            return None if probe is None else probe._before(module, args)

        def after(module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
            probe = me()
            return None if probe is None else probe._after(module, args, out)

        self.hooks = (
            module.register_forward_pre_hook(before),
            module.register_forward_hook(after),
        )

    def remove(self) -> None:
        """Takes the probe off; its data stay."""
        for hook in self.hooks:
            hook.remove()
        self.module, self.hooks, self._inputs = None, (), threading.local()

    def __del__(self) -> None:
        self.remove()

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        if self.target == "input":
            args = self._caught(args)
        if args and getattr(module, "inplace", False):
            # It writes over what its data were; so it gets a copy, written back afterwards.
            self._inputs.stack = [*getattr(self._inputs, "stack", ()), args[0]]
            args = (args[0].clone(), *args[1:])
        return args

    def _after(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        out = self._caught(out) if self.target == "output" else out
        if getattr(module, "inplace", False) and getattr(self._inputs, "stack", ()):
            return self._inputs.stack.pop().copy_(out)
        return out

    def _caught(self, value: Any) -> Any:
        tensors, unpack = pack(value)
        self.data = [_with_grad(t) if t.is_floating_point() else t for t in tensors]
        for x, contrast in zip(self.data, self.contrast):
            if contrast is not None:
                hook = functools.partial(_contrasted, contrast, self.non_negative_contrast)
                x.register_hook(hook)
        # The model goes on with copies, for it may write to what it gets.
        return unpack([t.clone() for t in self.data])


def _contrasted(contrast: Tensor, non_negative: bool, g: Tensor) -> Tensor:
    return torch.relu(g - contrast) if non_negative else g - contrast


def _with_grad(x: Tensor) -> Tensor:
    """``x`` with a place for its gradient, the tensor that was given left as it was."""
    if not (x.requires_grad and torch.is_grad_enabled()):
        return x.detach().clone().requires_grad_()
    point = x.clone()
    point.retain_grad()
    return point
