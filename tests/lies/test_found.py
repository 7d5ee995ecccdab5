"""Cases that somebody found by trying to make the library lie; each was wrong, or crashed, once."""

import functools
import sys
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import METHODS, assert_close, tiny, tiny_input
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


def test_an_in_place_relu_where_gradients_are_switched_off():
    """Torch's derivative does not see that write at all."""
    weight = torch.cos(torch.arange(16.0, dtype=torch.float64)).reshape(4, 4)

    def model(x):
        h = x @ weight
        with torch.no_grad():
            h.relu_()
        return h * h + torch.relu(x)

    x = X.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    for attr in (fa.gradient(model), fa.rule_backprop(model, fa.rules.standard)):
        assert_close(attr(X, target=1), wanted)
        assert_close(fa.sweep(attr, X, targets=[1])[0], wanted)


class PassesOn(nn.Module):
    """A layer that gives a view of its input; the model writes to one and reads the other."""

    def __init__(self, layer, written, read):
        super().__init__()
        self.layer, self.written, self.read = layer, written, read

    def forward(self, x):
        h = x * 1
        both = {"input": h, "output": self.layer(h)}
        both[self.written].relu_()
        return both[self.read] * 2


VIEWS = [nn.Flatten(), nn.Identity(), nn.Dropout().eval()]


@pytest.mark.parametrize("layer", VIEWS)
@pytest.mark.parametrize("written, read", [("output", "input"), ("input", "output")])
def test_a_layer_that_gives_a_view_which_is_written_to(layer, written, read):
    net = PassesOn(layer, written, read)
    for layers in ("layer", ["layer"]):
        with pytest.raises(fa.LayerError, match="gives a view of its own input"):
            fa.layer_gradient_x_activation(net, layers)(X, target=1)
    assert_close(fa.relu_rule(net)(X), 2 * X.relu())
    at_input = fa.layer_gradient_x_activation(net, "layer", attribute_to_layer_input=True)
    assert_close(at_input(X, target=1)[:, 1], 2 * X[:, 1].relu())
    assert_close(fa.layer_output(net, "layer")(X), X)


@pytest.mark.parametrize("layer", VIEWS)
def test_a_view_that_is_written_to_and_read(layer):
    """As in a block whose dropout is switched off, before a ReLU in place."""
    net = PassesOn(layer, "output", "output")
    maps = fa.layer_gradient_x_activation(net, "layer")(X, target=1)
    assert_close(maps[:, 1], 2 * X[:, 1].relu())


@pytest.mark.parametrize("rule", ["standard", "guided"])
def test_what_is_written_to_after_a_relu_under_transforms(rule):
    def writes(x):
        h = torch.sin(x)
        h += F.relu(h)
        return h**2

    by_hand = lambda x: (torch.sin(x) + F.relu(torch.sin(x))) ** 2
    f, g = (fa.rule_backprop(func, getattr(fa.rules, rule)) for func in (writes, by_hand))
    v = X.flip(0)
    for transform in (
        lambda a: a(X, target=1),
        lambda a: torch.func.jvp(lambda x: a(x, target=1), (X,), (v,))[1],
        lambda a: torch.func.grad(lambda x: (a(x, target=1) * v).sum())(X),
        lambda a: torch.vmap(lambda x: a(x[None], target=1)[0])(X),
    ):
        assert_close(transform(f), transform(g))


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), nn.Conv2d(2, 2, 2), nn.BatchNorm2d(2).eval()])
def test_a_view_of_what_a_site_gives_is_written_to(layer):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            h = self.layer(x).flatten(2).transpose(1, 2)
            h += 1.0
            return h.relu().mean(1)

    attr = fa.guided_backprop(Net().double())
    assert_close(fa.sweep(attr, PICTURE, targets=[1])[0], attr(PICTURE, target=1))


@pytest.mark.parametrize("groups, affine", [(1, True), (2, True), (4, False)])
def test_group_norm(groups, affine):
    """In any layout; torch's own derivative fails in a sweep over channels-last memory."""
    norm = nn.GroupNorm(groups, 4, affine=affine)
    if affine:
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
    net = nn.Sequential(norm, nn.Tanh(), nn.Flatten()).double()
    base = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    for x in (base, base.to(memory_format=torch.channels_last)):
        leaf = x.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(net(leaf)[:, 5].sum(), leaf, create_graph=True)
        attr = fa.gradient(net)
        assert_close(attr(x, target=5), wanted.detach())
        assert_close(fa.sweep(attr, x, targets=[5])[0], wanted.detach())
        assert torch.equal(attr.linearize(x)[0], net(x))
        (second,) = torch.autograd.grad((wanted**3).sum(), leaf)
        explained = lambda x, attr=attr: (fa.sweep(attr, x, targets=[5]) ** 3).sum()
        assert_close(torch.func.grad(explained)(x), second)
        v = torch.cos(x)
        swept = lambda x, attr=attr: fa.sweep(attr, x, targets=[5])[0]
        pushed = torch.func.jvp(swept, (base,), (v,))[1]
        step = 1e-6
        ends = [swept(base + s * v) for s in (step, -step)]
        if x is base:
            assert_close(pushed, (ends[0] - ends[1]) / (2 * step), 1e-6)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_function_leaves_nothing_behind():
    """What a Ctrl-C does that comes as a function begins, the exits of contexts among them."""
    attr = fa.guided_backprop(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).double())
    wanted = attr(X, target=1)
    calls = [0]

    def trace(frame, event, arg):
        if "funcattr" in frame.f_code.co_filename:
            calls[0] -= 1
            if calls[0] == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return None

    before, interrupted = sys.gettrace(), 0
    for n in range(1, 400, 3):
        calls[0] = n
        sys.settrace(trace)
        try:
            attr(X, target=1)
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(before)
        assert torch.equal(attr(X, target=1), wanted)
    assert interrupted > 50


NESTED = ["gradient", "guided_backprop", "guided_tanh", "rule_backprop", "layer_input", "grad_cam"]


@pytest.mark.parametrize("method", NESTED)
def test_forward_mode_of_forward_mode(method):
    """Torch loses tangents of tangents in every Function with a jvp of its own, in silence."""
    x, v = tiny_input(), tiny_input(seed=3)
    attr = METHODS[method](tiny())
    f = lambda x: attr(x, target=1)
    once = lambda x: torch.func.jvp(f, (x,), (torch.cos(x),))[1]
    numeric = (once(x + 1e-6 * v) - once(x - 1e-6 * v)) / 2e-6
    assert_close(torch.func.jvp(once, (x,), (v,))[1], numeric, 1e-6)
    assert_close((torch.func.vjp(once, x)[1](numeric)[0] * v).sum(), (numeric**2).sum(), 1e-6)


def test_a_jvp_inside_of_the_model():
    weight = torch.cos(torch.arange(16.0, dtype=torch.float64)).reshape(4, 4)

    def model(x):
        out, tangent = torch.func.jvp(lambda z: torch.relu(z @ weight), (x,), (torch.cos(x),))
        return (out + tangent) ** 2

    number = torch.func.grad(lambda x: model(x)[:, 1].sum())
    attr = fa.rule_backprop(model, fa.rules.standard)
    assert_close(attr(X, target=1), number(X))
    v = X.flip(0)
    for f in (number, lambda x: attr(x, target=1)):
        assert_close(torch.func.jvp(f, (X,), (v,))[1], torch.func.jvp(number, (X,), (v,))[1])
    ruled = fa.relu_rule(model, fa.rules.standard)
    assert_close(torch.func.jvp(ruled, (X,), (v,))[1], torch.func.jvp(model, (X,), (v,))[1])


def test_group_norm_under_vmap_in_channels_last_memory():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.GroupNorm(2, 2), nn.Flatten()).double()
    base = PICTURE[:1].contiguous(memory_format=torch.channels_last)
    attr = fa.rule_backprop(net, fa.rules.standard)
    maps = torch.vmap(lambda x: attr(base * 0 + x, target=1))(PICTURE[:, None])
    assert_close(maps[:, 0], attr(PICTURE, target=1))


class Upper(torch.autograd.Function):
    """Its backward writes into a tensor that it makes, which torch.vmap refuses."""

    @staticmethod
    def forward(ctx, x):
        return x[:, 1:] * 1

    @staticmethod
    def backward(ctx, g):
        out = torch.zeros(len(g), 4, dtype=g.dtype)
        out[:, 1:] = g
        return out


def test_what_does_not_run_under_vmap_is_swept_one_by_one():
    attr = fa.guided_backprop(lambda x: Upper.apply(torch.relu(x) * 2))
    with pytest.warns(UserWarning, match="one by one"):
        maps = fa.sweep(attr, X, targets=range(3))
    assert_close(maps, torch.stack([attr(X, target=t) for t in range(3)]))


def test_an_error_in_a_sweep_stays_what_it_is():
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, g):
            raise RuntimeError("out of paper")

    attr = fa.gradient(lambda x: Fails.apply(torch.relu(x)))
    with pytest.raises(RuntimeError, match="out of paper"):
        fa.sweep(attr, X, targets=range(2))
