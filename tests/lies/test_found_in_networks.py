"""Cases that somebody found by trying to make the library lie; each was wrong, or crashed, once."""

import functools
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import SINCE_2_3, needs_edges
from helpers import assert_close
from torch import nn
from torch.utils.checkpoint import checkpoint

import funcattr as fa

X = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
PICTURE = torch.randn(2, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


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


@needs_edges
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
    if not (affine or SINCE_2_3):
        pytest.skip("torch 2.0 itself crashes at its derivative in channels-last memory")
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


def test_group_norm_under_vmap_in_channels_last_memory():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.GroupNorm(2, 2), nn.Flatten()).double()
    base = PICTURE[:1].contiguous(memory_format=torch.channels_last)
    attr = fa.rule_backprop(net, fa.rules.standard)
    maps = torch.vmap(lambda x: attr(base * 0 + x, target=1))(PICTURE[:, None])
    assert_close(maps[:, 0], attr(PICTURE, target=1))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch 2.0
def test_group_norm_under_vmap_of_a_single_place_in_channels_last_memory():
    """Torch asks which of its layouts it has, where all are the same."""
    x = torch.cos(torch.arange(4.0, dtype=torch.float64)).reshape(1, 4, 1, 1, 1)
    x = x.expand(1, 4, 3, 3, 3).contiguous(memory_format=torch.channels_last_3d)
    several = torch.stack([x, x.flip(1)])

    def model(x):
        pooled = F.max_pool3d(x, 3, return_indices=True)[0]
        return F.group_norm(pooled, 2).flatten(1)

    attr = fa.gradient(model)
    maps = torch.vmap(lambda x: attr(x, target=1))(several)
    assert_close(maps, torch.stack([attr(x, target=1) for x in several]))


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


class Checkpointed(nn.Module):
    def __init__(self, on=True):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)
        self.on = on

    def block(self, x):
        return self.act(self.first(x))

    def forward(self, x):
        run = functools.partial(checkpoint, use_reentrant=False) if self.on else lambda f, x: f(x)
        return self.last(run(self.block, x))


# Before torch 2.8 there is no torch.vmap over hooks of what autograd saves, as in a checkpoint.
@pytest.mark.filterwarnings("ignore:the targets are explained one by one.*saved tensor hooks")
@pytest.mark.parametrize("layer", ["first", "act"])
@pytest.mark.parametrize("at_input", [False, True])
def test_a_layer_inside_of_a_checkpoint(layer, at_input):
    on, off = Checkpointed().double(), Checkpointed(False).double()
    off.load_state_dict(on.state_dict())
    method = functools.partial(
        fa.layer_gradient_x_activation, layer=layer, attribute_to_layer_input=at_input
    )
    ours, wanted = method(on), method(off)
    assert_close(ours(X, target=1), wanted(X, target=1))
    assert_close(fa.sweep(ours, X, targets=[0, 1]), fa.sweep(wanted, X, targets=[0, 1]))
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    (by_ours,) = torch.autograd.grad((ours(x, target=1) ** 2).sum(), x)
    (by_wanted,) = torch.autograd.grad((wanted(y, target=1) ** 2).sum(), y)
    assert_close(by_ours, by_wanted)
    with pytest.raises(fa.FuncattrError, match="a checkpoint of the model cannot run under"):
        torch.vmap(lambda x: ours(x[None], target=1))(X)


@pytest.mark.parametrize("size", [2, 4])
def test_an_instance_norm_of_one_example_before_a_pool_to_a_single_place(size):
    """Torch's own derivative of that norm is wrong for a gradient with its channels last, and the
    order of a single place says nothing.
    """
    head = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def model(x):
        return F.max_pool2d(F.instance_norm(x.relu()), size).flatten(1) @ head

    x = torch.randn(
        1, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    attr = fa.gradient(model)
    _, explain = attr.linearize(x)
    for found in (attr(x, target=1), explain(1), fa.sweep(attr, x, targets=[1])[0]):
        assert_close(found, wanted)


@pytest.mark.parametrize("target", [1, torch.tensor(1), [1, 1, 1], (1,), lambda out: out[:, 1]])
def test_a_write_that_torch_cannot_pull_one_cotangent_of_all_through(target):
    weight = torch.cos(torch.arange(16.0, dtype=torch.float64)).reshape(4, 4)

    def model(x):
        h = F.linear(x.unsqueeze(1), weight, weight[0])
        h.masked_fill_(h < 0.1, -0.3)
        return h.flatten(1)

    several = torch.stack([X, X.flip(1)])
    attr = fa.gradient(model)
    found = torch.vmap(lambda x: attr(x, target=target))(several)
    assert_close(found, torch.stack([attr(x, target=target) for x in several]))
