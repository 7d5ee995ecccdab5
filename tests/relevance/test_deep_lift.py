"""DeepLIFT: against Captum where that is right, and against the sum that it has to have."""

import captum.attr
import pytest
import torch
from helpers import assert_close, assert_unchanged, snapshot
from torch import nn

import funcattr as fa
from relevance.models import randn


def ready(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers).double().eval()


NETS = {
    "relu": (lambda: (nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (6,)),
    "smooth": (lambda: (nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 5), nn.Tanh()), (6,)),
    "sigmoid": (lambda: (nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 5), nn.ELU()), (6,)),
    "norm": (
        lambda: (nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(), nn.Flatten()),
        (2, 6, 6),
    ),
    "pooling": (lambda: (nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.Flatten()), (2, 6, 6)),
    "pooling in time": (lambda: (nn.Conv1d(2, 4, 3), nn.MaxPool1d(2), nn.Flatten()), (2, 8)),
    "pooling of volumes": (
        lambda: (nn.Conv3d(2, 3, 2), nn.MaxPool3d(2), nn.Flatten()),
        (2, 5, 5, 5),
    ),
    "average pooling": (
        lambda: (nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()),
        (2, 6, 6),
    ),
}


def more(model, x, x0, target):
    """What the output has more than for the baseline."""
    return (model(x) - model(x0))[:, target].detach()


@pytest.mark.parametrize("name", NETS)
def test_as_captum(name):
    make, shape = NETS[name]
    model = ready(*make())
    x, x0 = randn(3, *shape), randn(1, *shape, seed=1)
    before = snapshot(model)
    ours = fa.deep_lift(model, baseline=x0)(x, target=1)
    assert_unchanged(model, before)
    theirs = captum.attr.DeepLift(model).attribute(x.clone(), x0.expand_as(x).clone(), target=1)
    assert_close(ours, theirs.detach(), 1e-9)
    assert_close(ours.flatten(1).sum(1), more(model, x, x0, 1), 1e-9)


class Shared(nn.Module):
    """One activation that is called again and again, functions, a skip, and a write in place."""

    def __init__(self):
        super().__init__()
        self.inner, self.out, self.relu = nn.Linear(6, 6), nn.Linear(6, 3), nn.ReLU(inplace=True)

    def forward(self, x):
        for _ in range(3):
            x = x + self.relu(self.inner(x))
            x = torch.tanh(x).exp().sqrt()
        return self.out(x)


def by_hand(model, x, x0):
    """Multipliers through `Shared`, one after the other, for each output."""
    steps = []
    inner, out = model.inner, model.out
    with torch.no_grad():
        for _ in range(3):
            h, h0 = inner(x), inner(x0)
            y, y0 = x + h.clamp(min=0), x0 + h0.clamp(min=0)
            z, z0 = (torch.tanh(v).exp().sqrt() for v in (y, y0))
            t, t0 = torch.tanh(y), torch.tanh(y0)
            e, e0 = t.exp(), t0.exp()
            slopes = ((t - t0) / (y - y0)) * ((e - e0) / (t - t0)) * ((z - z0) / (e - e0))
            gate = (h.clamp(min=0) - h0.clamp(min=0)) / (h - h0)
            steps.append((gate, slopes))
            x, x0 = z, z0
    c = out.weight[0].detach().expand_as(x)
    for gate, slopes in reversed(steps):
        c = c * slopes
        c = c + (c * gate) @ inner.weight.detach()
    return c


def test_shared_modules_functions_and_skips():
    """Captum's is another map, since it sees modules, and each of them once."""
    torch.manual_seed(0)
    model = Shared().double()
    x, x0 = randn(4, 6), randn(4, 6, seed=1)
    ours = fa.deep_lift(model, baseline=x0)(x, target=0)
    assert_close(ours, by_hand(model, x, x0) * (x - x0), 1e-9)
    assert_close(ours.sum(1), more(model, x, x0, 0), 1e-9)


def test_pooling_behind_relus_adds_up_where_captums_does_not():
    model = ready(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 5))
    x, x0 = randn(2, 3, 8, 8), randn(2, 3, 8, 8, seed=1)
    expected = more(model, x, x0, 1)
    ours = fa.deep_lift(model, baseline=x0)(x, target=1)
    assert_close(ours.flatten(1).sum(1), expected, 1e-9)
    theirs = captum.attr.DeepLift(model).attribute(x.clone(), x0.clone(), target=1)
    assert (theirs.flatten(1).sum(1) - expected).abs().max() > 1e-3


def tiny():
    return ready(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 6), nn.Softplus(), nn.Linear(6, 4)),
    )


def test_compositions():
    model, x, x0 = tiny(), randn(2, 2, 6, 6), randn(1, 2, 6, 6, seed=1)
    attr = fa.deep_lift(model, baseline=x0)
    expected = attr(x, target=1)
    assert_close(torch.vmap(attr.linearize(x)[1])(torch.arange(3))[1], expected, 1e-12)
    assert_close(fa.sweep(attr, x, targets=range(4), chunk_size=3)[1], expected, 1e-12)
    alone = torch.vmap(lambda x: attr(x[None], target=1)[0])(x)
    assert_close(alone, expected, 1e-12)
    others = fa.bundle(fa.gradient(model), attr, fa.deep_lift(model, baseline=0.5))(x, target=1)
    assert_close(others[1], expected, 1e-12)
    assert_close(others[0], fa.gradient(model)(x, target=1), 1e-12)
    assert_close(others[2], fa.deep_lift(model, baseline=0.5)(x, target=1), 1e-12)


def test_derivatives():
    """By the input, by the baseline and by a weight."""
    model = tiny()
    f, params = fa.make_functional(model)
    weigh = randn(2, 2, 6, 6, seed=2)

    def total(x, x0, weight):
        attr = fa.deep_lift(f, baseline=x0, argnums=1)
        return (attr({**params, "0.weight": weight}, x, target=1) * weigh).sum()

    args = (randn(2, 2, 6, 6), randn(2, 2, 6, 6, seed=1), params["0.weight"])
    grads = torch.func.grad(total, argnums=(0, 1, 2))(*args)
    for i, arg in enumerate(args):
        way, h = torch.randn_like(arg), 1e-6
        at = lambda s, i=i, way=way: total(
            *(a + s * way if n == i else a for n, a in enumerate(args))
        )
        assert_close((at(h) - at(-h)) / (2 * h), (grads[i] * way).sum(), 1e-5)
        pushed = torch.func.jvp(
            lambda s, at=at: at(s),
            (torch.zeros((), dtype=way.dtype),),
            (torch.ones((), dtype=way.dtype),),
        )
        assert_close(pushed[1], (grads[i] * way).sum(), 1e-9)


@pytest.mark.compiled
def test_compiled():
    model, x, x0 = tiny(), randn(2, 2, 6, 6), randn(1, 2, 6, 6, seed=1)
    attr = fa.deep_lift(model, baseline=x0)
    expected = attr(x, target=1)
    compiled = torch.compile(attr, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x, target=1), expected, 1e-12)
    assert_close(fa.sweep(attr, x, targets=range(3), compile=True)[1], expected, 1e-12)
    torch.compiler.reset()


def test_several_arguments():
    f = lambda x, y: torch.relu(x - 2 * y).sum(1, keepdim=True)
    x, y = randn(3, 4), randn(3, 4, seed=1)
    maps = fa.deep_lift(f, baseline=(0.0, torch.ones(4, dtype=x.dtype)), argnums=(0, 1))(
        x, y, target=0
    )
    total = f(x, y) - f(torch.zeros_like(x), torch.ones_like(y))
    assert_close(sum(m.sum(1) for m in maps), total[:, 0], 1e-12)


def test_what_is_linear_needs_no_rule():
    layer = nn.Linear(3, 2).double()
    x = randn(2, 3)
    assert_close(fa.deep_lift(layer)(x, target=0), x * layer.weight[0].detach(), 1e-12)


def test_bad_input():
    model, x = tiny(), randn(2, 2, 6, 6)
    with pytest.raises(fa.ArgumentError, match="a baseline broadcasts to its input"):
        fa.deep_lift(model, baseline=torch.zeros(5))(x, target=0)
    with pytest.raises(fa.ArgumentError, match="baseline has the form of what is explained"):
        fa.deep_lift(model, baseline="zeros")(x, target=0)
    odd = lambda x: torch.relu(x) if x.sum() > 0 else torch.tanh(x)
    with pytest.raises(fa.FuncattrError, match="other operations for the baseline"):
        fa.deep_lift(odd, baseline=-1.0)(torch.ones(1, 3), target=0)


ACTIVATIONS = (nn.Softsign(), nn.LogSigmoid(), nn.Softshrink(), nn.Hardshrink(), nn.Tanhshrink())


@pytest.mark.parametrize("f", [*ACTIVATIONS, nn.Hardsigmoid(), torch.special.erf, torch.expm1])
def test_the_sum_for_rarer_functions(f):
    first, last = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()
    model, x = lambda x: last(f(first(x))), randn(2, 4)
    difference = model(x) - model(torch.full_like(x, 0.3))
    found = fa.deep_lift(model, baseline=0.3)(x, target=1)
    assert_close(found.sum(1), difference[:, 1].detach())
