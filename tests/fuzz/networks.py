"""From a spec to a network and its inputs; and the hypothesis strategy of specs."""

import contextlib
from collections import namedtuple

import torch
from hypothesis import strategies as st
from torch import nn

from . import flow_pieces, holders, linear_pieces, mixing_pieces, writing_pieces  # noqa: F401
from .pieces import Maker, Piece, run
from .spec import Spec, draw

CLASSES = 4
Output = namedtuple("Output", "scores extra")


def specs():
    """Specs as a hypothesis strategy: the same drawing, by numbers that it can shrink."""
    return st.randoms(use_true_random=False).map(draw)


@contextlib.contextmanager
def seeded(seed):
    """Float64 and fixed random numbers, for the length of the block."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def build(spec: Spec, formula=None):
    """The network of a spec; with a formula, the oracle's network of the same values."""
    with seeded(spec.seed):
        net = Net(spec, formula)
    return net.train(spec.train)


def inputs(spec: Spec, seed=0):
    """What the network is called with: ``(args, kwargs)``."""
    with seeded(spec.seed + 7919 * (seed + 1)):
        x, y = (_formatted(spec, torch.randn(_shape(spec))) for _ in range(2))
    if spec.inputs == "two":
        return (x, y), {}
    if spec.inputs == "tuple":
        return ((x, y),), {}
    if spec.inputs == "dict":
        return ({"x": x, "n": 3, "y": y},), {}
    if spec.inputs == "keyword":
        return (x,), {"shift": y}
    return (x,), {}


def argnums(spec: Spec):
    """Which arguments are explained."""
    return (0, 1) if spec.inputs == "two" else 0


def scores(out):
    """What targets select from, of whatever a network gives."""
    if isinstance(out, dict):
        return out["scores"]
    return out if isinstance(out, torch.Tensor) else out[0]


def _shape(spec):
    return (spec.batch, spec.channels) + (spec.size,) * spec.dims


def _formatted(spec, x):
    if spec.channels_last and spec.dims >= 2:
        last = torch.channels_last if spec.dims == 2 else torch.channels_last_3d
        return x.contiguous(memory_format=last)
    return x


class Net(nn.Module):
    """The network: inputs merged, one piece after the other, a head, outputs."""

    def __init__(self, spec, formula):
        super().__init__()
        self.spec = spec
        make = Maker(formula)
        make.form = "map" if spec.dims else "vector"
        self.body, h = make.pieces(spec.blocks, torch.randn(_shape(spec)))
        wide = 2 if spec.outputs == "map" else 1
        self.head = nn.Linear(h[0].numel(), CLASSES * wide)
        self.left_out = make.left_out

    @property
    def smooth(self):
        """Whether its gradients are the derivatives of its values."""
        return not any(m.twisted for m in self.modules() if isinstance(m, Piece))

    def forward(self, x, y=None, *, shift=None):
        if isinstance(x, (tuple, list)):
            x, y = x
        elif isinstance(x, dict):
            x, y = x["x"], x["y"]
        h = x if y is None else x + 0.5 * torch.tanh(y)
        if shift is not None:
            h = h + shift
        h = run(self.body, h)
        out = self.head(h.flatten(1))
        if self.spec.squared:
            out = out + 0.1 * out**2
        if self.spec.outputs == "map":
            out = out.reshape(len(out), CLASSES, 2)
        if self.spec.outputs in ("tensor", "map"):
            return out
        extra = {name: _extra(name, x, h) for name in self.spec.extras}
        if self.spec.outputs == "tuple":
            return (out, *extra.values())
        if self.spec.outputs == "dict":
            return {"scores": out, **extra}
        return Output(out, extra)


def _extra(name, x, h):
    """An output that no target asks for."""
    if name == "double":
        return h * 2
    if name == "sqrt":
        return (h * 0).sqrt()
    if name == "log":
        return (h * 0).log()
    if name == "argmax":
        return h.flatten(1).argmax(1)
    return x if name == "input" else h.detach()
