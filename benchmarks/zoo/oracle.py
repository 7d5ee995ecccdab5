"""The judge: plain autograd with every Python spelling of the activations replaced.

funcattr puts sites in place by a `TorchFunctionMode`, in a private copy of the model. Here the
functions themselves are swapped, wherever a module or a namespace holds them. The second judge
reads autograd's own graph instead, where an activation is a node however it was spelled.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Func = Callable[..., Any]

# What `sites` is set to where a model has no ReLU: the first that a gradient passes.
SITES = ("relu", "gelu", "silu", "hardswish", "mish", "leaky_relu", "prelu", "elu", "selu")
SITES = (*SITES, "celu", "softplus", "hardsigmoid", "tanh", "sigmoid")
FAMILY = {"relu6": "relu", "hardtanh": "relu"}  # hardtanh where it clips at 0
NAMES = (*SITES, *FAMILY)


class Judge:
    """Which rule the activations named ``site`` follow on the way back, and which were passed."""

    def __init__(self) -> None:
        self.rule, self.site = "standard", "relu"
        self.passed: Counter[str] = Counter()

    def back(self, name: str, x: Tensor, g: Tensor, top: float | None, true: Func) -> Tensor:
        self.passed[name] += 1
        rule = self.rule if name == self.site else "standard"
        if rule == "deconvnet":
            g = g.clamp(min=0)
            return g if top is None else torch.where(x < top, g, 0)
        g = true(g)
        return g.clamp(min=0) if rule == "guided" else g


class Activation(torch.autograd.Function):
    """The value of ``call``, and the derivative that the judge says.

    Without ``setup_context``, so it cannot run under torch.func: nothing of it can be in what
    funcattr computes.
    """

    @staticmethod
    def forward(ctx, x, judge, name, top, call):
        ctx.save_for_backward(x.clone())  # x itself may be written to, as in x.mul_(x.sigmoid())
        ctx.rest = judge, name, top, call
        return call(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        judge, name, top, call = ctx.rest

        def true(g: Tensor) -> Tensor:
            if name == "relu":
                return torch.where((x > 0) & (x < (top or float("inf"))), g, 0)
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                return torch.autograd.grad(call(leaf), leaf, g)[0]

        return judge.back(name, x, g, top, true), None, None, None, None


def _replacement(judge: Judge, name: str, out_of_place: Func, original: Func, in_place: bool):
    def call(x, *args, **kwargs):
        if not isinstance(x, Tensor) or not x.is_floating_point() or "out" in kwargs:
            return original(x, *args, **kwargs)
        known, top = FAMILY.get(name, name), None
        if name == "relu6":
            top = 6.0
        if name == "hardtanh":
            low = args[0] if args else kwargs.get("min_val", -1.0)
            if low != 0:
                return original(x, *args, **kwargs)
            top = float(args[1] if len(args) > 1 else kwargs.get("max_val", 1.0))
        value = lambda x: out_of_place(x, *args, **kwargs)
        if in_place:
            # The clone is what is remembered: the argument is about to hold the output.
            return x.copy_(Activation.apply(x.clone(), judge, known, top, value))
        return Activation.apply(x, judge, known, top, value)

    def replaced(*args, **kwargs):
        return call(*args, **kwargs) if args else call(kwargs.pop("input"), **kwargs)

    return replaced


def _originals() -> dict[int, tuple[Any, str, str, Func, bool]]:
    """The functions at the bottom of every spelling, by identity; Tensor's methods by name."""
    found = {}
    for space in (torch._C._nn, torch, torch.nn.functional, torch.Tensor):
        for name in NAMES:
            plain = getattr(space, name, None)
            for suffix in ("", "_"):
                func = getattr(space, name + suffix, None)
                # Python functions call the builtins, which are the ones to replace.
                if func is not None and not hasattr(func, "__code__"):
                    keep = plain if plain is not None else getattr(torch, name)
                    found.setdefault(id(func), (space, name, name + suffix, keep, func))
    return found


@contextlib.contextmanager
def judged(judge: Judge, model: nn.Module) -> Iterator[None]:
    """Every activation in the block is the judge's, also where a name was bound long before."""
    swaps, methods = {}, []
    for key, (space, name, spelled, plain, func) in _originals().items():
        made = _replacement(judge, name, plain, func, spelled.endswith("_"))
        swaps[key] = made
        if space is torch.Tensor:
            methods.append((spelled, made))
    undo: list[tuple[Any, str, Any]] = []
    spaces = [m for m in list(sys.modules.values()) if isinstance(m, type(sys))]
    spaces = [m for m in spaces if not m.__name__.startswith(("funcattr", "benchmarks"))]
    for owner in (*spaces, *model.modules()):
        for name, value in list(vars(owner).items()):
            if callable(value) and id(value) in swaps:
                undo.append((owner, name, value))
                vars(owner)[name] = swaps[id(value)]
    for name, made in methods:
        setattr(torch.Tensor, name, made)
    try:
        yield
    finally:
        for owner, name, value in undo:
            vars(owner)[name] = value
        for name, _ in methods:
            delattr(torch.Tensor, name)


NODES = {"ReluBackward0": "relu", "HardtanhBackward0": "relu"}
NODES |= {"PreluKernelBackward0": "prelu"} | {
    f"{n.title().replace('_', '')}Backward0": n for n in SITES if n != "relu"
}


def by_graph(out: Tensor, leaf: Tensor, rule: str, site: str) -> Tensor:
    """The map of a sum, by hooks at the nodes of autograd's graph that stand for activations."""
    handles, todo, done = [], [out.grad_fn], set()

    def hook(node):
        top = None
        if node.name() == "HardtanhBackward0":
            if node._saved_min_val != 0:
                return None
            top = node._saved_max_val, node._saved_self

        def changed(given, got):
            if given[0] is None:
                return None
            if rule == "guided":
                return (given[0].clamp(min=0), *given[1:])
            g = got[0].clamp(min=0)
            return (g if top is None else torch.where(top[1] < top[0], g, 0), *given[1:])

        return changed

    while todo:
        node = todo.pop()
        if node is None or node in done:
            continue
        done.add(node)
        todo += [parent for parent, _ in node.next_functions]
        changed = hook(node) if NODES.get(node.name()) == site else None
        if changed is not None:
            handles.append(node.register_hook(changed))
    try:
        return torch.autograd.grad(out, leaf, retain_graph=True)[0]
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def norms_written_out() -> Iterator[None]:
    """Batch norm by its formula: torch 2.13's own CPU gradient is wrong for some strides."""
    original = torch.batch_norm

    def batch_norm(x, weight, bias, mean, var, training, momentum, eps, cudnn):
        if training or mean is None:
            return original(x, weight, bias, mean, var, training, momentum, eps, cudnn)
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale = torch.rsqrt(var + eps)
        x = (x - mean.view(shape)) * scale.view(shape)
        x = x if weight is None else x * weight.view(shape)
        return x if bias is None else x + bias.view(shape)

    torch.batch_norm = batch_norm
    try:
        yield
    finally:
        torch.batch_norm = original
