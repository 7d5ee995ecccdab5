"""Relevance rules in plain autograd: torch's linear functions replaced, by name, for a while.

A replaced function computes what it did, and its backward pass takes the cotangent ``c``, which is
relevance over activation, by the formula of a rule: of the papers, in `relevance.oracle`.
"""

import contextlib
from unittest import mock

import torch
import torch.nn.functional as F
from relevance import oracle

from .norms import by_hand
from .oracles import Unsaid


class Spelled:
    """``call(x, weight) + bias``, as the formulas ask for it."""

    def __init__(self, call, weight, bias):
        # What stands for 0 is for divisions; it must not be the sign of a sum.
        self.call = lambda x, w: call(torch.where(x.abs() < 2e-30, 0.0, x), w)
        self.weight, self.linear = weight, call
        self.bias = torch.zeros((), dtype=weight.dtype) if bias is None else bias

    def __call__(self, x):
        return self.call(x, self.weight) + self.bias

    def transposed(self, x, s, weight):
        with torch.enable_grad():
            x = torch.zeros_like(x, requires_grad=True)
            return torch.autograd.grad(self.linear(x, weight), x, s)[0]


def floored(x):
    return torch.where(x == 0, 1e-30, x)


class Related(torch.autograd.Function):
    """A value with the derivative that a rule gives; of the old style, unknown to torch.func."""

    @staticmethod
    def forward(ctx, x, out, layer, rule):
        ctx.x, ctx.out, ctx.layer, ctx.rule = x.detach().clone(), out.clone(), layer, rule
        return out.clone()

    @staticmethod
    def backward(ctx, c):
        x = floored(ctx.x)
        return ctx.rule(ctx.layer, x, c * floored(ctx.out)) / x, None, None, None


def depends(t):
    return isinstance(t, torch.Tensor) and t.requires_grad


class Linears:
    """While it is entered, linear functions go by ``rules``, of "linear" and of "convolution"."""

    def __init__(self, rules):
        self.rules = rules
        self.last = {}  # by identity: what a batch norm may be merged into

    def related(self, kind, x, weight, bias, call, own, scaled=None):
        """The value ``own()``, by the rule where x alone depends on what is explained."""
        if not depends(x) or depends(weight) or depends(bias) or not torch.is_grad_enabled():
            return own()
        with torch.no_grad():
            out = own()
        layer = Spelled(call, weight, bias)
        y = Related.apply(x, out, layer, self.rules[kind])
        if scaled is not None:
            self.last[id(y)] = (y, y._version, kind, x, x._version, layer, scaled)
        return y

    def linear(self, real):
        def linear(input, weight, bias=None):
            return self.related(
                "linear", input, weight, bias, lambda x, w: real(x, w),
                lambda: real(input, weight, bias), lambda w, s: w * s[:, None],
            )  # fmt: skip

        return linear

    def convolution(self, real, transposed):
        def convolve(input, weight, bias=None, *args, **kwargs):
            # For a transposed one output_padding is in the place of dilation.
            groups = kwargs.get("groups", args[3] if len(args) > 3 else 1)
            along = None if bias is None else bias.reshape(-1, *[1] * (weight.dim() - 2))

            def scaled(w, s):
                places = [1] * (w.dim() - 2)
                if not transposed:
                    return w * s.reshape(-1, 1, *places)
                split = w.unflatten(0, (groups, -1))
                return (split * s.reshape(groups, 1, -1, *places)).flatten(0, 1)

            return self.related(
                "convolution", input, weight, along, lambda x, w: real(x, w, None, *args, **kwargs),
                lambda: real(input, weight, bias, *args, **kwargs), scaled,
            )  # fmt: skip

        return convolve

    def product(self, real):
        """Of two factors, one of which depends on what is explained."""

        def multiply(*args, **kwargs):
            lead, (a, b), rest = args[:-2], args[-2:], ()
            if real is torch.tensordot and len(args) > 2:
                lead, (a, b), rest = (), args[:2], args[2:]
            if depends(b) and not depends(a):
                call = lambda x, w: real(*lead, w, x, *rest, **kwargs)
                a, b = b, a
            else:
                call = lambda x, w: real(*lead, x, w, *rest, **kwargs)
            own = lambda: real(*args, **kwargs)
            return self.related("linear", a, b, None, call, own)

        return multiply

    def added(self, real):
        def add(bias, x, weight):
            zero = torch.zeros_like(bias)
            own = lambda: real(bias, x, weight)
            scaled = (lambda w, s: w * s) if weight.dim() == 2 else None
            call = lambda x, w: real(zero, x, w)
            return self.related("linear", x, weight, bias, call, own, scaled)

        return add

    def norm(self, real):
        """Batch norm of fixed statistics is merged into the linear function right before it."""

        def norm(input, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
            out = lambda: real(input, mean, var, weight, bias, training, momentum, eps)
            found = self.last.get(id(input))
            if training or found is None or not depends(input):
                return out()
            y, version, kind, x, came, layer, scaled = found
            if y is not input or input._version != version:
                return out()  # of something else by now
            if x._version != came:
                raise Unsaid("a batch norm of an operation whose input was written to")
            places = [1] * (input.dim() - 2)
            factor = (var + eps).rsqrt() * (1 if weight is None else weight)
            shift = (0 if bias is None else bias) - mean * factor
            merged = layer.bias * factor.reshape(-1, *places) + shift.reshape(-1, *places)
            with torch.no_grad():
                value = out()
            one = Spelled(layer.linear, scaled(layer.weight, factor), merged)
            return Related.apply(x, value, one, self.rules[kind])

        return norm

    @contextlib.contextmanager
    def replaced(self):
        with contextlib.ExitStack() as stack:
            for d in (1, 2, 3):
                for name, transposed in ((f"conv{d}d", False), (f"conv_transpose{d}d", True)):
                    stack.enter_context(self._patch(F, name, self.convolution, transposed))
            stack.enter_context(self._patch(F, "linear", self.linear))
            stack.enter_context(by_hand())
            stack.enter_context(self._patch(F, "batch_norm", self.norm))
            for owner, name in ((torch, "einsum"), (torch, "tensordot"), (torch, "bmm"),
                                (torch.Tensor, "__matmul__")):  # fmt: skip
                stack.enter_context(self._patch(owner, name, self.product))
            for name in ("addmm", "baddbmm"):
                stack.enter_context(self._patch(torch, name, self.added))
            yield

    def _patch(self, owner, name, wrap, *more):
        return mock.patch.object(owner, name, wrap(getattr(owner, name), *more))


STEADY = 0.05  # a large eps: small values of z do not amplify rounding
FORMULAS = {
    "epsilon": oracle.epsilon(STEADY),
    "z_plus": oracle.z_plus(eps=STEADY),
    "alpha_beta": oracle.alpha_beta(2.0, 1.0, eps=STEADY),
    "gamma": oracle.gamma(0.25, eps=STEADY),
    "flat": oracle.flat(eps=STEADY),
    "w_square": oracle.w_square(eps=STEADY),
}
