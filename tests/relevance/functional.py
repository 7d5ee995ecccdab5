"""Networks as people write them, where hooks on modules see too little or the wrong thing.

Each says what it is as a chain for the oracle. Rules know them by what they do, so their relevance
is as sure as that of a Sequential.
"""

import torch
import torch.nn.functional as F
from torch import nn

from relevance.layers import (
    Cat,
    Chain,
    Linear,
    MaxPool,
    Routed,
    Sum,
    mean,
    norm_alone,
    relu,
    smooth,
    weighted,
)
from relevance.models import randn, ready


class Net(nn.Module):
    """Two channels in, four outputs; most of them have the same parts."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3, eps=0.01)
        self.same = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(3, 4)

    def tail(self, x):
        return self.head(x.mean((2, 3)))

    def tail_chain(self):
        return mean(lambda x: x.mean((2, 3))), weighted(self.head)


class Spelled(Net):
    """Every operation by a function or a method."""

    def forward(self, x):
        h = F.conv2d(x, self.conv.weight, self.conv.bias, padding=1)
        norm = self.norm
        stats = norm.running_mean, norm.running_var, norm.weight, norm.bias
        h = F.max_pool2d(F.relu(F.batch_norm(h, *stats, eps=norm.eps)), 2)
        h = torch.conv2d(h, self.same.weight, self.same.bias, padding="same").relu()
        h = F.avg_pool2d(h, 3).view(len(x), -1)
        return F.linear(h, self.head.weight, self.head.bias)

    def chain(self):
        first = (weighted(self.conv, self.norm), relu(), MaxPool(2, 2))
        pool = mean(lambda x: F.avg_pool2d(x, 3))
        return Chain(*first, weighted(self.same), relu(), pool, Routed(), weighted(self.head))


class Products(nn.Module):
    """Linear layers as products with a matrix, of tokens, with a tied weight."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.empty(12, 5))
        self.v = nn.Linear(5, 4, bias=False)

    def forward(self, x):
        h = torch.relu(torch.matmul(x.flatten(1).unflatten(1, (6, 12)), self.w))
        return torch.tanh(h.mean(1)) @ self.v.weight.t() + F.linear(h.mean(1), self.v.weight)

    def chain(self):
        tokens = Routed(lambda x: x.flatten(1).unflatten(1, (6, 12)))
        product = Linear("linear", lambda x, w: x @ w, self.w.detach())
        branches = (Chain(smooth(nn.Tanh()), weighted(self.v)), Chain(weighted(self.v)))
        return Chain(tokens, product, relu(), mean(lambda x: x.mean(1)), Sum(*branches))


class Skips(Net):
    """Blocks that add what they were given, by an operator, in place, and by a function."""

    def forward(self, x):
        h = self.relu(self.norm(self.conv(x)))
        h = h + torch.tanh(self.same(h))
        r = self.same(h)
        r += h
        return self.tail(torch.add(self.relu(r), h))

    def chain(self):
        first = Sum(Chain(), Chain(weighted(self.same), smooth(nn.Tanh())))
        second = Sum(Chain(weighted(self.same)), Chain())
        last = Sum(Chain(second, relu()), Chain())
        return Chain(weighted(self.conv, self.norm), relu(), first, last, *self.tail_chain())


class Shared(Net):
    """One convolution, one norm and one ReLU, three times."""

    def forward(self, x):
        h = self.conv(x)
        for _ in range(3):
            h = self.relu(self.norm(self.same(h)))
        return self.tail(h)

    def chain(self):
        thrice = [layer for _ in range(3) for layer in (weighted(self.same, self.norm), relu())]
        return Chain(weighted(self.conv), *thrice, *self.tail_chain())


class InPlace(Net):
    """What a ReLU writes over is read again afterwards: the skip path adds the rectified tensor."""

    def forward(self, x):
        h = self.conv(x)
        body = self.same(F.relu(h, inplace=True))
        body.add_(h)
        return self.tail(torch.relu_(body))

    def chain(self):
        skip = Sum(Chain(weighted(self.same)), Chain())
        return Chain(weighted(self.conv), relu(), skip, relu(), *self.tail_chain())


class NormAfterSum(Net):
    """A batch norm whose convolution has something added to it: it cannot be merged."""

    def forward(self, x):
        h = self.relu(self.conv(x))
        return self.tail(self.relu(self.norm(self.same(h) + h)))

    def chain(self):
        skip = Sum(Chain(weighted(self.same)), Chain())
        first = (weighted(self.conv), relu(), skip, norm_alone(self.norm), relu())
        return Chain(*first, *self.tail_chain())


class HeadFirst(Net):
    """Registered in another order than that of the calls."""

    def __init__(self):
        super().__init__()
        self.conv = self._modules.pop("conv")

    def forward(self, x):
        return self.tail(self.relu(self.norm(self.same(self.relu(self.conv(x))))))

    def chain(self):
        first = (weighted(self.conv), relu(), weighted(self.same, self.norm), relu())
        return Chain(*first, *self.tail_chain())


class Moved(Net):
    """Concatenation, padding, slices, a permuted copy, upsampling, constants."""

    def forward(self, x):
        h = self.relu(self.conv(x))
        h = torch.cat([h[:, :1], self.relu(self.same(h))[:, 1:]], 1) * 0.1
        h = F.pad(h, (1, 0, 0, 1)).flip(3).permute(0, 1, 3, 2)
        h = F.interpolate(h[..., 1:-1], scale_factor=2) / 3
        return 5 * self.tail(self.same(h).tanh())

    def chain(self):
        one = Chain(Routed(lambda x: x[:, :1]))
        rest = Chain(weighted(self.same), relu(), Routed(lambda x: x[:, 1:]))
        plain = lambda f: Linear(None, lambda x, _: f(x))
        moved = plain(lambda x: F.pad(x, (1, 0, 0, 1)).flip(3).permute(0, 1, 3, 2))
        scaled = plain(lambda x: F.interpolate(x[..., 1:-1], scale_factor=2) / 30)
        end = (weighted(self.same), smooth(nn.Tanh()), *self.tail_chain())
        first = (weighted(self.conv), relu(), Cat(one, rest), moved, scaled)
        return Chain(*first, *end, plain(lambda x: x * 5))


class Differences(Net):
    """Branches that are taken away, added in parts, and scaled."""

    def forward(self, x):
        h = self.relu(self.conv(x))
        h = torch.sub(h, self.same(h))
        return self.tail(torch.add(h, self.relu(self.same(h)), alpha=0.5))

    def chain(self):
        first = Sum(Chain(), Chain(weighted(self.same)), signs=(1.0, -1.0))
        second = Sum(Chain(), Chain(weighted(self.same), relu()), signs=(1.0, 0.5))
        return Chain(weighted(self.conv), relu(), first, second, *self.tail_chain())


class Transposed(Net):
    """Batch norms without weights, and behind transposed convolutions with groups."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False)
        self.up = nn.ConvTranspose2d(3, 6, 3, 2, 1, groups=3, bias=False)
        self.after = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        h = self.relu(self.norm(self.conv(x)))
        return self.tail(self.relu(self.after(self.up(h))))

    def chain(self):
        first = (weighted(self.conv, self.norm), relu(), weighted(self.up, self.after), relu())
        return Chain(*first, *self.tail_chain())


NETS = {net.__name__: net for net in (Spelled, Products, Skips, Shared, InPlace, HeadFirst)}
NETS |= {net.__name__: net for net in (NormAfterSum, Moved, Differences, Transposed)}
# Of some arithmetic it is not settled whether a row for "sum" or "mean" acts at it: differences,
# sums by parts, upsampling. Under a tiny stabiliser that makes no difference.
UNSETTLED = ("Moved", "Differences")
# Excitation backprop is for ReLUs and merged norms: what else to do, authors do not agree on.
NOT_RECTIFIED = ("Products", "Skips", "Moved", "NormAfterSum")


def written(name, seed=0):
    """A model, its chain, and a batch of two inputs."""
    model = ready(NETS[name](), seed)
    return model, model.chain(), randn(2, 2, 6, 6)
