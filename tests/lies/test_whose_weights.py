"""A product with a weight is linear, whoever differentiates the weight; of two factors that depend
on the input it is not.
"""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close
from torch import nn
from torch.func import grad, vmap

import funcattr as fa

RULES = fa.Composite([("linear", fa.rules.z_plus(eps=0.05))])


class Spelled(nn.Module):
    """A linear layer written as a product, and one by a weight that is made of another."""

    def __init__(self):
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4, 4))
        self.scale = nn.Parameter(torch.rand(1, 4))
        self.last = nn.Linear(4, 2)
        self.double()

    def forward(self, x):
        return self.last((x @ self.w @ (self.v * self.scale)).relu())


@pytest.fixture
def case():
    model, x = Spelled(), torch.randn(2, 3, dtype=torch.float64)
    layers = [nn.Linear(n, 4, bias=False).double() for n in (3, 4)]
    for layer, weight in zip(layers, (model.w, model.v * model.scale)):
        layer.weight.data = weight.detach().T.clone()
    plain = nn.Sequential(*layers, nn.ReLU(), model.last)
    return model, x, fa.lrp(plain, RULES)(x, target=1)


def test_the_model_and_its_function(case):
    model, x, expected = case
    f, params = fa.make_functional(model)
    assert_close(fa.lrp(model, RULES)(x, target=1), expected)
    assert_close(fa.lrp(f, RULES, 1)(params, x, target=1), expected)


def test_parameters_that_are_differentiated_further_out(case):
    model, x, expected = case
    f, params = fa.make_functional(model)
    attr = fa.lrp(f, RULES, 1)
    tracked = {name: p.clone().requires_grad_() for name, p in params.items()}
    assert_close(attr(tracked, x, target=1).detach(), expected)
    by_params = lambda p: (attr(p, x, target=1).square().sum(), attr(p, x, target=1))
    slopes, inside = grad(by_params, has_aux=True)(params)
    assert_close(inside, expected)
    torch.autograd.backward(attr(tracked, x, target=1).square().sum())
    assert_close({name: p.grad for name, p in tracked.items()}, slopes)
    stacked = {name: torch.stack([p, p]) for name, p in params.items()}
    assert_close(vmap(lambda p: attr(p, x, target=1))(stacked), torch.stack([expected] * 2))


def test_the_function_that_the_user_differentiates(case):
    """Here the model's own parameters are differentiable, at the same level as the input."""
    model, x, expected = case
    shown = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(fa.with_rules(model, RULES)(shown)[:, 1].sum(), shown)
    assert_close(found * x, expected)


@pytest.mark.compiled
def test_compiled_code(case):
    model, x, expected = case
    f, params = fa.make_functional(model)
    attr = torch.compile(fa.lrp(f, RULES, 1), fullgraph=True)
    assert_close(attr(params, x, target=1), expected)
    tracked = {name: p.clone().requires_grad_() for name, p in params.items()}
    assert_close(attr(tracked, x, target=1).detach(), expected)


@pytest.mark.parametrize("f", [F.linear, lambda x, w: x @ w.T], ids=["linear", "matmul"])
def test_a_weight_that_depends_on_the_input_is_none(f):
    """It keeps the true derivative, in every spelling."""
    w = torch.randn(3, 3, dtype=torch.float64)
    last = nn.Linear(3, 2).double()

    def hyper(x):
        return F.linear(f(x, w * x.mean().sigmoid()), last.weight, last.bias)

    x = torch.randn(2, 3, dtype=torch.float64)
    mine = nn.Linear(3, 2).double()
    mine.load_state_dict(last.state_dict())
    inner = lambda x: x @ (w * x.mean().sigmoid()).T
    hidden = inner(x)
    c = fa.gradient(fa.with_rules(mine, RULES))(hidden, target=1)
    expected = torch.func.vjp(inner, x)[1](c)[0]
    assert_close(fa.gradient(fa.with_rules(hyper, RULES))(x, target=1), expected)


@pytest.mark.parametrize(
    "rule", [fa.rules.z_plus(), fa.rules.alpha_beta(), fa.rules.gamma()], ids=lambda r: r.__name__
)
def test_exact_zeros_with_and_without_a_known_sign(rule):
    """DeconvNet lets pass what goes to an input of exactly 0; a negative one elsewhere in the batch
    must not change it.
    """
    head = nn.Linear(4, 3).double()
    rules = fa.Composite([("linear", rule), ("relu", fa.rules.deconvnet)])
    model = fa.with_rules(lambda x, shift: head(F.relu(x) - shift), rules)
    attr = fa.gradient(lambda x, shift: model(x, shift))
    x = torch.randn(2, 4, dtype=torch.float64)
    shift = torch.zeros(2, 4, dtype=torch.float64)
    whole = attr(x, shift, target=0)
    shift[1, 0] = 9.0
    assert_close(attr(x, shift, target=0)[0], whole[0])
