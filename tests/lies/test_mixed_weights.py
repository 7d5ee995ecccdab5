"""Attention's weights that a layer has mixed: CP-LRP cannot tell them from values, and says so."""

import pytest
import torch
from conftest import VERSION
from torch import nn

import funcattr as fa
from funcattr import composites
from funcattr.errors import HiddenSiteError

X = torch.randn(2, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Four heads, whose weights are mixed in some way before they meet the values."""

    def __init__(self, way, detached=False):
        super().__init__()
        self.way, self.detached = way, detached
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 3)
        self.heads, self.conv = nn.Linear(4, 4, bias=False), nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def mixed(self, a):
        if self.way == "linear":
            return self.heads(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.way == "einsum":
            return torch.einsum("bhij,hg->bgij", a, self.heads.weight)
        if self.way == "conv":
            return self.conv(a)
        if self.way == "conv, norm":
            return self.norm(self.conv(a))
        if self.way == "difference":
            return a - 0.3 * a.roll(1, 1).contiguous()
        if self.way == "two":
            first, second = a.split(2, 1)
            return torch.cat([first - second, second], 1)
        if self.way == "product":
            return a * a.mT.contiguous()
        if self.way == "in place":
            b = a.clone()
            b.sub_(0.5 * a.flip(1))
            return self.conv(b)
        if self.way == "pooled":
            return nn.functional.avg_pool2d(a, 3, 1, 1)
        return a

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(2, 5, 3, 4, 2).permute(2, 0, 3, 1, 4)
        a = self.mixed(torch.softmax(q @ k.transpose(-2, -1), -1))
        if self.detached:
            a = a.detach()
        y = a @ v
        return self.out(y.transpose(1, 2).reshape(2, 5, 8).mean(1))


WAYS = ["linear", "einsum", "conv", "conv, norm", "difference", "two", "product", "in place"]


def net(way, detached=False):
    torch.manual_seed(0)
    return Attention(way, detached).double().eval()


@pytest.mark.parametrize("way", [*WAYS, "pooled"])
def test_cp_lrp_says_that_it_cannot_tell(way):
    with pytest.raises(HiddenSiteError, match=r"made of a softmax.*detach.*require_match=False"):
        fa.lrp(net(way), composites.cp_lrp())(X, target=1)


@pytest.mark.parametrize("way", WAYS)
def test_detached_they_are_what_cp_lrp_takes_for_weights(way):
    ruled = fa.with_rules(net(way, True), composites.cp_lrp(), require_match=False)
    maps = fa.input_x_gradient(ruled)(X, target=1)
    x = X.clone().requires_grad_()
    (g,) = torch.autograd.grad(net(way, True)(x)[:, 1].sum(), x)
    torch.testing.assert_close(maps, x.detach() * g)


@pytest.mark.parametrize("way", WAYS)
def test_a_half_each_where_that_is_asked_for(way):
    ruled = fa.with_rules(net(way), composites.cp_lrp(), require_match=False)
    maps = fa.input_x_gradient(ruled)(X, target=1)
    whole = fa.input_x_gradient(net(way, True))(X, target=1)
    assert not torch.allclose(maps, whole)


def test_attn_lrp_gives_a_half_to_each_anyway():
    for way in WAYS:
        assert fa.lrp(net(way), composites.attn_lrp())(X, target=1).isfinite().all()


def test_unmixed_weights_are_weights():
    maps = fa.lrp(net("none"), composites.cp_lrp())(X, target=1)
    torch.testing.assert_close(maps, fa.input_x_gradient(net("none", True))(X, target=1))


class External(nn.Module):
    """Attention with constant keys and values, by softmaxes alone, and then a gate."""

    def __init__(self):
        super().__init__()
        self.keys, self.values = nn.Linear(8, 6, bias=False), nn.Linear(6, 8, bias=False)
        self.gate, self.out = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        y = self.values(torch.softmax(self.keys(x), -1))
        return self.out((torch.sigmoid(self.gate(x)) * y).mean(1))


def test_what_is_gated_may_be_made_of_a_softmax():
    assert fa.lrp(External().double(), composites.cp_lrp())(X, target=1).abs().sum() > 0


@pytest.mark.compiled
@pytest.mark.skipif(VERSION < (2, 13), reason="funcattr refuses to be compiled before")
def test_compiled_as_well():
    torch.compiler.reset()
    attr = fa.lrp(net("linear"), composites.cp_lrp())
    with pytest.raises(Exception, match="made of a softmax"):
        torch.compile(attr, backend="aot_eager")(X, target=torch.tensor(1))
