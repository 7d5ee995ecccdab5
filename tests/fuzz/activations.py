"""Every way to write a ReLU, with what the oracle puts in its place; and other activations."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

# What a ReLU hands down for its input x and the gradient g of its output, from the papers.
FORMULAS = {
    "standard": lambda x, g: g * (x > 0),
    "guided": lambda x, g: g * (x > 0) * (g > 0),
    "deconvnet": lambda x, g: g * (g > 0),
    "guided_inclusive": lambda x, g: g * (x >= 0) * (g > 0),
    # A rule of a user's, of the value of x and not only its sign.
    "own": lambda x, g: g * torch.sigmoid(x),
}


class Rectifier(torch.autograd.Function):
    """A ReLU, clipped at ``top`` where that is a number, whose backward is a formula.

    Of the old style, without a `setup_context`: it cannot run under torch.func at all. A copy of x
    is kept beside autograd's saved tensors, since the network may go on to write to x.
    """

    met = 0  # how many of them a backward pass has met

    @staticmethod
    def forward(ctx, x, formula, top, in_place):
        ctx.x, ctx.formula, ctx.top = x.detach().clone(), formula, top
        y = x.clamp(0, top)
        if not in_place:
            return y
        ctx.mark_dirty(x)
        return x.copy_(y)

    @staticmethod
    def backward(ctx, g):
        Rectifier.met += 1
        g_in = ctx.formula(ctx.x, g)
        return (g_in if ctx.top is None else g_in * (ctx.x < ctx.top)), None, None, None


class Rectify(nn.Module):
    """What stands for ``nn.ReLU`` and its kin in the oracle's network, at the same path."""

    def __init__(self, formula, top, inplace):
        super().__init__()
        self.formula, self.top, self.inplace = formula, top, inplace

    def forward(self, x):
        return rectified(x, self.formula, self.top, self.inplace)


def rectified(x, formula, top, in_place):
    """`Rectifier`; but autograd knows nothing of a write under no_grad."""
    if in_place and not torch.is_grad_enabled():
        return x.clamp_(0, top)
    return Rectifier.apply(x, formula, top, in_place)


class Spelling(NamedTuple):
    """One way to write ReLU: ``make`` gives a function or a module."""

    make: Callable
    top: float | None = None
    in_place: bool = False


class OwnReLU(nn.ReLU):
    """A subclass, as people write them to count calls."""

    def forward(self, input):
        return super().forward(input)


class Slanted(nn.PReLU):
    """PReLU, away from the zeros of a ReLU before it: at exactly 0 torch's backward pass takes it
    for the one slope, and the derivative of that pass for the other.
    """

    def forward(self, input):
        return super().forward(input - 0.01)


# What docs/rules.md says the rules are for: max(x, 0) in every spelling, and its clipped forms.
RELUS = {
    "nn.ReLU": Spelling(nn.ReLU),
    "nn.ReLU(inplace)": Spelling(lambda: nn.ReLU(inplace=True), None, True),
    "F.relu": Spelling(lambda: F.relu),
    "F.relu(inplace)": Spelling(lambda: lambda x: F.relu(x, inplace=True), None, True),
    "F.relu(x, True)": Spelling(lambda: lambda x: F.relu(x, True), None, True),
    "F.relu(input=x)": Spelling(lambda: lambda x: F.relu(input=x)),
    "F.relu_": Spelling(lambda: F.relu_, None, True),
    "torch.relu": Spelling(lambda: torch.relu),
    "torch.relu(input=x)": Spelling(lambda: lambda x: torch.relu(input=x)),
    "torch.relu_": Spelling(lambda: torch.relu_, None, True),
    "Tensor.relu": Spelling(lambda: lambda x: x.relu()),
    "Tensor.relu_": Spelling(lambda: lambda x: x.relu_(), None, True),
    "aten.relu": Spelling(lambda: torch.ops.aten.relu),
    "aten.relu.default": Spelling(lambda: torch.ops.aten.relu.default),
    "aten.relu_": Spelling(lambda: torch.ops.aten.relu_, None, True),
    "partial": Spelling(lambda: functools.partial(F.relu, inplace=False)),
    "nn.ReLU().forward": Spelling(lambda: nn.ReLU().forward),
    "subclass": Spelling(OwnReLU),
    "F.relu6": Spelling(lambda: F.relu6, 6.0),
    "F.relu6(inplace)": Spelling(lambda: lambda x: F.relu6(x, inplace=True), 6.0, True),
    "nn.ReLU6": Spelling(nn.ReLU6, 6.0),
    "nn.ReLU6(inplace)": Spelling(lambda: nn.ReLU6(inplace=True), 6.0, True),
    "nn.Hardtanh": Spelling(lambda: nn.Hardtanh(0.0, 0.7), 0.7),
    "nn.Hardtanh(inplace)": Spelling(lambda: nn.Hardtanh(0.0, 0.7, inplace=True), 0.7, True),
    "F.hardtanh": Spelling(lambda: lambda x: F.hardtanh(x, 0, 1), 1.0),
    "F.hardtanh(max_val)": Spelling(lambda: lambda x: F.hardtanh(x, min_val=0.0), 1.0),
    "F.hardtanh_": Spelling(lambda: lambda x: F.hardtanh_(x, 0.0, 0.5), 0.5, True),
}

# Everything else keeps its true derivative, also what computes max(x, 0) by other means.
OTHERS = {
    "clamp(min)": lambda: lambda x: x.clamp(min=0),
    "clamp_min": lambda: lambda x: torch.clamp_min(x, 0.0),
    "clamp_": lambda: lambda x: x.clamp_(min=0),
    "F.threshold": lambda: lambda x: F.threshold(x, 0.0, 0.0),
    "nn.Threshold(inplace)": lambda: nn.Threshold(0.0, 0.0, inplace=True),
    "maximum": lambda: lambda x: torch.maximum(x, torch.zeros_like(x)),
    "where": lambda: lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "mask": lambda: lambda x: x * (x > 0),
    "hardtanh(-1, 1)": lambda: F.hardtanh,
    "nn.LeakyReLU": lambda: nn.LeakyReLU(0.2),
    "nn.LeakyReLU(inplace)": lambda: nn.LeakyReLU(0.2, inplace=True),
    "nn.ELU": nn.ELU,
    "F.elu_": lambda: F.elu_,
    "nn.PReLU": Slanted,
    "nn.GELU": nn.GELU,
    "F.gelu(tanh)": lambda: lambda x: F.gelu(x, approximate="tanh"),
    "nn.SiLU": nn.SiLU,
    "nn.SiLU(inplace)": lambda: nn.SiLU(inplace=True),
    "nn.Mish": nn.Mish,
    "nn.Softplus": nn.Softplus,
    "nn.Hardswish": nn.Hardswish,
    "nn.Softsign": nn.Softsign,
    "F.logsigmoid": lambda: F.logsigmoid,
    "torch.tanh": lambda: torch.tanh,
    "Tensor.sigmoid": lambda: lambda x: x.sigmoid(),
    "Tensor.tanh_": lambda: lambda x: x.tanh_(),
    "nn.Dropout": nn.Identity,  # as it is in eval mode
}


def relu(name, formula=None):
    """A ReLU by one of its spellings; by ``formula``, where given, in its backward pass."""
    spelling = RELUS[name]
    if formula is None:
        return spelling.make()
    if isinstance(spelling.make(), nn.Module):
        return Rectify(formula, spelling.top, spelling.in_place)
    return lambda x: rectified(x, formula, spelling.top, spelling.in_place)
