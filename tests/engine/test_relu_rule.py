"""Every spelling of every activation: the model's value bit for bit, the rule in the backward."""

import pytest
import torch
import torch.nn.functional as F
from conftest import SINCE_2_3
from helpers import assert_close, doubled, tiny, tiny_input
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import FORMULAS, rule_gradient
from torch import nn
from torch.func import grad, vjp

import funcattr as fa


def then_returned(in_place):
    def spelled(x):
        x = x.clone()
        assert in_place(x) is x
        return x

    return spelled


SPELLINGS = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU(inplace)": lambda x: nn.ReLU(inplace=True)(x.clone()),
    "F.relu": F.relu,
    "F.relu(inplace)": then_returned(lambda x: F.relu(x, inplace=True)),
    "F.relu(positional inplace)": then_returned(lambda x: F.relu(x, True)),
    "F.relu(input=)": lambda x: F.relu(input=x),
    "F.relu_": then_returned(lambda x: F.relu_(x)),
    "torch.relu": torch.relu,
    "torch.relu(input=)": lambda x: torch.relu(input=x),
    "torch.relu_": then_returned(lambda x: torch.relu_(x)),
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": then_returned(lambda x: x.relu_()),
    "aten.relu": torch.ops.aten.relu,
    "aten.relu.default": torch.ops.aten.relu.default,
    # torch 2.0 does not take its own name for the argument
    **({"aten.relu(self=)": lambda x: torch.ops.aten.relu(self=x)} if SINCE_2_3 else {}),
    "aten.relu_": then_returned(lambda x: torch.ops.aten.relu_(x)),
    "in place on a view": lambda x: (lambda y: (y[0].relu_(), y[1:].relu_(), y)[-1])(x.clone()),
}
CLIPPED = {
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6(inplace)": lambda x: nn.ReLU6(inplace=True)(x.clone()),
    "F.relu6": F.relu6,
    "F.hardtanh(x, 0, 6)": lambda x: F.hardtanh(x, 0, 6),
    "F.hardtanh(min_val=0.)": lambda x: F.hardtanh(x, min_val=0.0, max_val=6.0),
    "F.hardtanh(inplace)": then_returned(lambda x: F.hardtanh(x, 0.0, 6.0, True)),
    "F.hardtanh_": then_returned(lambda x: F.hardtanh_(x, 0.0, 6.0)),
    "nn.Hardtanh": nn.Hardtanh(0.0, 6.0),
    "aten.hardtanh": lambda x: torch.ops.aten.hardtanh(x, 0.0, 6.0),
}
RULES = {**FORMULAS, "doubled": doubled}
X = torch.tensor([[-2.0, -0.0, 0.0, 0.5], [5.5, 6.0, 7.0, -1e-30]], dtype=torch.float64)
G = torch.tensor([[1.0, 1.0, -1.0, 2.0], [-3.0, 1.0, 1.0, 1.0]], dtype=torch.float64)


def library_rule(name):
    return getattr(fa.rules, name, doubled)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("spelling", [*SPELLINGS, *CLIPPED])
def test_every_spelling(spelling, rule):
    f = {**SPELLINGS, **CLIPPED}[spelling]
    gate = (X < 6) if spelling in CLIPPED else 1
    before = X.clone()
    out, pullback = vjp(fa.relu_rule(f, library_rule(rule)), X)
    assert torch.equal(out, f(X))
    assert torch.equal(out.signbit(), f(X).signbit())
    assert torch.equal(pullback(G)[0], RULES[rule](X, G) * gate)
    assert torch.equal(X, before)


@pytest.mark.parametrize("rule", RULES)
def test_an_in_place_relu_whose_result_is_discarded(rule):
    def f(x):
        y = 1 * x
        F.relu(y, inplace=True)
        return y * y

    out, pullback = vjp(fa.relu_rule(f, library_rule(rule)), X)
    assert torch.equal(out, X.relu() ** 2)
    assert torch.equal(pullback(G)[0], RULES[rule](X, 2 * X.relu() * G))


def test_an_in_place_relu_on_the_input_itself_writes_to_a_copy():
    x = X.clone()
    maps = fa.guided_backprop(nn.ReLU(inplace=True))(x, target=3)
    assert torch.equal(x, X)
    assert_close(maps, FORMULAS["guided"](X, torch.eye(4, dtype=torch.float64)[[3, 3]]))


class Skip(nn.Module):
    """A pre-activation block: the skip path reads what the in-place ReLU wrote."""

    def __init__(self, reused):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)
        self.other = self.relu if reused else nn.ReLU()

    def forward(self, x):
        y = self.relu(x := self.first(x))
        y = self.second(self.other(self.second(y)))
        return x + self.relu(y)


@pytest.mark.parametrize("rule", FORMULAS)
@pytest.mark.parametrize("reused", [False, True])
def test_a_skip_path_and_one_module_used_many_times(rule, reused):
    model = Skip(reused).double()
    attr = fa.rule_backprop(model, library_rule(rule))
    for target in range(4):
        assert_close(attr(X, target=target), rule_gradient(model, X, target, rule))


SMOOTH = {
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "leaky_relu_in_place": lambda x: F.leaky_relu(x.clone(), 0.2, inplace=True),
    "elu": nn.ELU(0.7),
    "celu": nn.CELU(0.7),
    "selu": F.selu,
    "gelu": nn.GELU(approximate="tanh"),
    "silu": nn.SiLU(inplace=False),
    "mish": F.mish,
    "softplus": nn.Softplus(beta=2),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "threshold": lambda x: F.threshold(x, 0.1, -1.0),
    "sigmoid": torch.sigmoid,
    "tanh": lambda x: x.tanh(),
    "clamp": lambda x: x.clamp(min=0.0),
    "clamp_tensor": lambda x: torch.clamp(x, torch.zeros(4).double(), torch.ones(4).double()),
    "hardtanh": F.hardtanh,
    "prelu": nn.PReLU(4, 0.3).double(),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_other_activations_where_they_are_named(name):
    f, activation = SMOOTH[name], name.replace("_in_place", "").replace("_tensor", "")
    x = X.clone().requires_grad_()
    f(x).backward(G)
    ruled = {rule: vjp(fa.relu_rule(f, library_rule(rule), sites=activation), X) for rule in RULES}
    assert all(torch.equal(out, f(X)) for out, _ in ruled.values())
    maps = {rule: pullback(G)[0] for rule, (_, pullback) in ruled.items()}
    assert_close(maps["standard"], x.grad)
    assert_close(maps["guided"], x.grad.clamp(min=0))
    assert_close(maps["deconvnet"], G.clamp(min=0))
    assert_close(maps["doubled"], 2 * G * (X > 0))


@pytest.mark.parametrize("name", [n for n in SMOOTH if "relu" not in n])
def test_other_activations_are_left_alone_otherwise(name):
    f = SMOOTH[name]
    ruled = fa.relu_rule(f, require_match=False)
    assert_close(vjp(ruled, X)[1](G)[0], vjp(f, X)[1](G)[0])
    with pytest.raises(fa.NoSiteError, match="met none of the activations"):
        fa.relu_rule(f)(X)


def test_the_weight_of_a_prelu_has_its_true_gradient():
    f, params = fa.make_functional(nn.PReLU(4, 0.3).double())
    ruled = fa.relu_rule(f, sites="prelu")
    come = grad(lambda p: (ruled(p, X) * G).sum())(params)["weight"]
    assert_close(come, grad(lambda p: (f(p, X) * G).sum())(params)["weight"])
    tangent = {"weight": torch.arange(4.0).double()}
    for function in (ruled, f):
        out = torch.func.jvp(lambda p, f=function: f(p, X), (params,), (tangent,))[1]
        assert_close(out, torch.where(X > 0, 0, X) * tangent["weight"])


def test_a_mapping_gives_each_function_its_own_rule():
    def f(x):
        return torch.sin(x.relu()) + F.gelu(x)

    ruled = fa.relu_rule(
        f, sites={F.relu: fa.rules.deconvnet, torch.sin: lambda x, g: 10 * g, F.gelu: doubled}
    )
    assert torch.equal(ruled(X), f(X))
    assert_close(vjp(ruled, X)[1](G)[0], (10 * G).clamp(min=0) + doubled(X, G))


def test_a_predicate_keeps_the_rule_to_some_modules():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU()).double()
    attr = fa.deconvnet(model, sites=lambda path: path == "1")
    split = lambda x: torch.relu(model[2](fa.relu_rule(model[:2], fa.rules.deconvnet)(x)))
    assert_close(attr(X, target=1), fa.gradient(split)(X, target=1))
    assert [
        site.replaced for site in fa.sites(fa.relu_rule(model, sites=lambda p: p == "1"), X)
    ] == [
        True,
        False,
    ]


@given(
    batch=st.integers(1, 3),
    seed=st.integers(0, 2**20),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    rule=st.sampled_from(sorted(FORMULAS)),
)
@settings(deadline=None, max_examples=30)
def test_forward_bitwise_and_maps_equal_the_oracle(batch, seed, scale, rule):
    model, x = tiny(seed % 5), scale * tiny_input(batch, seed)
    ruled = fa.relu_rule(model, library_rule(rule))
    assert torch.equal(ruled(x), model(x))
    target = [seed % 4] * batch
    ours = fa.rule_backprop(model, library_rule(rule))(x, target=target)
    assert_close(ours, rule_gradient(model, x, target, rule))


def test_rules_stay_outside_of_the_function():
    """Gradients that the function itself takes are part of its value."""

    def force(x):
        return -grad(lambda x: (torch.tanh(x).relu() ** 2).sum())(x)

    ruled = fa.relu_rule(force, fa.rules.deconvnet, require_match=False)
    assert torch.equal(ruled(X), force(X))
    both = fa.relu_rule(lambda x: torch.relu(force(x)), fa.rules.deconvnet)
    assert torch.equal(both(X), force(X).relu())


def test_nested_rules_the_inner_one_wins_where_it_acts():
    inner = fa.relu_rule(torch.relu, doubled)
    outer = fa.relu_rule(lambda x: torch.relu(inner(x) - 1), fa.rules.deconvnet)
    assert_close(vjp(outer, X)[1](G)[0], doubled(X, G.clamp(min=0)))


def test_nan_passes_where_it_must():
    x = torch.tensor([[float("nan"), 1.0]])
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert fa.input_x_gradient(model)(x, target=1).isnan()[0, 0]
    assert torch.equal(
        fa.rule_backprop(model, fa.rules.standard)(x, target=1), fa.gradient(model)(x, target=1)
    )


def test_integers_and_complex_numbers_pass_by():
    def f(x):
        mask = torch.relu(torch.tensor([-1, 1, 2, 3]))
        return torch.relu(x) * mask

    assert torch.equal(fa.relu_rule(f)(X), f(X))
