"""What a checkpoint repeats follows the rules that it followed before."""

import pytest
import torch
import torch.nn.functional as F
from conftest import VERSION
from helpers import assert_close
from torch import nn
from torch.utils.checkpoint import checkpoint

import funcattr as fa

FLAT = fa.composites.epsilon_plus_flat()


class Net(nn.Module):
    def __init__(self, where=()):
        super().__init__()
        self.where = where
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def part(self, i, f, x):
        return checkpoint(f, x, use_reentrant=False) if i in self.where else f(x)

    def forward(self, x):
        h = self.part(0, lambda x: F.relu(self.a(x)), x)
        return self.c(self.part(1, lambda h: torch.tanh(self.b(h)), h))


def both(where):
    plain = Net().double()
    other = Net(where).double()
    other.load_state_dict(plain.state_dict())
    return plain, other


@pytest.mark.filterwarnings("ignore:the targets are explained one by one")
@pytest.mark.parametrize("where", [(0,), (1,), (0, 1)], ids=str)
def test_the_first_layer_in_a_checkpoint(where):
    plain, checkpointed = both(where)
    x = torch.randn(3, 6, dtype=torch.float64)
    one, two = fa.lrp(plain, FLAT), fa.lrp(checkpointed, FLAT)
    assert_close(two(x, target=1), one(x, target=1))
    assert_close(fa.sweep(two, x, targets=[1, 2]), fa.sweep(one, x, targets=[1, 2]))
    mine, theirs = (fa.conserved(attr, x, target=1) for attr in (two, one))
    assert_close(mine.arrived, theirs.arrived)
    assert [row.rule for row in mine.rows] == [row.rule for row in theirs.rows]


def test_calls_that_cannot_be_told_apart():
    a, b = nn.Linear(6, 6).double(), nn.Linear(6, 6).double()
    inner = lambda x: F.linear(F.linear(x, a.weight).relu(), b.weight)
    model = lambda x: checkpoint(inner, x, use_reentrant=False)
    x = torch.randn(3, 6, dtype=torch.float64)
    with pytest.raises(fa.FuncattrError, match="a checkpoint repeats it, where"):
        fa.lrp(model, FLAT)(x, target=1)
    assert_close(
        fa.lrp(model, fa.composites.epsilon_plus())(x, target=1),
        fa.lrp(inner, fa.composites.epsilon_plus())(x, target=1),
    )


@pytest.mark.skipif(VERSION < (2, 8), reason="torch.func itself fails in a checkpoint")
def test_deep_lift_says_that_it_cannot():
    _, checkpointed = both((1,))
    x = torch.randn(3, 6, dtype=torch.float64)
    with pytest.raises(fa.FuncattrError, match=r"in a checkpoint .* switch it off"):
        fa.deep_lift(checkpointed)(x, target=1)
