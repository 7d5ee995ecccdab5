"""Cases that somebody found by trying to make the library lie; each was wrong, or crashed, once."""

import functools
import sys
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close
from torch import nn

import funcattr as fa
from funcattr.core.graph import name_of

X = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
PICTURE = torch.randn(2, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SMOOTH = (
    "sigmoid",
    "prelu",
    "gelu",
    "silu",
    "softplus",
    "elu",
    "hardswish",
    "leaky_relu",
    "mish",
    "selu",
)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_activations_under_vmap(name):
    weight = torch.full((4,), 0.3, dtype=torch.float64)
    f = functools.partial(F.prelu, weight=weight) if name == "prelu" else getattr(F, name)
    attr = fa.guided_backprop(f, sites=name)
    ties = X.clone()
    ties[0] = 0
    maps = attr(ties, target=1)
    assert_close(torch.vmap(lambda x: attr(x[None], target=1)[0])(ties), maps)
    x = ties.clone().requires_grad_()
    (true,) = torch.autograd.grad(f(x)[:, 1].sum(), x)
    assert_close(maps, torch.relu(true))


def test_the_derivative_of_a_map_by_a_rule_that_reads_x():
    own = lambda x, g: g * torch.sigmoid(x)
    weight = torch.cos(torch.arange(8.0, dtype=torch.float64)).reshape(4, 2)
    attr = fa.rule_backprop(lambda x: torch.relu(x) @ weight, own)
    f = lambda x: attr(x, target=1)
    v, step = X.flip(1), 1e-6
    numeric = (f(X + step * v) - f(X - step * v)) / (2 * step)
    assert numeric.abs().max() > 0.01
    assert_close(torch.func.jvp(f, (X,), (v,))[1], numeric, 1e-6)
    pulled = torch.func.vjp(f, X)[1](torch.ones_like(X))[0]
    assert_close((pulled * v).sum(), numeric.sum(), 1e-6)
    x = X.clone().requires_grad_()
    assert_close(torch.autograd.grad(f(x).sum(), x)[0], pulled)


class Halved:
    """A pair whose rule shows: half of the true cotangent."""

    def prepare(self, operation):
        return ()

    def pull(self, operation, g):
        return operation.pull(g / 2)


@pytest.mark.parametrize("others", [[], [("relu", fa.rules.standard)]])
def test_a_rule_at_a_norm_that_would_be_folded(others):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
    model.double().eval()
    ruled = fa.with_rules(model, fa.Composite([("norm", Halved()), *others]))
    wanted = fa.gradient(model)(PICTURE, target=1) / 2
    assert_close(fa.gradient(ruled)(PICTURE, target=1), wanted)
    assert_close(fa.sweep(fa.gradient(ruled), PICTURE, targets=[1])[0], wanted)


def test_names_are_given_in_threads():
    class Thing:
        pass

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    names, start = [[] for _ in range(6)], threading.Barrier(6)

    def work(i):
        start.wait()
        things = [Thing() for _ in range(200)]
        names[i] = [name_of(thing) for thing in things]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    try:
        [t.start() for t in threads]
        [t.join() for t in threads]
    finally:
        sys.setswitchinterval(before)
    assert len({name for some in names for name in some}) == 6 * 200


def test_a_rule_at_a_method_of_tensors():
    f = fa.relu_rule(lambda x: x.sin(), sites={torch.Tensor.sin: lambda x, g: 2 * g})
    assert_close(fa.gradient(f)(X, target=1)[:, 1], torch.full((3,), 2.0, dtype=torch.float64))


@pytest.mark.parametrize(
    "name, call",
    [
        ("selu", "torch.selu(x)"),
        ("elu", "torch.nn.functional.elu(x)"),
        ("clamp", "torch.clamp(x, -1.0, 1.0)"),
        ("prelu", "torch.nn.functional.prelu(x, w)"),
        ("relu6", "torch.nn.functional.relu6(x)"),
        ("gelu", "torch.nn.functional.gelu(x)"),
    ],
)
def test_activations_in_scripted_functions(name, call):
    weight = torch.tensor([0.25], dtype=torch.float64)
    more = {"clamp": (-1.0, 1.0), "prelu": (weight,)}.get(name, ())
    visible = getattr(F, name, None) or getattr(torch, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still met
        unit = torch.jit.CompilationUnit(f"def f(x, w):\n    return {call}\n")
    attr = fa.guided_backprop(lambda x: visible(unit.f(x * 1.0, weight), *more), sites=name)
    with pytest.raises(fa.NoSiteError, match="no Python call made"):
        attr(X, target=1)


def test_elu_and_selu_are_told_apart_where_both_are_visible():
    attr = fa.guided_backprop(lambda x: F.elu(torch.selu(x)), sites="elu")
    x = X.clone().requires_grad_()
    h = torch.selu(x)
    y = F.elu(h)
    (g,) = torch.autograd.grad(y[:, 1].sum(), h, retain_graph=True)
    assert_close(attr(X, target=1), torch.autograd.grad(h, x, torch.relu(g))[0])


def test_a_model_that_holds_a_function_of_torch():
    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.torch = torch.ops.aten.relu, torch

        def forward(self, x):
            return self.act(x)

    assert_close(fa.guided_backprop(Held())(X, target=1)[:, 1], (X[:, 1] > 0).double())


def test_sites_lists_products_with_a_weight():
    weight = torch.ones(4, 5, dtype=torch.float64)
    ruled = fa.with_rules(lambda x: x @ weight, fa.Composite([("linear", fa.rules.epsilon(1.0))]))
    assert [met.activation for met in fa.sites(ruled, X)] == ["linear"]
