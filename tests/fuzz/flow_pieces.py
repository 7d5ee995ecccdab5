"""Skips, branches, checkpoints, what is cut off from the gradient, and transforms inside."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from .activations import RELUS
from .pieces import Piece, inner, kind, run


@kind(3.0)
class Skip(Piece):
    """A residual block, added in one of several ways."""

    def __init__(self, options, h, make):
        super().__init__()
        self.inside, self.how = make.like(options["inner"], h), options["how"]

    @staticmethod
    def draw(random, depth):
        ways = ("+", "+=", "add", "torch.add", "cat", "times")
        return {"inner": inner(random, depth), "how": random.choice(ways)}

    def forward(self, h):
        # What is inside may write to what it gets.
        out = run(self.inside, h.clone() if self.how == "times" else h)
        if self.how == "+":
            return h + out
        if self.how == "+=":
            out = out * 1.0
            out += h
            return out
        if self.how == "add":
            return out.add(h, alpha=0.5)
        if self.how == "torch.add":
            return torch.add(h, out)
        if self.how == "cat":
            return torch.cat([h, out], -1).unflatten(-1, (2, -1)).mean(-2)
        return h * out


@kind(2.0)
class Branches(Piece):
    """Two ways to go at once, some of which nobody differentiates."""

    def __init__(self, options, h, make):
        super().__init__()
        form = make.form
        self.a = make.like(options["a"], h)
        make.form = form
        self.b = make.like(options["b"], h)
        self.how = options["how"]
        self.twisted = self.how not in ("sum", "enable_grad", "where", "unused")

    @staticmethod
    def draw(random, depth):
        ways = ("sum", "no_grad", "detach", "detached in", "set_grad_enabled", "data", "unused",
                "enable_grad", "where")  # fmt: skip
        return {
            "a": inner(random, depth, 2),
            "b": inner(random, depth, 2),
            "how": random.choice(ways),
        }

    def forward(self, h):
        a = run(self.a, h * 1.0)
        x = h * 1.0
        if self.how == "sum":
            return a + 0.5 * run(self.b, x)
        if self.how == "no_grad":
            with torch.no_grad():
                b = run(self.b, x)
            return a + b * h
        if self.how == "detach":
            return a * run(self.b, x).detach() + h
        if self.how == "detached in":
            return a + run(self.b, x.detach())
        if self.how == "set_grad_enabled":
            with torch.set_grad_enabled(False):
                b = run(self.b, x)
            return a - b
        if self.how == "data":
            return a + run(self.b, x).data
        if self.how == "enable_grad":
            with torch.no_grad(), torch.enable_grad():
                b = run(self.b, x)
            return a + b
        if self.how == "where":
            return torch.where(h > 0, a, run(self.b, x))
        run(self.b, x)
        return a


@kind(1.0)
class Checkpoint(Piece):
    """A part whose forward pass is done again in the backward pass."""

    off = False  # torch cannot tell within a checkpoint that a saved tensor was written to

    def __init__(self, options, h, make):
        super().__init__()
        self.inside = make.like(options["inner"], h)
        for module in self.inside.modules():
            if hasattr(module, "reads"):  # run again, it would not read what it read before
                module.reads = False
        self.early = options["early"]

    @staticmethod
    def draw(random, depth):
        return {"inner": inner(random, depth, 2), "early": random.random() < 0.5}

    def forward(self, h):
        # A clone inside: what is done again must find its input as it was.
        def again(t):
            return run(self.inside, t.clone())

        if Checkpoint.off:
            return again(h * 1.0)
        return checkpoint(again, h * 1.0, use_reentrant=False, early_stop=self.early)


class Weighted(Piece):
    """A ReLU between two matrices, for transforms inside of the network."""

    def __init__(self, options, h, make):
        super().__init__()
        width = h.shape[-1]
        self.w = nn.Parameter(torch.randn(width, width) / width**0.5)
        self.oracle = make.formula is not None
        name = options["relu"]
        self.act = make.relu(name)
        self.top, self.how = RELUS[name].top, options["how"]

    def mask(self, p):
        """The true derivative of the ReLU, which transforms inside go by."""
        return (p > 0) if self.top is None else (p > 0) & (p < self.top)


@kind(1.0)
class Inside(Weighted):
    """torch.func inside of the network; the oracle has the same by hand, in plain autograd."""

    @staticmethod
    def draw(random, depth):
        return {
            "relu": random.choice([name for name, s in RELUS.items() if not s.in_place]),
            "how": random.choice(("vmap", "nested vmap", "grad", "jvp") * 2 + ("vjp",)),
        }

    def forward(self, h):
        how = self.how
        if self.oracle:
            if how in ("grad", "vjp"):
                # Torch refuses these in a checkpoint, and the network is built without the piece;
                # the oracle's must be, too, and is told so by the same error.
                torch.func.grad(torch.sum)(h.detach())
            p = h @ self.w
            if how in ("vmap", "nested vmap"):
                return self.act(p) + h
            if how == "jvp":
                return self.act(p) + self.mask(p) * (torch.cos(h) @ self.w)
            if how == "vjp":
                return self.act(p) + (torch.cos(p) * self.mask(p)) @ self.w.T
            return 2 * (self.act(p) * self.mask(p)) @ self.w.T + h
        if how == "vmap":
            return torch.vmap(lambda v: self.act(v @ self.w))(h) + h
        if how == "nested vmap":
            f = torch.vmap(lambda v: self.act(v @ self.w))
            return torch.vmap(f, 1, 1)(h.flatten(1, -2)).reshape(h.shape) + h if h.dim() > 2 else (
                f(h) + h
            )  # fmt: skip
        if how == "jvp":
            y, t = torch.func.jvp(lambda z: self.act(z @ self.w), (h,), (torch.cos(h),))
            return y + t
        if how == "vjp":
            y, pull = torch.func.vjp(lambda z: self.act(z @ self.w), h)
            return y + pull(torch.cos(h @ self.w))[0]
        return torch.func.grad(lambda z: (self.act(z @ self.w) ** 2).sum())(h) + h


@kind(0.7)
class Hyper(Piece):
    """A part that runs with weights which are not its own."""

    def __init__(self, options, h, make):
        super().__init__()
        self.inside = nn.Sequential(make.mix(h), nn.Tanh())
        self.act = make.relu(options["relu"])

    @staticmethod
    def draw(random, depth):
        return {"relu": random.choice(list(RELUS))}

    def forward(self, h):
        scale = torch.sigmoid(h.mean())
        weights = {name: p * scale for name, p in self.inside.named_parameters()}
        return self.act(functional_call(self.inside, weights, (h,)))


class Cube(torch.autograd.Function):
    """A function of a user's, of the new style."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g

    @staticmethod
    def jvp(ctx, t):
        return 3 * ctx.saved_tensors[0] ** 2 * t


class Old(torch.autograd.Function):
    """The same, of the old style."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return 3 * ctx.saved_tensors[0] ** 2 * g


class Reversed(torch.autograd.Function):
    """Gradient reversal: its backward is not the derivative of its value."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return -0.5 * g


@kind(0.7)
class Custom(Piece):
    """A custom function of autograd."""

    def __init__(self, options, h, make):
        super().__init__()
        self.f = Old.apply if options["old"] else Cube.apply

    @staticmethod
    def draw(random, depth):
        return {"old": random.random() < 0.2}

    def forward(self, h):
        return self.f(torch.tanh(h)) + 0.5 * h


@kind(0.5)
class Twisted(Piece):
    """A backward pass that is made on purpose not to be the derivative."""

    twisted = True

    def __init__(self, options, h, make):
        super().__init__()
        self.how, self.act = options["how"], make.relu(options["relu"])

    @staticmethod
    def draw(random, depth):
        return {
            "how": random.choice(("reversal", "hook", "straight through")),
            "relu": random.choice(list(RELUS)),
        }

    def forward(self, h):
        h = h * 1.0
        if self.how == "reversal":
            return self.act(Reversed.apply(h))
        if self.how == "hook":
            if h.requires_grad:
                h.register_hook(lambda g: g * 0.5)
            return self.act(F.softplus(h))
        return h + (h.round() - h).detach() + self.act(h)
