"""What pieces of a network have in common, and the table of their kinds.

A piece is a module that takes one tensor to one tensor. It is told an example of what comes in, so
that it can choose its own sizes, and what *form* that has: "map" ``[B, C, *spatial]``, "vector"
``[B, C]`` or "sequence" ``[B, T, C]``.
"""

from random import Random
from typing import ClassVar

import torch
from torch import nn

from . import activations
from .spec import Block

KINDS: dict[str, type] = {}


def kind(weight=1.0):
    """Puts a class of pieces into the table; ``weight`` says how often it is drawn."""

    def register(cls):
        cls.often = weight
        KINDS[cls.__name__] = cls
        return cls

    return register


class Piece(nn.Module):
    """A piece; ``gives`` is the form of what comes out, None for that of what comes in.

    ``twisted`` says that its derivative is, on purpose, not the derivative of its value: something
    is cut off, say. Finite differences have nothing to say there.
    """

    forms: ClassVar[tuple[str, ...]] = ("map", "vector", "sequence")
    gives: str | None = None
    twisted = False

    @staticmethod
    def draw(random: Random, depth: int) -> dict:
        return {}


class Unfit(Exception):
    """A block does not fit what comes in."""


class Maker:
    """Makes pieces of blocks; ``formula`` is the oracle's rule, None for the network itself."""

    def __init__(self, formula=None):
        self.formula = formula
        self.form = "map"
        self.left_out = 0

    def relu(self, name):
        """A ReLU: a site of the library's."""
        return activations.relu(name, self.formula)

    def pieces(self, blocks, h):
        """``blocks`` as a list of modules, and what comes out for ``h``; sets `form`."""
        made = nn.ModuleList()
        for block in blocks:
            cls, form = KINDS[block.kind], self.form
            if form not in cls.forms:
                self.left_out += 1
                continue
            try:
                piece = cls(block.options, h, self)
                out = piece(h.clone())
                if out.numel() == 0 or out.shape[0] != h.shape[0] or out.numel() > 4000:
                    raise Unfit
            except (RuntimeError, ValueError, Unfit):
                # Too small for a kernel, say. The oracle's network leaves out the same.
                self.form = form
                self.left_out += 1
                continue
            self.form = cls.gives or self.form
            made.append(piece)
            h = out
        return made, h

    def like(self, blocks, h):
        """``blocks``, as far as they give what came in: shape and form."""
        form, left = self.form, len(blocks)
        while True:
            self.form = form
            made, out = self.pieces(blocks[:left], h)
            if out.shape == h.shape and self.form == form:
                return made
            left -= 1

    def mix(self, h, out=None):
        """A linear map that keeps the form, to ``out`` channels."""
        axis = -1 if self.form == "sequence" else 1
        width = h.shape[axis]
        out = out or width
        if self.form != "map" or h.dim() > 5:
            return nn.Linear(width, out)
        return convolution(h)(width, out, 3, padding=1)

    def width(self, h):
        """The number of channels."""
        return h.shape[-1 if self.form == "sequence" else 1]


def convolution(h, transposed=False):
    """The class of convolutions over the spatial dimensions of ``h``."""
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    back = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return (back if transposed else plain)[h.dim() - 3]


def run(pieces, h):
    """One piece after the other."""
    for piece in pieces:
        h = piece(h)
    return h


def draw_blocks(random: Random, n, depth, kinds=None):
    """``n`` blocks, whose inside is at most ``depth`` deep."""
    names = list(kinds or KINDS)
    weights = [KINDS[name].often for name in names]
    blocks = []
    for _ in range(n):
        # One draw of a small int at a time: what hypothesis can shrink.
        at, total = random.random() * sum(weights), 0.0
        for name, weight in zip(names, weights):
            total += weight
            if at < total or name == names[-1]:
                break
        blocks.append(Block(name, KINDS[name].draw(random, depth)))
    return tuple(blocks)


def inner(random: Random, depth, most=3):
    """Blocks inside of a block."""
    if depth <= 0:
        return draw_blocks(random, 1, 0, ("Relu", "Mix"))
    return draw_blocks(random, random.randint(1, most), depth - 1)


@kind(3.0)
class Relu(Piece):
    """A ReLU, by any spelling."""

    def __init__(self, options, h, make):
        super().__init__()
        self.act = make.relu(options["relu"])

    @staticmethod
    def draw(random, depth):
        return {"relu": random.choice(list(activations.RELUS))}

    def forward(self, h):
        return self.act(h)


@kind(1.0)
class Other(Piece):
    """An activation that no rule is for."""

    def __init__(self, options, h, make):
        super().__init__()
        self.act = activations.OTHERS[options["name"]]()

    @staticmethod
    def draw(random, depth):
        return {"name": random.choice(list(activations.OTHERS))}

    def forward(self, h):
        return self.act(h)


@kind(1.0)
class Mix(Piece):
    """A linear map and a ReLU: what most of a network is."""

    def __init__(self, options, h, make):
        super().__init__()
        self.lin = make.mix(h)
        self.act = make.relu(options["relu"])

    draw = Relu.draw

    def forward(self, h):
        return self.act(self.lin(h))


@kind(1.0)
class Twice(Piece):
    """One linear map and one ReLU, each called more than once."""

    def __init__(self, options, h, make):
        super().__init__()
        self.lin, self.act = make.mix(h), make.relu(options["relu"])
        self.times = options["times"]

    @staticmethod
    def draw(random, depth):
        return {**Relu.draw(random, depth), "times": random.randint(2, 3)}

    def forward(self, h):
        for _ in range(self.times):
            h = self.act(self.lin(h))
        return h


@kind(0.7)
class Tied(Piece):
    """Two linear maps of one weight."""

    def __init__(self, options, h, make):
        super().__init__()
        self.a, self.b = make.mix(h), make.mix(h)
        self.b.weight = self.a.weight
        if options["bias"]:
            self.b.bias = self.a.bias
        self.act = make.relu(options["relu"])

    @staticmethod
    def draw(random, depth):
        return {**Relu.draw(random, depth), "bias": random.random() < 0.5}

    def forward(self, h):
        return self.b(self.act(self.a(h)))


def scaled(module):
    """``module`` with weights that are not what they are initialised to, in float64."""
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point() and "var" not in name:
                tensor.add_(torch.empty_like(tensor).uniform_(-0.3, 0.3))
            elif tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return module
