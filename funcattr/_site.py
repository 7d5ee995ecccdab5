"""The site: the call of an activation whose backward follows a rule.

PyTorch runs a Function's ``backward`` at *every* level of differentiation that is under way, but a
rule belongs to one of them: the innermost level outside of the ruled function. Levels further out
differentiate the map, and levels inside are part of the function's value; both need the true
derivative. `Token` tells them apart.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import _layout, _own, rules
from ._scope import Token, _transforms_active, compiling, forward_mode, raw
from .errors import ArgumentError, FuncattrError


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

    def overwrite(self, rule: rules.Rule, x: Tensor, memory: Tensor) -> bool:
        """`apply`, in place of the cotangent; False for what has no such form."""
        clipped = self.ceiling != float("inf")
        known = rule is rules.standard or rule is rules.guided or rule is rules.deconvnet
        if self.ceiling is None or not known or (clipped and rule is rules.deconvnet):
            return False
        if x.dtype != memory.dtype or torch._C._functorch.is_functorch_wrapped_tensor(x):
            return False  # in autocast, and where a checkpoint has repeated the forward pass
        aten = torch.ops.aten
        with raw():
            if rule is not rules.deconvnet:
                if clipped:
                    pull = aten.hardtanh_backward.grad_input
                    pull(memory, x, 0.0, self.ceiling, grad_input=memory)
                else:
                    aten.threshold_backward.grad_input(memory, x, 0, grad_input=memory)
            if rule is not rules.standard:
                memory.relu_()
        return True

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
        memory = None
        if ctx.token.alone and not (torch.is_grad_enabled() or forward_mode()):
            memory = _own.memory(g)
        x, *tensors = ctx.saved_tensors
        activation: Activation = ctx.activation
        if ctx.token.many(g):
            if g.stride(1) != 1:
                g, memory = _layout.channels_last(g), None
            plain = x
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
            if memory is not None and activation.overwrite(rule, x, memory):
                return (None, None, None, None, g, *[None] * len(tensors))
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
