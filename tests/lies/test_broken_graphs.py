"""A model that breaks the compiler's graph: its attributions are Python's, not half of each."""

import pytest
import torch
from conftest import VERSION
from torch import nn
from torch.testing import assert_close

import funcattr as fa
from funcattr.engine.backward import Backward

X = torch.ones(2)


class Broken(nn.Module):
    """Dynamo cannot trace ``Tensor.unflatten`` under a mode; what comes before it, it can."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.split, self.head = nn.Unflatten(1, (2, 2)), nn.Linear(64, 3)

    def forward(self, x):
        h = self.split(self.norm(self.conv(x)).relu_())
        return self.head((h * torch.sigmoid(h)).flatten(1))


METHODS = {
    "attn_lrp": lambda net: fa.lrp(net, fa.composites.attn_lrp()),
    "input": lambda net: fa.layer_gradient_x_activation(net, "norm", attribute_to_layer_input=True),
}


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore::UserWarning")  # what the compiler remarks
@pytest.mark.parametrize("name", METHODS)
def test_the_maps_are_those_of_python(name):
    """Of other such networks pieces were compiled: tests/fuzz has one."""
    net = Broken().double().eval().requires_grad_(False)
    x, attr = torch.randn(2, 2, 4, 4, dtype=torch.float64), METHODS[name](net)
    torch.compiler.reset()
    code = torch.compile(attr, backend="aot_eager")
    for target in (1, 2):
        assert_close(code(x, target=target), attr(x, target=target))


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_function_around_them():
    net = Broken().double().eval().requires_grad_(False)
    attr = METHODS["attn_lrp"](net)
    ruled = fa.with_rules(net, fa.composites.epsilon_plus())

    def both(x):
        x = x * 2
        return attr(x, target=1).abs().sum() + ruled(x).sum()

    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    torch.compiler.reset()
    assert_close(torch.compile(both, backend="aot_eager")(x), both(x))


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_target_that_breaks_it():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    attr, x = fa.rule_backprop(net, fa.rules.guided), torch.randn(2, 4, dtype=torch.float64)

    def target(out):
        torch._dynamo.graph_break()
        return out[:, 1]

    torch.compiler.reset()
    assert_close(torch.compile(attr, backend="aot_eager")(x, target=target), attr(x, target=1))


@pytest.mark.compiled
def test_what_compiled_code_has_linearized_stays_there():
    """Pulled by Python it would have no graph."""
    with pytest.raises(fa.FuncattrError, match="what compiled code has linearized"):
        Backward(None, None, None, [X], [X], [], [])([X], [0], [], 0)


class Branch(nn.Module):
    """Torch compiles a ``cond`` as it runs, which it does under no mode."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: self.one(x).relu(), self.two, (x,))


@pytest.mark.compiled
@pytest.mark.skipif(VERSION < (2, 13), reason="its cond is another")
def test_a_cond_in_the_model_is_an_error_in_words():
    torch.compiler.reset()
    for attr in fa.gradient(Branch()), fa.guided_backprop(Branch()):
        with pytest.raises(fa.FuncattrError, match=r"compiles itself.*torch\.where"):
            attr(X[None], target=1)
