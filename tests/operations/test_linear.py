"""Sites of linear operations: torch's own values bit for bit, its derivatives of every kind."""

import copy
import weakref

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close
from torch import nn

import funcattr as fa
from funcattr.operations import fold


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def conv(dims, *, x=7, ins=4, outs=4, k=3, groups=1, bias=True, batch=2, **how):
    """A convolution and what it is called with; even sizes leave places that no window reaches."""
    f = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    lead = () if batch is None else (batch,)
    weight = randn(outs, ins // groups, *[k] * dims)
    args = [randn(*lead, ins, *range(x, x + dims)), weight, *([randn(outs)] if bias else [])]
    return lambda *args: f(*args, groups=groups, **how), args


def norm(dims, *, affine=True, eps=1e-3):
    tensors = [randn(3), randn(3).abs() + 0.1, *([randn(3, seed=1), randn(3, seed=2)] * affine)]
    f = lambda x, *tensors: F.batch_norm(x, *tensors, training=False, eps=eps)
    return f, [randn(2, 3, *[4] * dims), *tensors]


def pool(*args, **kwargs):
    return lambda x: F.max_pool2d(x, *args, **kwargs), [randn(2, 3, 7, 8)]


CASES = {
    "conv1d": conv(1, stride=2, padding=1),
    "conv2d": conv(2),
    "conv2d without bias": conv(2, bias=False, padding=(1, 0)),
    "conv2d dilated": conv(2, dilation=(2, 1), padding=2, stride=(2, 3)),
    "conv2d grouped": conv(2, groups=2, stride=2),
    "conv2d depthwise": conv(2, groups=4, padding=1),
    "conv2d depthwise, dilated": conv(2, groups=4, dilation=(2, 1), padding=(1, 2)),
    "conv2d depthwise, more padding than window": conv(2, groups=4, padding=(3, 1)),
    "conv2d depthwise, two of each": conv(2, groups=4, outs=8),
    "conv1d depthwise of one example": conv(1, groups=4, batch=None),
    "conv3d depthwise": conv(3, x=4, groups=4, padding=1),
    "conv2d 1x1": conv(2, k=1, outs=3),
    "conv2d 1x1, places apart": conv(2, k=1, stride=2),
    "conv2d 1x1, padded": conv(2, k=1, padding=(0, 1)),
    "conv2d 1x1 of one example": conv(2, k=1, outs=3, batch=None),
    "conv1d of single places": conv(1, k=1, outs=3),
    "conv3d of single places": conv(3, x=4, k=1, outs=3),
    "conv2d of one example": conv(2, batch=None, stride=2),
    "conv2d same": conv(2, padding="same"),
    "conv2d valid": conv(2, padding="valid"),
    "conv3d": conv(3, x=4, stride=2, padding=1),
    "first layer": conv(2, ins=3, k=7, x=12, stride=2, padding=3),
    "first layer, stride 3": conv(2, ins=1, k=5, x=13, stride=3, padding=(2, 0)),
    "first layer, places left": conv(2, ins=2, k=2, x=8, stride=4, padding=1),
    "first layer, windows apart": conv(2, ins=2, k=2, x=9, stride=3),
    "first layer of one example": conv(2, ins=3, batch=None, stride=2, padding=1),
    "batch_norm": norm(2),
    "batch_norm of vectors": norm(0),
    "batch_norm in 3 dims": norm(3, affine=False),
    "max_pool2d": pool(2),
    "max_pool2d overlapping": pool(3, 2, 1),
    "max_pool2d dilated": pool((2, 3), stride=(1, 2), dilation=2, ceil_mode=True),
}


def norm_written_out(x, mean, var, weight=None, bias=None, eps=1e-3):
    """torch's own knows neither forward mode nor derivatives by its statistics."""
    shape = (-1, *[1] * (x.dim() - 2))
    out = (x - mean.reshape(shape)) / torch.sqrt(var.reshape(shape) + eps)
    return out if weight is None else out * weight.reshape(shape) + bias.reshape(shape)


class AsItIs:
    """A rule that is the true derivative, so that an operation is a site."""

    reads_x = False

    def prepare(self, operation):
        return ()

    def pull(self, operation, g):
        return operation.pull(g)


KINDS = ("convolution", "norm", "max_pool", "linear", "mean", "pad")


def ours_of(f):
    rows = [(kind, AsItIs()) for kind in KINDS]
    return fa.with_rules(f, fa.Composite(rows), require_match=False)


def dense(f, *shapes):
    return f, [randn(*shape) for shape in shapes]


def mean(pool, *args, **kwargs):
    return lambda x: pool(x, *args, **kwargs), [randn(2, 3, 7, 8)]


CASES |= {
    "avg_pool2d": mean(F.avg_pool2d, 2),
    "avg_pool2d overlapping": mean(F.avg_pool2d, (3, 2), stride=(2, 1), padding=1),
    "avg_pool2d with its options": mean(
        F.avg_pool2d, 3, 2, 1, ceil_mode=True, count_include_pad=False, divisor_override=5
    ),
    "avg_pool2d of a part": mean(F.avg_pool2d, 7),
    "avg_pool2d of all": mean(F.avg_pool2d, (7, 8)),
    "adaptive_avg_pool2d": mean(F.adaptive_avg_pool2d, (3, 2)),
    "adaptive_avg_pool2d of all": mean(F.adaptive_avg_pool2d, 1),
    "adaptive_avg_pool2d of rows": mean(F.adaptive_avg_pool2d, (None, 1)),
    "pad": mean(F.pad, (0, 1, 2, 3)),
    "pad with a value": mean(F.pad, (1, 0), value=2.0),
    "pad and cut": mean(F.pad, (1, -1)),
    "pad with what is there": mean(F.pad, (1, 1, 2, 0), mode="circular"),
    "pad channels": mean(F.pad, (0, 0, 1, 1, 1, 0)),
    "linear": dense(F.linear, (2, 5, 3), (4, 3), (4,)),
    "linear without bias": dense(F.linear, (2, 3), (4, 3)),
    "linear of one example": dense(F.linear, (3,), (4, 3), (4,)),
}


@pytest.fixture(params=CASES)
def case(request):
    """What torch can differentiate, ours, and the arguments."""
    f, args = CASES[request.param]
    return norm_written_out if "norm" in request.param else f, ours_of(f), args


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_torch(name):
    f, args = CASES[name]
    ours = ours_of(f)
    assert torch.equal(ours(*args), f(*args))
    half = [a.bfloat16() for a in args]
    assert torch.equal(ours(*half), f(*half))


def test_cotangents_of_every_argument(case):
    f, ours, args = case
    out, theirs = torch.func.vjp(f, *args)
    g = torch.randn_like(out)
    assert_close(torch.func.vjp(ours, *args)[1](g), theirs(g), 1e-12)
    many = torch.stack([g, 2 * g, -g])
    assert_close(torch.vmap(torch.func.vjp(ours, *args)[1])(many), torch.vmap(theirs)(many), 1e-12)


def test_tangents_of_every_argument(case):
    f, ours, args = case
    tangents = [torch.randn_like(a) for a in args]
    for moving in (range(len(args)), [0], [len(args) - 1]):
        t = tuple(t if i in moving else torch.zeros_like(t) for i, t in enumerate(tangents))
        theirs = torch.func.jvp(f, tuple(args), t)[1]
        assert_close(torch.func.jvp(ours, tuple(args), t)[1], theirs, 1e-12)


def test_second_derivatives(case):
    f, ours, args = case
    v, g = [torch.randn_like(a) for a in args], torch.randn_like(f(*args))

    def directional(f):
        def pulled(*args):
            grads = torch.func.vjp(lambda *args: f(*args).sin(), *args)[1](g)
            return sum((grad * w).sum() for grad, w in zip(grads, v))

        return torch.func.grad(pulled, tuple(range(len(args))))(*args)

    assert_close(directional(ours), directional(f), 1e-10)


def test_many_cotangents_of_a_batch_under_vmap(case):
    f, ours, args = case
    xs = torch.stack([args[0], args[0] + 1])

    def grads(f):
        return torch.vmap(torch.func.jacrev(lambda x: f(x, *args[1:]).sum(-1)))(xs)

    assert_close(grads(ours), grads(f), 1e-12)


def convolved(x, w, **how):
    return F.conv2d(x, w, padding=1, **how)


def normed(y, eps=1e-5):
    c = y.shape[1]
    return F.batch_norm(y, randn(c), randn(c).abs() + 0.1, randn(c, seed=1), randn(c, seed=2))


def watched(y, read=lambda y: y):
    """A hook, set before ``read`` reads what it is on, or after."""
    after = read(y)
    y.register_hook(lambda g: 2 * g)
    return after


def four(x):
    return torch.cat([x, x[:, :1]], 1)


def frozen(y):
    with torch.no_grad():
        return y.clone()


EVEN, SQUARE = randn(4, 3, 2, 4), randn(4, 4, 2, 2)
W, V = [randn(4, 3, 3, 3), randn(4, 4, 3, 3)], randn(3, 2, 1, 3, 3)
# What stands between a convolution and a batch norm, and how many pairs fold into one.
BETWEEN = {
    "nothing": (1, lambda x: normed(convolved(x, W[0]))),
    "a stride": (1, lambda x: normed(convolved(x, W[0], stride=2))),
    "more padding at the end": (
        2,
        lambda x: normed(
            F.conv2d(normed(F.conv2d(x, EVEN, padding="same")), SQUARE, padding="same")
        ),
    ),
    "groups": (2, lambda x: normed(convolved(normed(convolved(x, W[0])), W[1][:, :1], groups=4))),
    "vectors in time": (1, lambda x: normed(F.conv1d(x.flatten(2), W[0][..., 0])).unsqueeze(-1)),
    "another reader": (1, lambda x: (y := convolved(x, W[0])) * normed(y)),
    "two norms": (1, lambda x: normed(y := convolved(x, W[0])) + normed(y).sin()),
    "a later write": (1, lambda x: normed(y := convolved(x, W[0])) * y.mul_(2)),
    "a write": (0, lambda x: normed(convolved(x, W[0]).mul_(2))),
    "a write to the input": (
        1,
        lambda x: (z := normed(convolved(x, W[0]))) + normed((convolved(z, W[1]), z.mul_(3))[0]),
    ),
    "another convolution": (
        0,
        lambda x: (y := convolved(x, W[0]), z := convolved(y, W[1])) and normed(y) * z,
    ),
    "a hook": (0, lambda x: normed(watched(convolved(x, W[0])))),
    "a later hook": (1, lambda x: watched(convolved(x, W[0]), normed)),
    "no gradient": (0, lambda x: normed(frozen(convolved(x, W[0]))) * x.mean()),
    "a cut": (0, lambda x: normed(convolved(x, W[0]).detach_()) * x.mean()),
    "inside of a gradient": (
        0,
        lambda x: torch.func.grad(lambda x: normed(convolved(x, W[1])).sin().sum())(four(x)),
    ),
    "volumes read as a batch": (
        0,
        lambda x: F.pad(normed(F.conv3d(x, V))[:2], (0, 0, 0, 0, 0, 1)) * x.mean(),
    ),
    "a weight that depends": (0, lambda x: normed(convolved(x, W[0] * x.mean()))),
    "statistics that depend": (
        0,
        lambda x: F.batch_norm(
            convolved(x, W[0]), x.mean((0, 2, 3)).repeat(2)[:4], W[0][:, 0, 0, 0] ** 2
        ),
    ),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_a_batch_norm_folds_into_its_convolution(between, monkeypatch):
    count, g = BETWEEN[between]
    f = lambda x: torch.relu(g(torch.relu(x))).sum((2, 3))
    x, folded, make = randn(2, 3, 6, 6), [], fold.Folded
    monkeypatch.setattr(fold, "Folded", lambda *a: folded.append(a) or make(*a))
    attr = fa.guided_backprop(f)
    swept = fa.sweep(attr, x, targets=range(4))
    assert len(folded) == count
    # Torch's own norm does not allow all of this (a later write, statistics that depend).
    ruled = fa.relu_rule(ours_of(f))
    expected = torch.stack(
        [torch.func.grad(lambda x, t=t: ruled(x)[:, t].sum())(x) for t in range(4)]
    )
    assert len(folded) == count  # not where others may differentiate, too
    assert_close(swept, expected, 1e-12)


def test_nothing_folds_where_a_derivative_is_asked_for_in_between():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    model.double().eval()
    x = randn(2, 3, 5, 5)
    into = fa.layer_gradient_x_activation(model, "1", attribute_to_layer_input=True)
    after = fa.layer_gradient_x_activation(model, "0")
    assert_close(fa.sweep(into, x, targets=range(3)), fa.sweep(after, x, targets=range(3)))
    assert fa.sweep(into, x, targets=range(3)).any()

    def by_itself(x):
        with torch.enable_grad():
            y = model[0](x)
            (slope,) = torch.autograd.grad(model[1](y).sin().sum(), y)
        return slope.flatten(1)

    attr = fa.guided_backprop(lambda x: model(x) + by_itself(x), require_match=False)
    assert_close(attr(x, target=0), fa.guided_backprop(model)(x, target=0))
    f, params = fa.make_functional(model)
    floats = {name: p for name, p in params.items() if p.is_floating_point()}
    by_params = fa.guided_backprop(lambda floats, x: f({**params, **floats}, x))
    ruled = lambda floats, t: fa.relu_rule(f)({**params, **floats}, x)[:, t].sum()
    expected = [torch.func.grad(ruled)(floats, t) for t in range(3)]
    for name, maps in fa.sweep(by_params, floats, x, targets=range(3)).items():
        assert_close(maps, torch.stack([e[name] for e in expected]))


@pytest.mark.parametrize("weights", [False, True])
def test_an_ensemble_of_weights(weights):
    f, args = CASES["conv2d"]
    ours = ours_of(f)
    stacked = [torch.stack([a, 2 * a]) for a in args[1:]]
    dims = (0, 0) if weights else (None, 0)
    stacked = stacked if weights else [args[1], stacked[1]]

    def grads(f):
        one = lambda w, b: torch.func.grad(lambda x: f(x, w, b).sin().sum())(args[0])
        return torch.vmap(one, in_dims=dims)(*stacked)

    assert_close(grads(ours), grads(f), 1e-12)


class Net(nn.Module):
    """What a sweep meets in pictures: a first layer, norms, pools, ReLUs in place, a skip path."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.relu = nn.ReLU(inplace=True)
        self.relu6 = nn.ReLU6()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Linear(8, 10)
        for norm in self.norms:
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 1.5)
        self.eval()

    def forward(self, x):
        x = self.pool(self.relu(self.norms[0](self.first(x))))
        x = x + self.relu6(self.norms[1](self.depthwise(x)))
        return self.last(self.relu(x).mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net()


@pytest.mark.parametrize("rule", ["standard", "guided", "deconvnet", "guided_inclusive"])
@pytest.mark.parametrize("batch", [1, 2])
def test_sweeps_equal_the_loop(net, rule, batch):
    attr = fa.rule_backprop(net, getattr(fa.rules, rule))
    x = torch.randn(batch, 3, 33, 32)
    loop = torch.stack([attr(x, target=t) for t in range(10)])
    for chunk_size in (None, 4, "auto"):
        assert_close(fa.sweep(attr, x, targets=range(10), chunk_size=chunk_size), loop, 1e-5)
    exact = fa.rule_backprop(net.double(), getattr(fa.rules, rule))
    assert_close(loop.double(), fa.sweep(exact, x.double(), targets=range(10)), 1e-4)
    net.float()


def test_sweeps_in_autocast_equal_the_loop(net):
    attr = fa.guided_backprop(net)
    x = torch.randn(2, 3, 32, 32)
    exact = fa.sweep(attr, x, targets=range(5))
    with torch.autocast("cpu", torch.bfloat16):
        loop = torch.stack([attr(x, target=t) for t in range(5)])
        swept = fa.sweep(attr, x, targets=range(5))
    assert swept.dtype == torch.float32
    assert_close(swept, loop, 2e-2)
    assert_close(swept, exact, 1e-1)
    assert not torch.equal(swept, exact)


def test_sweeps_of_bfloat16_weights_equal_the_loop(net):
    attr = fa.guided_backprop(copy.deepcopy(net).bfloat16())
    x = torch.randn(2, 3, 32, 32).bfloat16()
    swept = fa.sweep(attr, x, targets=range(5))
    assert swept.dtype == torch.bfloat16
    loop = torch.stack([attr(x, target=t) for t in range(5)])
    assert_close(swept.float(), loop.float(), 5e-2)


def test_a_convolution_keeps_no_input_alive():
    seen = []

    class Watched(nn.Module):
        def forward(self, x):
            seen.append(weakref.ref(x))
            return x

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Watched(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    attr = fa.gradient(model.eval())
    _, explain = attr.linearize(torch.randn(1, 3, 8, 8))
    assert seen[0]() is None
    explain((0, 0, 0))


def test_in_place_on_views_and_below_them():
    def f(x):
        y = 1 * x
        torch.relu_(y[:, :2])  # a part
        z = 2 * y
        part = z[:, 1:]
        torch.relu_(z)  # what a part is of
        return (part * y[:, 1:]).sum(1) + z.sum(1)

    x = torch.randn(5, 4, dtype=torch.float64)
    attr = fa.gradient(fa.relu_rule(f, fa.rules.standard))
    assert_close(attr(x), torch.func.grad(lambda x: f(x).sum())(x))
    tracked = torch.func.grad(lambda x: fa.relu_rule(f, fa.rules.guided)(x).sum())(x)
    assert_close(fa.guided_backprop(f)(x), tracked)


def test_what_is_kept_serves_within_another_level_and_after_it(net):
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        _, explain = fa.guided_backprop(net).linearize(x)
        swept = torch.vmap(explain)(torch.arange(4))
        _, explain = fa.guided_backprop(net).linearize(x)  # has kept nothing yet

        def scaled(s):
            return torch.vmap(lambda t: explain(lambda out: s * out[:, t.reshape(1)]))(
                torch.arange(4)
            )

        out, tangent = torch.func.jvp(scaled, (torch.ones(()),), (torch.ones(()),))
        assert_close(out, swept, 1e-6)
        assert_close(tangent, swept, 1e-6)
        assert_close(torch.vmap(explain)(torch.arange(4)), swept, 1e-6)
