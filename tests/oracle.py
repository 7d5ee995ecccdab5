"""The slow oracle: the papers' formulas in plain autograd, sharing nothing with funcattr.

The library intercepts with a `TorchFunctionMode` under `torch.func`; the oracle deep-copies the
model, swaps every Python spelling of ReLU for the length of one forward pass, and calls
`torch.autograd.grad`. Two mechanisms with nothing in common agree by accident only, so a
difference is a bug in one of them. Not seen here: `torch.ops.aten.relu`, whose operator object
cannot be patched.
"""

import contextlib
import copy
from unittest import mock

import torch
from torch.nn import functional as F

# Springenberg et al. 2015, figure 1: what a ReLU hands down for input x and output gradient g.
FORMULAS = {
    "standard": lambda x, g: g * (x > 0),
    "guided": lambda x, g: g * (x > 0) * (g > 0),
    "deconvnet": lambda x, g: g * (g > 0),
}


class Rectifier(torch.autograd.Function):
    """max(x, 0), or min(max(x, 0), top), whose backward is the formula, gated by x < top.

    Old-style on purpose (no `setup_context`): it cannot run under torch.func, so nothing of it
    can leak into a check of the transforms.
    """

    @staticmethod
    def forward(ctx, x, formula, top):
        ctx.save_for_backward(x)
        ctx.formula, ctx.top = formula, top
        if top is None:
            return x * (x > 0)
        return x * (x > 0) * (x < top) + top * (x >= top)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        g_in = ctx.formula(x, g)
        return (g_in if ctx.top is None else g_in * (x < ctx.top)), None, None


@contextlib.contextmanager
def patched(formula):
    """Every Python spelling of ReLU, ReLU6 and hardtanh(x, 0, c) follows `formula` in the block."""
    hardtanh, hardtanh_ = F.hardtanh, F.hardtanh_

    def rectify(x, inplace=False, top=None):
        if not inplace:
            return Rectifier.apply(x, formula, top)
        # The clone is what the formula remembers: the argument itself is about to hold the output.
        return x.copy_(Rectifier.apply(x.clone(), formula, top))

    def relu(input, inplace=False):
        return rectify(input, inplace)

    def relu_(input):
        return rectify(input, True)

    def relu6(input, inplace=False):
        return rectify(input, inplace, 6.0)

    def clipped(input, min_val=-1.0, max_val=1.0, inplace=False):
        if min_val != 0:
            return (hardtanh_ if inplace else hardtanh)(input, min_val, max_val)
        return rectify(input, inplace, max_val)

    def clipped_(input, min_val=-1.0, max_val=1.0):
        return clipped(input, min_val, max_val, True)

    with contextlib.ExitStack() as stack:
        for owner, name, replacement in [
            (F, "relu", relu),
            (F, "relu_", relu_),
            (F, "relu6", relu6),
            (F, "hardtanh", clipped),
            (F, "hardtanh_", clipped_),
            (torch, "relu", relu),
            (torch, "relu_", relu_),
            (torch.Tensor, "relu", relu),
            (torch.Tensor, "relu_", relu_),
        ]:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


def explained(out, target):
    """The numbers that `target` selects from an output, summed over the batch."""
    if target is None:
        return out.sum()
    if callable(target):
        return target(out).sum()
    if isinstance(target, torch.Tensor):
        target = target.tolist()
    if not isinstance(target, list):
        target = [target] * len(out)
    return sum(out[i][t] for i, t in enumerate(target))


def rule_gradient(model, x, target=None, rule="standard"):
    """The gradient of the target by the input(s), with every ReLU's backward written out by `rule`.

    Args:
        model: a module (deep-copied, so that nothing can happen to it) or a function of the inputs.
        x: a tensor, or a tuple of them.
        target: None, an int, a tuple, a list or tensor with one per example, or a callable.
        rule: a key of `FORMULAS`, or any function (x, g) -> g_in.

    Returns:
        The map, shaped as `x`; a tuple of maps where `x` is a tuple.
    """
    model = copy.deepcopy(model)
    xs = x if isinstance(x, tuple) else (x,)
    leaves = tuple(t.detach().clone().requires_grad_() for t in xs)
    with patched(FORMULAS.get(rule, rule)), torch.enable_grad():
        # A model may open with an in-place ReLU, which autograd refuses on a leaf.
        out = model(*(leaf.clone() for leaf in leaves))
    maps = torch.autograd.grad(explained(out, target), leaves)
    return maps if isinstance(x, tuple) else maps[0]


def numeric_derivative(f, x, v, eps=1e-6):
    """The derivative of `f` at `x` along `v` by central differences, in float64 only."""
    assert x.dtype == v.dtype == torch.float64
    return (f(x + eps * v) - f(x - eps * v)) / (2 * eps)
