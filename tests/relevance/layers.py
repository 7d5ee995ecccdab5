"""Networks written out as lists of layers, for the slow reference in `oracle`.

Nothing of funcattr, torch.func or autograd is in here. The transpose of a linear layer is that of a
dense matrix, one row per number of the input, made by the layer's own forward pass with whatever
weights the rule asks for.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Linear:
    """``call(x, weight) + bias``, where ``call`` is linear in ``x``."""

    def __init__(self, kind, call, weight=None, bias=0.0):
        self.kind, self.call, self.weight = kind, call, weight
        self.bias = torch.as_tensor(bias, dtype=torch.float64)

    def __call__(self, x):
        return self.call(x, self.weight) + self.bias

    def transposed(self, x, s, weight):
        rows = torch.eye(x[0].numel(), dtype=x.dtype).reshape(-1, *x.shape[1:])
        matrix = self.call(rows, weight).flatten(1)
        return (s.flatten(1) @ matrix.T).reshape(x.shape)

    def relevance(self, x, r, rule_of):
        return rule_of(self)(self, x, r)

    def walk(self):
        yield self


class Elementwise(Linear):
    """``f(x)`` with the derivative that is given; its weight means nothing."""

    def __init__(self, f, derivative, kind="activation"):
        super().__init__(kind, lambda x, _: f(x))
        self.derivative = derivative

    def transposed(self, x, s, weight):
        return self.derivative(x) * s


class MaxPool(Linear):
    """All of a window's relevance goes to its winner."""

    def __init__(self, dims, *args):
        self.pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
        self.args = args
        super().__init__("max_pool", lambda x, _: self.pool(x, *args))

    def transposed(self, x, s, weight):
        _, winners = self.pool(x, *self.args, return_indices=True)
        flat = torch.zeros_like(x).flatten(2)
        return flat.scatter_add_(2, winners.flatten(2), s.flatten(2)).reshape(x.shape)


class Routed(Linear):
    """Puts the numbers of its input in other places, as views and padding do; relevance follows."""

    def __init__(self, f=lambda x: x.flatten(1)):
        super().__init__("routed", lambda x, _: f(x))


class Chain:
    def __init__(self, *layers):
        self.layers = layers

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def relevance(self, x, r, rule_of):
        inputs = []
        for layer in self.layers:
            inputs.append(x)
            x = layer(x)
        for layer in reversed(self.layers):
            r = layer.relevance(inputs.pop(), r, rule_of)
        return r

    def walk(self):
        for layer in self.layers:
            yield from layer.walk()


class Sum(Chain):
    """Branches of one input, added up, each ``signs`` times: skip connections."""

    def __init__(self, *branches, signs=None):
        super().__init__(*branches)
        signs = torch.tensor(signs or [1.0] * len(branches), dtype=torch.float64)
        self.joined = Linear("sum", lambda x, _: torch.einsum("bk...,k->b...", x, signs))

    def __call__(self, x):
        return self.joined(torch.stack([branch(x) for branch in self.layers], 1))

    def relevance(self, x, r, rule_of):
        terms = torch.stack([branch(x) for branch in self.layers], 1)
        shares = self.joined.relevance(terms, r, rule_of).unbind(1)
        return sum(b.relevance(x, share, rule_of) for b, share in zip(self.layers, shares))


class Cat(Chain):
    """Branches of one input, side by side."""

    def __call__(self, x):
        return torch.cat([branch(x) for branch in self.layers], 1)

    def relevance(self, x, r, rule_of):
        shares = r.split([branch(x).shape[1] for branch in self.layers], 1)
        return sum(b.relevance(x, share, rule_of) for b, share in zip(self.layers, shares))


def relu():
    return Elementwise(lambda x: x * (x > 0), lambda x: (x > 0).to(x))


# The derivative of each smooth activation, written out.
DERIVATIVES = {
    nn.Tanh: lambda x: 1 - torch.tanh(x) ** 2,
    nn.Sigmoid: lambda x: torch.sigmoid(x) * (1 - torch.sigmoid(x)),
    nn.GELU: lambda x: (
        (1 + torch.erf(x / 2**0.5)) / 2 + x * torch.exp(-(x**2) / 2) / (2 * torch.pi) ** 0.5
    ),
}


def smooth(module):
    return Elementwise(module, DERIVATIVES[type(module)])


def norm_alone(norm):
    """A batch norm with no linear layer before it that it could be merged into."""
    scale, shift = scale_and_shift(norm)
    shape = lambda x: (-1, *[1] * (x.dim() - 2))
    return Elementwise(
        lambda x: x * scale.reshape(shape(x)) + shift.reshape(shape(x)),
        lambda x: scale.reshape(shape(x)) * torch.ones_like(x),
        kind="norm",
    )


def mean(f):
    return Linear("mean", lambda x, _: f(x))


def scale_and_shift(norm):
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    return scale.detach(), (shift if norm.bias is None else shift + norm.bias).detach()


def weighted(module, norm=None):
    """A linear or convolution module, with the batch norm behind it merged into it.

    Scaling what comes out is the same as scaling the weights, whatever their layout; so the merged
    weight is made where an output channel is known to be, for each layout by itself.
    """
    weight = module.weight.detach()
    bias = torch.zeros(()).to(weight) if module.bias is None else module.bias.detach()
    dims = 0 if isinstance(module, nn.Linear) else weight.dim() - 2
    if norm is not None:
        scale, shift = scale_and_shift(norm)
        bias = bias * scale + shift
        if getattr(module, "transposed", False):
            groups = weight.unflatten(0, (module.groups, -1))
            scale = scale.reshape(module.groups, 1, -1, *[1] * dims)
            weight = (groups * scale).flatten(0, 1)
        else:
            weight = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    if bias.dim():
        bias = bias.reshape(-1, *[1] * dims)
    if isinstance(module, nn.Linear):
        return Linear("linear", lambda x, w: x @ w.T, weight, bias)
    return Linear("convolution", convolution(module, dims), weight, bias)


def convolution(module, dims):
    if module.transposed:
        f = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        how = (module.stride, module.padding, module.output_padding, module.groups)
        return lambda x, w: f(x, w, None, *how, module.dilation)
    f = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    how = (module.dilation, module.groups)
    if module.padding_mode == "zeros":
        return lambda x, w: f(x, w, None, module.stride, module.padding, *how)
    sides = [p for p in reversed(module.padding) for _ in range(2)]
    padded = lambda x: F.pad(x, sides, mode=module.padding_mode)
    return lambda x, w: f(padded(x), w, None, module.stride, 0, *how)
