"""Lies of relevance and DeepLIFT that somebody found who did not know the code."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close
from torch import nn
from torch.func import grad
from torch.nn.utils.fusion import fuse_conv_bn_eval

import funcattr as fa

R = fa.rules
LRP_0 = fa.Composite([("linear", R.epsilon(0.0))])


def double(*layers):
    return nn.Sequential(*layers).double().eval()


def test_a_gradient_that_the_function_takes_of_itself():
    """Epsilon without an eps is gradient times input, whatever is differentiated inside."""
    inner = double(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 6))
    model = lambda x: inner(x) + grad(lambda q: inner(q).square().sum())(x)
    x = torch.randn(3, 6, dtype=torch.float64)
    attr = fa.gradient(fa.with_rules(model, LRP_0, require_match=False))
    expected = grad(lambda x: model(x)[:, 1].sum())(x)
    assert_close(attr(x, target=1), expected)
    assert_close(attr(x.clone().requires_grad_(), target=1).detach(), expected)


@pytest.mark.parametrize("how", ["input", "list", "bundle", "cam", "cams", "block"])
def test_a_merged_norms_input_has_no_relevance_of_its_own(how):
    model = double(
        nn.Conv2d(2, 3, 3), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), nn.Flatten(),
        nn.Linear(48, 4),
    )  # fmt: skip
    ruled = fa.with_rules(model, fa.composites.epsilon_plus())
    at = fa.layer_gradient_x_activation
    attr = {
        "input": lambda: at(ruled, "1.0", attribute_to_layer_input=True),
        "list": lambda: at(ruled, ["0", "1.0"]),
        "bundle": lambda: fa.bundle(at(ruled, "0"), at(ruled, "1.0")),
        "cam": lambda: fa.grad_cam(ruled, "1.0", attribute_to_layer_input=True),
        "cams": lambda: fa.grad_cam(ruled, ["0", "1.0"]),
        "block": lambda: at(ruled, "1", attribute_to_layer_input=True),
    }[how]()
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    with pytest.raises(fa.LayerError, match="explain the output of the norm"):
        attr(x, target=1)
    assert at(ruled, "1.0")(x, target=1).abs().sum() > 0


class Norms(nn.Module):
    """Two convolutions, two norms of the first one, in one order or the other."""

    def __init__(self, swapped):
        super().__init__()
        self.conv, self.other = nn.Conv2d(1, 2, 2), nn.Conv2d(1, 2, 2)
        self.a, self.b = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        nn.init.constant_(self.a.bias, 0.5)
        nn.init.constant_(self.b.bias, -0.7)
        nn.init.constant_(self.b.weight, -1.0)
        self.swapped = swapped
        self.double().eval()

    def forward(self, x):
        h = self.conv(x)
        other = self.other(x)
        if self.swapped:
            q = self.b(h).tanh()
            return (self.a(h).relu_() + q + other).flatten(1)
        p = self.a(h).relu_()
        return (p + self.b(h).tanh() + other).flatten(1)


@pytest.mark.parametrize("swapped", [False, True])
def test_each_norm_of_a_convolution_is_merged(swapped):
    model = Norms(swapped)
    one, two = (fuse_conv_bn_eval(model.conv, norm) for norm in (model.a, model.b))
    fused = lambda x: (one(x).relu() + two(x).tanh() + model.other(x)).flatten(1)
    x, composite = torch.randn(1, 1, 4, 4, dtype=torch.float64), fa.composites.epsilon_plus()
    assert_close(fa.lrp(model, composite)(x, target=1), fa.lrp(fused, composite)(x, target=1))


def test_torchs_own_batch_norm_is_merged():
    conv, norm = double(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2))
    norm.running_mean.uniform_()
    tensors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    spelled = lambda x: torch.batch_norm(conv(x), *tensors, False, 0.1, norm.eps, True).flatten(1)
    module = lambda x: norm(conv(x)).flatten(1)
    x, composite = torch.randn(1, 1, 4, 4, dtype=torch.float64), fa.composites.epsilon_plus()
    assert_close(fa.lrp(spelled, composite)(x, target=1), fa.lrp(module, composite)(x, target=1))


SPELLINGS = {
    "add": (lambda a, b: a + b, lambda a, b: a.add(other=b)),
    "subtract": (lambda a, b: a - b, lambda a, b: torch.subtract(a, b)),
    "sum": (lambda a, b: a.sum(1) + b.T, lambda a, b: torch.sum(input=a, dim=1) + b.T),
    "mul": (lambda a, b: a * b, lambda a, b: torch.mul(input=a, other=b)),
    "matmul": (lambda a, b: a @ b.T, lambda a, b: torch.matmul(input=a, other=b.T)),
    "mm": (lambda a, b: a @ b.T, lambda a, b: torch.mm(a, mat2=b.T)),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_tensors_by_name(name):
    a, b = nn.Linear(3, 4).double(), nn.Linear(3, 4).double()
    rows = [(kind, R.share) for kind in ("sum", "product", "matmul")]
    composite = fa.Composite([*rows, ("linear", R.epsilon(0.0))])
    x = torch.randn(2, 3, dtype=torch.float64)
    by_place, by_name = (
        fa.lrp(lambda x, f=f: f(a(x), b(x)).flatten(1), composite)(x, target=1)
        for f in SPELLINGS[name]
    )
    assert_close(by_name, by_place)
    plain = fa.lrp(lambda x: SPELLINGS[name][0](a(x), b(x)).flatten(1), LRP_0)(x, target=1)
    assert not torch.allclose(by_place, plain)


@pytest.mark.parametrize("rule", [R.gamma(0.3), R.alpha_beta(), R.z_plus()], ids=str)
def test_the_derivative_of_a_map_at_an_exact_zero(rule):
    """The one-sided derivative of the branch that the map itself is of at 0."""
    layer, weigh = nn.Linear(4, 3).double(), torch.randn(1, 4, dtype=torch.float64)
    attr = fa.lrp(layer, fa.Composite([("linear", rule)]))
    f = lambda x: (attr(x, target=1) * weigh).sum()
    x = torch.tensor([[0.0, 1.0, -2.0, 0.5]], dtype=torch.float64)
    step = torch.tensor([[1e-7, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert_close(grad(f)(x)[0, 0], (f(x + step) - f(x))[()] / 1e-7, 1e-5)


@pytest.mark.parametrize(
    "rule", [R.gamma(0.3), R.alpha_beta(), R.z_plus(), R.z_box(-3, 3)], ids=str
)
def test_the_derivative_of_a_map_by_a_weight_of_zero(rule):
    f, params = fa.make_functional(nn.Linear(4, 3).double())
    x, weigh = torch.randn(2, 1, 4, dtype=torch.float64)
    params["weight"][1, 2] = 0
    attr = fa.lrp(f, fa.Composite([("linear", rule)]), argnums=1)
    loss = lambda w: (attr({**params, "weight": w}, x, target=1) * weigh).sum()
    step = torch.zeros(3, 4, dtype=torch.float64)
    step[1, 2] = 1e-7
    w = params["weight"]
    assert_close(grad(loss)(w)[1, 2], (loss(w + step) - loss(w)) / 1e-7, 1e-5)


def test_deep_lift_compares_with_the_same_mask():
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 4)).double()
    x = torch.randn(3, 6, dtype=torch.float64)

    def drawn(f):
        torch.manual_seed(1)
        return f()

    attr = fa.deep_lift(model, baseline=0.3)
    difference = drawn(lambda: model(x)) - drawn(lambda: model(torch.full_like(x, 0.3)))
    assert_close(drawn(lambda: attr(x, target=1)).sum(1), difference[:, 1].detach())
    out, _ = drawn(lambda: attr.linearize(x))
    assert_close(out, drawn(lambda: model(x)).detach())


@pytest.mark.parametrize(
    "pool",
    [lambda x: F.adaptive_max_pool2d(x, 2), lambda x: F.max_pool2d(x, 2, return_indices=True)[0]],
    ids=["adaptive", "indices"],
)
def test_a_pooling_that_deep_lift_does_not_know_is_refused(pool):
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(fa.NoSiteError, match="max pooling"):
        fa.deep_lift(lambda x: pool(x).flatten(1), baseline=-x)(x, target=0)


@pytest.mark.parametrize("name", ["epsilon_plus", "epsilon_alpha2_beta1"])
def test_what_another_rule_has_prepared_is_no_activation(name):
    model = double(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.Flatten())
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    attrs = fa.lrp(model, getattr(fa.composites, name)()), fa.deep_lift(model)
    for both, alone in zip(fa.bundle(*attrs)(x, target=1), attrs):
        assert_close(both, alone(x, target=1))
