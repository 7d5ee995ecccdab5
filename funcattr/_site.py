"""The site: the call of an activation whose backward follows a rule.

PyTorch runs a Function's ``backward`` at *every* level of differentiation that is under way, but a
rule belongs to one of them: the innermost level outside of the ruled function. Levels further out
differentiate the map, and levels inside are part of the function's value; both need the true
derivative. `Token` tells them apart.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from . import _layout, rules
from .errors import ArgumentError, FuncattrError

_compiling = getattr(getattr(torch, "compiler", None), "is_compiling", None)


def compiling() -> bool:
    """Whether torch.compile is tracing; before torch 2.3 this library cannot be compiled."""
    return _compiling is not None and _compiling()


# A quick answer to the usual case; the slow one is right without it.
_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def forward_mode() -> bool:
    """Whether forward-mode autograd, by torch.func.jvp or by itself, is under way."""
    return torch.autograd.forward_ad._current_level >= 0


def transforming() -> bool:
    """Whether a transform, of torch.func or of forward-mode autograd, is under way."""
    return compiling() or _transforms_active() or forward_mode()


_local = threading.local()


class raw:
    """Inside of this context activations are left alone by every `Intercept`."""

    def __enter__(self) -> None:
        _local.raw = getattr(_local, "raw", 0) + 1

    def __exit__(self, *exc: object) -> None:
        _local.raw -= 1


def is_raw() -> bool:
    """Whether this thread is inside of `raw`."""
    return getattr(_local, "raw", 0) > 0


@dataclass(frozen=True)
class Activation:
    """``call(x, *tensors, *args, **kwargs)``, an elementwise function of ``x``.

    The last of the tensors go by ``names``. ``ceiling`` is None where the function is no ReLU,
    infinity for ReLU, and ``c`` where it is clipped at ``c``.
    """

    call: Callable[..., Tensor]
    ceiling: float | None
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    names: tuple[str, ...] = ()

    def __call__(self, x: Tensor, *tensors: Tensor) -> Tensor:
        lead = len(tensors) - len(self.names)
        named = dict(zip(self.names, tensors[lead:]))
        with raw():
            return self.call(x, *tensors[:lead], *self.args, **dict(self.kwargs), **named)

    def pull(self, x: Tensor, g: Tensor, *tensors: Tensor) -> Tensor:
        """The true derivative by ``x``; elementwise, hence its own transpose."""
        if self.ceiling is None:
            return torch.func.vjp(lambda x: self(x, *tensors), x)[1](g)[0]  # type: ignore[no-any-return]
        if self.ceiling == float("inf"):
            return rules.standard(x, g)
        return torch.ops.aten.hardtanh_backward(g, x, 0.0, self.ceiling)  # type: ignore[no-any-return]

    def apply(
        self, rule: rules.Rule, x: Tensor, g: Tensor, *tensors: Tensor, alone: bool = False
    ) -> Tensor:
        """What ``rule`` makes of the cotangent ``g``; ``alone`` if nobody differentiates that."""
        if rule is rules.standard:
            return self.pull(x, g, *tensors)
        with raw():
            if self.ceiling is None:
                result = rules.at(rule, x, g, lambda g: self.pull(x, g, *tensors))
            elif rule is rules.guided:
                g = self.pull(x, g)  # one pass over memory, where a clipped ReLU's rule takes two
                return g.relu_() if alone else torch.relu(g)
            else:
                result = rule(x, g)
        if (
            not isinstance(result, Tensor)
            or result.shape != x.shape
            or not result.is_floating_point()
        ):
            came = repr(result)
            if isinstance(result, Tensor):
                came = f"shape {tuple(result.shape)}, {result.dtype}"
            raise ArgumentError(
                f"a rule returns a float tensor of the shape of x, here {tuple(x.shape)}; "
                f"{getattr(rule, '__name__', rule)!r} returned {came}. "
                "Write it elementwise: (x, g) -> g_in."
            )
        if self.ceiling is None or self.ceiling == float("inf"):
            return result
        return result.masked_fill(x >= self.ceiling, 0)


class Rules(Protocol):
    """Says which rule a call of an activation follows."""

    def rule(
        self, func: Callable[..., Any], path: str | None, ceiling: float | None
    ) -> rules.Rule | None:
        """The rule of a call of ``func`` in the module at ``path``; None where it has none."""


class Scope:
    """One forward pass in eager; what its sites are to do in a backward pass.

    ``rules`` are those of this backward pass, where they are not the sites' own; ``keeping`` says
    that what is made for this one is as good for the next. Two are fixed: with ``alone`` no
    derivative of the maps will ever be asked for, with ``folds`` none at a tensor between two
    operations that fold into one. ``record``, where it is a list, collects what sites save.
    ``convolved`` is the last convolution, which may fold.
    """

    def __init__(self, alone: bool = False, folds: bool = False) -> None:
        self.alone, self.folds, self.keeping = alone, folds, False
        self.record: list[Tensor] | None = None
        self.convolved: Any = None
        self.rules: Rules | None = None
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def using(self, rules: Rules | None, keeping: bool) -> Iterator[None]:
        """Within, sites do as told."""
        with self._lock:
            before = self.rules, self.keeping
            self.rules, self.keeping = rules, keeping
            try:
                yield
            finally:
                self.rules, self.keeping = before


class Replay:
    """What the sites of one forward pass have saved, for the sites of the same pass in a graph.

    Those then need nothing that the graph's forward pass computes, and the compiler leaves it out.
    """

    def __init__(self, saved: Sequence[Tensor]) -> None:
        self.saved, self.count = saved, 0

    def next(self, shape: Sequence[int] | None = None) -> Tensor:
        """For the next site, which would save a tensor of this shape."""
        self.count += 1
        if self.count > len(self.saved):
            self._refuse()
        saved = self.saved[self.count - 1]
        if shape is not None and saved.shape != shape:
            self._refuse()
        return saved

    def check(self) -> None:
        """Raises where there were fewer sites."""
        if self.count != len(self.saved):
            self._refuse()

    def _refuse(self) -> None:
        raise FuncattrError(
            "the function does not call the same operations when it is compiled as in eager, and "
            "a compiled sweep takes its forward pass in eager; leave compile=True out."
        )


class Token:
    """One call of a site: which level of differentiation its rule belongs to, and where it is.

    ``setup_context`` runs once per level, from the outermost (plain autograd) to the innermost.
    ``depth`` levels were under way when the ruled function was entered; the rule is the last one's.
    """

    __slots__ = ("call", "count", "depth", "kept", "scope")

    def __init__(
        self,
        depth: int,
        scope: Scope | None = None,
        call: tuple[Callable[..., Any], str | None] | None = None,
    ) -> None:
        self.depth, self.scope, self.call, self.count = depth, scope, call, 0
        self.kept: dict[str, Tensor] = {}

    def next(self) -> int:
        """Counts a level, and returns its number."""
        self.count += 1
        return self.count - 1

    def owned_by(self, level: int) -> bool:
        """Whether the rule belongs to ``level``."""
        return level == self.depth - 1

    def rule(self, own: rules.Rule, ceiling: float | None) -> rules.Rule:
        """The rule of this backward pass: the site's own, if nobody has said otherwise."""
        if self.call is None or self.scope is None or self.scope.rules is None:
            return own
        return self.scope.rules.rule(*self.call, ceiling) or rules.standard

    @property
    def alone(self) -> bool:
        """Whether no derivative but one backward pass will ever be asked for."""
        return self.scope is not None and self.scope.alone

    def keep(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` returns, made once for all backward passes where it can be."""
        if self.scope is None or not self.scope.keeping:
            return make()
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def many(self, g: Tensor) -> bool:
        """Whether ``g`` is one of many cotangents of pictures, which share a better layout."""
        return self.scope is not None and _layout.many(g)


class _Depth(torch.autograd.Function):
    """Counts the levels of differentiation under way: plain autograd is the first."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, token: Token) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        inputs[1].next()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g, None

    @staticmethod
    def jvp(ctx: Any, t: Tensor, _: None) -> Tensor:
        return t


class watching:
    """Inside of this context ``see`` is called with what a site returns, which no mode sees."""

    def __init__(self, see: Callable[[Any], None]) -> None:
        self.see = see

    def __enter__(self) -> None:
        self.before = getattr(_local, "see", None)
        _local.see = self.see

    def __exit__(self, *exc: object) -> None:
        _local.see = self.before


def applied(function: Any, scope: Scope | None, *args: Any) -> Any:
    """``function.apply(*args)``, without what that does for transforms where there are none."""
    # A checkpoint can repeat a forward pass that was alone within a backward pass under vmap.
    if scope is not None and scope.alone and not _transforms_active():
        out = super(torch.autograd.Function, function).apply(*args)
    else:
        out = function.apply(*args)
    see = getattr(_local, "see", None)
    if see is not None:
        see(out)
    return out


def count_levels() -> int:
    """How many levels of differentiation are under way; plain autograd is always one."""
    token = Token(0)
    _Depth.apply(torch.empty(()), token)  # type: ignore[no-untyped-call]
    return token.count


class Site(torch.autograd.Function):
    """``activation(x, *tensors)`` with the derivative by ``x`` that ``rule`` says.

    The derivative is taken at ``kept``, where that is given, which is ``x`` by another way.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        activation: Activation,
        rule: rules.Rule,
        token: Token,
        kept: Tensor | None,
        x: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        return activation(x, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.activation, ctx.rule, ctx.token, kept, x, *tensors = inputs
        ctx.replayed = kept is not None
        saved = (x if kept is None else kept, *tensors)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.level = ctx.token.next()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        activation: Activation = ctx.activation
        if ctx.token.many(g):
            g, plain = _layout.innermost(g), x
            x = ctx.token.keep("x", lambda: _layout.channels_last(plain))
        if ctx.token.owned_by(ctx.level):
            rule = ctx.token.rule(ctx.rule, activation.ceiling)
            alone, graph = ctx.token.alone, torch.is_grad_enabled()
            if ctx.level == 0 and graph and not alone and rule is not rules.standard:
                raise FuncattrError(
                    "create_graph=True cannot tell the rule from the true derivative that a "
                    "second derivative needs. Take the map with funcattr.rule_backprop or "
                    "torch.func.grad, and differentiate that."
                )
            if ctx.replayed and x.dim() == 4:

                def apply(g: Tensor, x: Tensor) -> Tensor:
                    return activation.apply(rule, x, g, *tensors)

                g_x = _layout.Merged.apply(apply, x.shape[0], g, x)  # type: ignore[no-untyped-call]
            else:
                g_x = activation.apply(rule, x, g, *tensors, alone=alone and not graph)
        else:
            g_x = activation.pull(x, g, *tensors)
        if not tensors:
            return None, None, None, None, g_x
        g_tensors = torch.func.vjp(functools.partial(activation, x), *tensors)[1](g)
        return (None, None, None, None, g_x, *g_tensors)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        x, *tensors = ctx.saved_tensors
        t, *ts = tangents[4:]
        activation: Activation = ctx.activation
        out = torch.zeros_like(x) if t is None else activation.pull(x, t, *tensors)
        if any(t is not None for t in ts):
            full = [torch.zeros_like(w) if t is None else t for w, t in zip(tensors, ts)]
            f = functools.partial(activation, x)
            out = out + torch.func.jvp(f, tuple(tensors), tuple(full))[1]
        return out


def levels() -> int:
    """`count_levels`, in traced code too."""
    if compiling():
        from ._graph import count_levels as count_while_tracing

        return int(count_while_tracing())
    if not _transforms_active():
        return 1
    return count_levels()
