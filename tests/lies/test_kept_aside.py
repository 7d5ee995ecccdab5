"""A layer's output that somebody keeps aside, and that the model reads later, or gives back."""

import pytest
import torch
from conftest import VERSION
from torch import nn

import funcattr as fa
from funcattr.compat import captum as ours

X = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Kept(nn.Module):
    """A layer that keeps its output on itself."""

    def __init__(self, in_place=False):
        super().__init__()
        self.inner, self.relu = nn.Linear(4, 5), nn.ReLU(inplace=in_place)
        self.last = None

    def forward(self, x):
        self.last = self.relu(self.inner(x))
        return self.last


class Net(nn.Module):
    """Reads what ``way`` kept of ``layer``'s output, beside what that returned."""

    def __init__(self, way, read="once", in_place=False):
        super().__init__()
        self.layer, self.way, self.read = Kept(in_place), way, read
        self.one, self.two = nn.Linear(5, 3), nn.Linear(5, 3)
        self.store = {}
        if way == "hook":
            self.layer.register_forward_hook(lambda m, args, out: self.store.update(kept=out))
        if way == "inner hook":
            self.layer.relu.register_forward_hook(lambda m, args, out: self.store.update(kept=out))

    def kept(self, y):
        if self.way == "itself":
            return self.layer.last
        return self.store["kept"]

    def head(self, y, kept):
        if self.read == "list":
            return self.one(y) + self.two(torch.stack([kept, kept])[0])
        if self.read == "written":
            kept += 1.0
            return self.one(y * 1.0) + self.two(y)
        if self.read == "returned":
            return torch.cat([self.one(y), kept], 1)
        if self.read == "given back":
            return {"logits": self.one(y), "kept": kept}
        return self.one(y) + self.two(kept)

    def forward(self, x):
        y = self.layer(x)
        return self.head(y, self.kept(y))

    def behind(self, y):
        """The rest of the network, as a function of the layer's output."""
        out = self.head(y, y)
        return out["kept"] if isinstance(out, dict) else out


READS = ("once", "list", "written", "returned", "given back")
HOOKS = pytest.mark.skipif(VERSION < (2, 1), reason="layers with hooks are refused there")
WAYS = ["itself", *(pytest.param(way, marks=HOOKS) for way in ("hook", "inner hook"))]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("way", WAYS)
def test_who_reads_it_later_counts(way, read, in_place):
    torch.manual_seed(1)
    net = Net(way, read, in_place).double()
    target = (lambda out: out["kept"][:, 1]) if read == "given back" else 1
    activation = net.layer(X).detach()
    y = activation.clone().requires_grad_()
    out = net.behind(y * 1.0)
    expected = torch.autograd.grad(out[:, 1].sum(), y)[0]
    plain = net(X)
    for layer in ("layer", "layer.relu"):
        attr = fa.layer_gradient_x_activation(net, layer, multiply_by_inputs=False)
        torch.testing.assert_close(attr(X, target=target), expected)
        shown = attr.linearize(X)[0]
        torch.testing.assert_close(shown, plain, rtol=0, atol=0)
        torch.testing.assert_close(fa.sweep(attr, X, targets=[target, target])[1], expected)
        each = torch.vmap(lambda x, attr=attr: attr(x[None], target=target)[0])(X)
        torch.testing.assert_close(each, expected)


@HOOKS
def test_a_layer_that_is_called_again_and_reads_what_it_gave():
    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
            self.last = []
            self.cell.register_forward_hook(lambda m, args, out: self.last.append(out))

        def forward(self, x):
            self.last.clear()
            self.cell(self.cell(x).tanh())
            return self.head(self.last[0] * self.last[1])

    torch.manual_seed(0)
    net = Again().double()
    first = (nn.functional.linear(X, net.cell.weight, net.cell.bias)).detach().requires_grad_()
    second = nn.functional.linear(first.tanh(), net.cell.weight, net.cell.bias)
    out = net.head(first * second)[:, 1].sum()
    expected = torch.autograd.grad(out, (first, second))
    for call, right in enumerate(expected):
        attr = fa.layer_gradient_x_activation(net, f"cell:{call}", multiply_by_inputs=False)
        torch.testing.assert_close(attr(X, target=1), right)


@HOOKS
def test_a_unet_by_hooks():
    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.deep = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            self.head, self.skip = nn.Conv2d(6, 2, 1), None
            self.down.register_forward_hook(self.keep)

        def keep(self, module, args, out):
            self.skip = out

        def forward(self, x):
            deep = self.deep(self.down(x).relu())
            return self.head(torch.cat([deep, self.skip], 1)).mean((2, 3))

    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    net, x = UNet().double(), torch.randn(2, 1, 5, 5, dtype=torch.float64)
    theirs = captum.LayerGradCam(net, net.down).attribute(x, 1)
    torch.testing.assert_close(fa.grad_cam(net, "down", relu=False)(x, target=1), theirs)
    torch.testing.assert_close(ours.LayerGradCam(net, net.down).attribute(x, 1), theirs)
