"""One map at a time, where some operations take another way to the same derivative."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcattr as fa
from tests.helpers import assert_close
from tests.oracle import rule_gradient

FIRST = {
    "as in ResNets": {"ins": 3, "k": 7, "stride": 2, "padding": 3},
    "patches": {"ins": 3, "k": 4, "stride": 4},
    "grey": {"ins": 1, "k": 3, "stride": 2, "padding": 1},
    "places left": {"ins": 2, "k": 2, "stride": 3},
    "padded differently": {"ins": 3, "k": 4, "stride": 2, "padding": (2, 1)},
    "grouped": {"ins": 4, "k": 3, "stride": 2, "groups": 2},
    "one place apart": {"ins": 3, "k": 3, "stride": 1, "padding": "same"},
}


class Net(nn.Module):
    """A first layer, ReLUs in place, and what reads and writes what they made."""

    def __init__(self, ins, k, **how):
        super().__init__()
        self.first = nn.Conv2d(ins, 4, k, **how)
        self.relu6 = nn.ReLU6(inplace=True)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        x = self.relu6(self.first(x) * 4)
        x = x + x.mean()
        x = F.relu_(F.hardtanh(x - 1, 0, 3))  # it writes to what clipped ReLUs return
        y = x.sin()
        return self.last((y - F.relu6(y - 0.2, inplace=True)).mean((2, 3)))


@pytest.fixture(params=FIRST)
def net(request):
    torch.manual_seed(0)
    return Net(**FIRST[request.param]).double()


def picture(net, batch=1):
    return torch.randn(batch, net.first.in_channels, 13, 11, dtype=torch.float64)


@pytest.mark.parametrize("rule", ["standard", "guided", "deconvnet"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_map_is_the_oracles(net, rule, batch, channels_last):
    x = picture(net, batch)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    got = fa.rule_backprop(net, getattr(fa.rules, rule))(x, target=1)
    assert_close(got, rule_gradient(net, x, 1, rule), 1e-12)


def test_the_derivative_of_a_map_is_torchs(net):
    x = picture(net).requires_grad_()
    v = torch.randn_like(x)
    (g,) = torch.autograd.grad(net(x)[:, 1].sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad((g * v).sum(), x)
    (got,) = torch.autograd.grad((fa.gradient(net)(x, target=1) * v).sum(), x)
    assert_close(got, expected, 1e-12)


def test_by_the_weights_too(net):
    f, params = fa.make_functional(net)
    x = picture(net, 2)
    loss = lambda params: fa.gradient(f, argnums=1)(params, x, target=1).square().sum()
    got = torch.func.grad(loss)(params)

    def plain(params):
        out = lambda x: torch.func.functional_call(net, params, (x,))[:, 1].sum()
        return torch.func.grad(out)(x).square().sum()

    assert_close(got, torch.func.grad(plain)(params), 1e-11)


@pytest.mark.compiled
def test_compiled():
    torch.compiler.reset()
    net = Net(**FIRST["as in ResNets"]).double()
    x = picture(net)
    compiled = torch.compile(fa.guided_backprop(net), fullgraph=True)
    assert_close(compiled(x, target=torch.tensor(1)), rule_gradient(net, x, 1, "guided"), 1e-12)
