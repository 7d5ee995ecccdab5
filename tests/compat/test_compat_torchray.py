"""The drop-in for TorchRay against TorchRay itself, on the same inputs."""

import copy
import inspect
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import funcattr as fa
from funcattr.compat import torchray as ours

common = pytest.importorskip("torchray.attribution.common")

from torchray import utils  # noqa: E402
from torchray.attribution import (  # noqa: E402
    deconvnet,
    grad_cam,
    gradient,
    guided_backprop,
    linear_approx,
)

# TorchRay instantiates a Function (long deprecated).
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated")

THEIRS = {
    "saliency": common.saliency,
    "gradient": gradient.gradient,
    "guided_backprop": guided_backprop.guided_backprop,
    "deconvnet": deconvnet.deconvnet,
    "grad_cam": grad_cam.grad_cam,
    "linear_approx": linear_approx.linear_approx,
}


class Net(nn.Module):
    """Batch norm, a residual, in-place and reused ReLUs, ReLUs whose input is exactly 0, dropout.

    ReLUs in place work on tensors that nobody else reads, where TorchRay is right.
    """

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.same = nn.Conv2d(4, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.last = nn.ReLU()
        self.head = nn.Linear(4, 5)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-0.5, 0.5)
            self.norm.running_var.uniform_(0.5, 1.5)
            self.same.weight[0], self.same.bias[0] = 0, 0

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)) + 0)
        x = x + F.relu(self.same(x))
        x = self.last(self.drop(torch.relu(self.same(self.relu(self.same(x))) * 1)))
        return self.head(x.mean((2, 3)))


class Dense(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1))


def _brief(value):
    """A name that is the same in every process: of a tensor, its shape."""
    return f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else str(value)


@pytest.fixture
def model():
    return Net().train()


@pytest.fixture
def x():
    return torch.randn(3, 2, 6, 8)


def both(name, model, x, *args, **kwargs):
    """Ours and theirs, checking that ours leaves all as it was."""
    if name == "grad_cam":
        kwargs = {"saliency_layer": "last", **kwargs}
    before = copy.deepcopy(model.state_dict())
    flags = [p.requires_grad for p in model.parameters()]
    mine = x.clone()
    got = getattr(ours, name)(model, mine, *args, **kwargs)
    assert_close(mine, x, rtol=0, atol=0)
    assert not mine.requires_grad and mine.grad is None
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert [p.requires_grad for p in model.parameters()] == flags and model.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    return got, THEIRS[name](model, x.clone(), *args, **kwargs)


def same(got, expected):
    assert expected.abs().max() > 0
    assert not got.requires_grad
    assert_close(got, expected.detach(), rtol=1e-4, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resize": True},
        {"resize": (5, 9), "smooth": 0.1},
        {"resize": [5, 9], "resize_mode": "bicubic"},
        {"smooth": 0.05},
    ],
    ids=_brief,
)
def test_methods(name, options, model, x):
    same(*both(name, model, x, 2, **options))


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("layer", ["conv", "norm", "same", "relu", "drop", "last"])
def test_layers(name, layer, model, x):
    same(*both(name, model, x, 2, saliency_layer=layer))
    same(*both(name, model, x, 2, saliency_layer=getattr(model, layer)))


ONE_HOT = torch.randn(3, 5)
TARGETS = [
    3, [3], [0, 4, 2], (0, 4, 2), np.array([1, 1, 3]), np.int64(2), torch.tensor(4),
    torch.tensor([4]), torch.tensor([4, 0, 1]), torch.tensor([[4], [0], [1]]), 1.5, ONE_HOT,
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS, ids=_brief)
def test_targets(target, model, x):
    same(*both("guided_backprop", model, x, target))


@pytest.mark.parametrize("target", [*TARGETS[:5], torch.randn(3, 5, 4, 6)], ids=_brief)
def test_targets_of_a_dense_output(target, x):
    same(*both("deconvnet", Dense(), x, target))


def test_at_zero_guided_lets_pass():
    model, x = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)), torch.zeros(1, 1, 2, 2)
    nn.init.ones_(model[2].weight)
    got, expected = both("guided_backprop", model, x, 0)
    assert expected.min() == got.min() == 1
    functional = fa.rule_backprop(model, fa.rules.guided_inclusive)(x, target=0)
    assert_close(fa.channel_max_abs(functional), got)


def test_the_functional_lines(model, x):
    model.eval()
    inclusive = fa.rule_backprop(model, fa.rules.guided_inclusive)
    pairs = {
        "guided_backprop": (fa.channel_max_abs(inclusive(x, target=2)), {}),
        "deconvnet": (fa.channel_max_abs(fa.deconvnet(model)(x, target=2)), {}),
        "gradient": (fa.channel_max_abs(fa.gradient(model)(x, target=2)), {}),
        "grad_cam": (fa.grad_cam(model, "last")(x, target=2), {"saliency_layer": "last"}),
        "linear_approx": (fa.input_x_gradient(model)(x, target=2).sum(1, keepdim=True), {}),
    }
    for name, (expected, options) in pairs.items():
        assert_close(getattr(ours, name)(model, x, 2, **options), expected)


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "name, args, kwargs",
    [
        ("saliency", (7,), {}),
        ("saliency", (-1,), {}),
        ("saliency", ([1, 2],), {}),
        ("saliency", (torch.tensor([1.0, 2.0]),), {}),
        ("saliency", ("a",), {}),
        ("saliency", (None,), {}),
        ("saliency", (1, "nowhere"), {}),
        ("saliency", (1, 3), {}),
        ("saliency", (1, nn.ReLU()), {}),
        ("saliency", (1,), {"resize": 5}),
        ("saliency", (1,), {"resize": (3,)}),
        ("saliency", (1,), {"resize": True, "resize_mode": "nearest"}),
        ("saliency", (1,), {"resize": True, "resize_mode": "cubist"}),
        ("saliency", (1, "head"), {"smooth": 0.1}),
        ("saliency", (1, "head"), {"resize": True}),
        ("grad_cam", (1,), {}),
        ("gradient", (1,), {"context_builder": common.NullContext}),
        ("saliency", (1,), {"unknown": 1}),
    ],
    ids=_brief,
)
def test_errors(name, args, kwargs, model, x):
    with pytest.raises(Exception) as got:
        getattr(ours, name)(model, x, *args, **kwargs)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(Exception) as expected:
        THEIRS[name](model, x, *args, **kwargs)
    assert got.type is expected.type
    assert str(got.value).startswith(" ".join(str(expected.value).split()[:6]))


def test_theirs_leaves_the_model_frozen_after_an_error(model, x):
    with pytest.raises(RuntimeError):
        common.saliency(model, x, 7)
    assert not model.training and not any(p.requires_grad for p in model.parameters())


# ---------------------------------------------------------------------------------------- contexts


class Tenfold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.relu(x)

    @staticmethod
    def backward(ctx, g):
        return 10 * g


class TenfoldContext(ours.ReLUContext):
    def __init__(self):
        super().__init__(Tenfold)


SPELLINGS = {
    "torch.relu": torch.relu,
    "torch.relu_": lambda x: torch.relu_(x * 1),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x * 1, inplace=True),
    "nn.ReLU": nn.ReLU(),
    "Tensor.relu": lambda x: x.relu(),
    "result discarded": lambda x: [y := x * 1, y.relu_()][0],
}
CONTEXTS = {
    ours.NullContext: [0.0, 0.0, 3.0, -3.0],
    ours.GuidedBackpropContext: [0.0, 3.0, 3.0, 0.0],
    ours.DeconvNetContext: [3.0, 3.0, 3.0, 0.0],
    TenfoldContext: [30.0, 30.0, 30.0, -30.0],
}


def backward_of(f):
    x = torch.tensor([-1.0, 0.0, 2.0, 2.0], requires_grad=True)
    y = f(x)
    assert y.tolist() == [0, 0, 2, 2]
    y.backward(torch.tensor([3.0, 3.0, 3.0, -3.0]))
    return x.grad.tolist()


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("context", CONTEXTS)
def test_contexts(context, spelling):
    f = SPELLINGS[spelling]
    with context() as entered:
        assert isinstance(entered, context)
        assert backward_of(f) == CONTEXTS[context]
    assert backward_of(f) == CONTEXTS[ours.NullContext]


@pytest.mark.parametrize("context", list(CONTEXTS)[1:])
def test_contexts_nest_and_are_undone_by_errors(context):
    guided = ours.GuidedBackpropContext()
    with guided:
        with pytest.raises(ZeroDivisionError), context():
            assert backward_of(torch.relu) == CONTEXTS[context]
            with guided:
                assert backward_of(torch.relu) == CONTEXTS[ours.GuidedBackpropContext]
            raise ZeroDivisionError
        assert backward_of(torch.relu) == CONTEXTS[ours.GuidedBackpropContext]
    assert backward_of(torch.relu) == CONTEXTS[ours.NullContext]


@pytest.mark.parametrize("context", list(CONTEXTS)[1:])
def test_another_thread_sees_plain_relu(context):
    seen = []
    with context():
        thread = threading.Thread(target=lambda: seen.append(backward_of(torch.relu)))
        thread.start()
        thread.join()
    assert seen == [CONTEXTS[ours.NullContext]]


def test_a_context_changes_relus_only():
    norm = nn.BatchNorm1d(2)
    with ours.GuidedBackpropContext():
        norm(torch.randn(5, 2))
    assert norm.num_batches_tracked == 1 and norm.running_mean.abs().max() > 0


def test_a_context_around_torch_func():
    x = torch.tensor([0.0, 2.0])
    with ours.GuidedBackpropContext():
        assert torch.func.grad(lambda x: -torch.relu(x).sum())(x).tolist() == [0, 0]


def test_relu_context_takes_a_function_class():
    for context in ours.ReLUContext, common.ReLUContext:
        for bad in 3, torch.relu:
            with pytest.raises(AssertionError):
                context(bad)


def test_contexts_of_the_users_own(model, x):
    # Tenfold calls torch.relu, which TorchRay's patch would send back to it.
    clamp = type("Clamp", (Tenfold,), {"forward": staticmethod(lambda ctx, x: x.clamp(min=0))})
    expected = common.saliency(model, x, 2, context_builder=lambda: common.ReLUContext(clamp))
    for build in (
        TenfoldContext,
        lambda: ours.ReLUContext(clamp),
        lambda: common.ReLUContext(clamp),  # TorchRay's own patch works as well
    ):
        same(ours.saliency(model, x.detach(), 2, context_builder=build), expected)


def test_callbacks(model, x):
    options = {
        "gradient_to_saliency": lambda x: (x.grad**2).sum(1, keepdim=True),
        "get_backward_gradient": lambda out, y: torch.softmax(out, 1) * y,
    }
    same(*both("guided_backprop", model, x, 2.0, **options))
    one = x[:1]
    options = {"get_backward_gradient": common.get_pointing_gradient}
    same(*both("saliency", model, one, 2, **options))


# ------------------------------------------------------------------------------------------ probes


def test_debug(model, x):
    got, probes = ours.guided_backprop(model, x, 2, debug=True)
    expected, theirs = guided_backprop.guided_backprop(model, x.clone(), 2, debug=True)
    same(got, expected)
    assert list(probes) == list(theirs)
    for name, probe in probes.items():
        assert probe.module is None and probe.target == theirs[name].target
        for mine, other in zip(probe.data, theirs[name].data, strict=True):
            assert_close(mine, other)
            assert_close(mine.grad, other.grad)


@pytest.mark.parametrize("target", ["input", "output"])
@pytest.mark.parametrize("inplace", [False, True])
def test_probe(target, inplace):
    x = torch.randn(2, 3)
    found = []
    for kind in ours.Probe, common.Probe:
        relu = nn.ReLU(inplace=inplace)
        model = nn.Sequential(nn.Linear(3, 4), relu, nn.Linear(4, 1))
        for p in model.parameters():
            nn.init.constant_(p, 0.1)
        probe = kind(relu, target)
        probe.contrast = [torch.full((2, 4), 0.05)]
        model(x).sum().backward()
        probe.remove()
        probe.remove()
        assert probe.module is None and relu.inplace is inplace
        assert not relu._forward_hooks and not relu._forward_pre_hooks
        model(x * 2)
        found.append((probe.data[0], probe.data[0].grad, model[0].weight.grad))
    assert_close(*found)


def test_a_probe_on_a_relu_in_place_whose_input_others_read():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            x = x * 1
            self.relu(x)
            return x

    block, x = Block(), torch.tensor([-1.0, 2.0], requires_grad=True)
    with ours.Probe(block.relu, "output") as probe:
        assert block(x).tolist() == [0, 2]
        block(x).sum().backward()
    assert probe.data[0].grad.tolist() == [1, 1] and x.grad.tolist() == [0, 1]
    with_probe = common.Probe(block.relu, "output")
    assert block(x).tolist() == [-1, 2]  # TorchRay: another function than the model
    with_probe.remove()


def test_a_probe_that_is_dropped_is_removed():
    relu = nn.ReLU()
    probe = ours.Probe(relu)
    del probe
    assert not relu._forward_hooks and not relu._forward_pre_hooks
    with pytest.raises(AssertionError):
        ours.Probe(relu, "neither")


# ---------------------------------------------------------------------------------- small functions


@pytest.mark.parametrize("sigma", [0, 0.3, 1.7])
@pytest.mark.parametrize("stride, padding", [(1, 0), (2, 0), (1, 2), (3, 1)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_value": 0.5},
        {"padding_mode": "replicate"},
        {"padding_mode": "reflect"},
    ],
    ids=_brief,
)
def test_imsmooth(sigma, stride, padding, options):
    x = torch.randn(2, 3, 11, 12)
    got = ours.imsmooth(x, sigma, stride, padding, **options)
    assert_close(got, utils.imsmooth(x, sigma, stride, padding, **options))
    with pytest.raises(AssertionError):
        ours.imsmooth(x, -1)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 2, 2)])
@pytest.mark.parametrize("normalize", [True, False])
def test_get_pointing_gradient(shape, normalize):
    pred = torch.randn(shape, requires_grad=True)
    expected = common.get_pointing_gradient(pred, -1, normalize)
    assert_close(ours.get_pointing_gradient(pred, -1, normalize), expected.detach())


@pytest.mark.parametrize(
    "args", [(torch.ones(2, 3), 1), (torch.ones(1, 3), 1.0), (torch.ones(1, 3), 9), (3, 1)], ids=str
)
def test_errors_of_get_pointing_gradient(args):
    with pytest.raises((AssertionError, IndexError)) as expected:
        common.get_pointing_gradient(*args)
    with pytest.raises(expected.type):
        ours.get_pointing_gradient(*args)


@pytest.mark.parametrize("name", [*THEIRS, "imsmooth", "get_pointing_gradient", "Probe"])
def test_signatures(name):
    theirs = THEIRS.get(name) or getattr(common, name, None) or getattr(utils, name)
    mine, other = (inspect.signature(f).parameters for f in (getattr(ours, name), theirs))
    assert [(p.name, p.kind) for p in mine.values()] == [(p.name, p.kind) for p in other.values()]
    for p, q in zip(mine.values(), other.values()):
        assert p.default == q.default or p.default.__name__ == q.default.__name__


# ----------------------------------------------------------------- where ours is right, or goes on


def test_what_theirs_misses():
    x = torch.randn(2, 1, 4, 4)
    for spelling in torch.Tensor.relu, F.relu6:
        model = nn.Sequential(nn.Conv2d(1, 3, 3), Call(spelling), nn.Flatten(), nn.Linear(12, 2))
        plain = ours.gradient(model, x, 1)
        assert_close(guided_backprop.guided_backprop(model, x.clone(), 1), plain)
        expected = fa.rule_backprop(model, fa.rules.guided_inclusive)(x, target=1)
        assert not torch.allclose(expected, plain)
        assert_close(ours.guided_backprop(model, x, 1), fa.channel_max_abs(expected))


class Call(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


def test_a_layer_before_a_relu_in_place():
    x = torch.randn(2, 1, 4, 4)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(True), nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(RuntimeError, match="leaf Variable"):
        grad_cam.grad_cam(model, x, 1, saliency_layer="0")
    expected = fa.grad_cam(model, "0")(x, target=1)
    assert_close(ours.grad_cam(model, x, 1, saliency_layer="0"), expected)


def test_scripted_parts_and_no_grad(x):
    inner = torch.jit.script(nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Linear(96, 2)).train())
    model = nn.Sequential(inner)
    with torch.no_grad():
        assert_close(ours.gradient(model, x, 1), ours.gradient(model, x, 1))
    with pytest.raises(RuntimeError, match="is not supported on ScriptModules"):
        ours.gradient(inner, x, 1)  # as TorchRay
    assert inner.training and all(p.grad is None for p in inner.parameters())


def test_what_theirs_leaves_behind(model, x):
    expected, probes = common.saliency(model, x, 1, debug=True)
    assert x.requires_grad and x.grad is not None and probes["conv"].module is model.conv
    assert not model.relu.inplace and model.conv._forward_hooks
    for probe in probes.values():
        probe.remove()
    assert grad_cam.grad_cam(model, x.detach(), 1, saliency_layer="last").requires_grad
    with torch.no_grad():
        same(ours.saliency(model, x, 1), expected)
        with pytest.raises(RuntimeError, match="does not require grad"):
            common.saliency(model, x.detach().clone(), 1)


def test_theirs_acts_on_other_threads_and_calls_itself():
    seen = []
    with guided_backprop.GuidedBackpropContext():
        thread = threading.Thread(target=lambda: seen.append(backward_of(torch.relu)))
        thread.start()
        thread.join()
    assert seen == [CONTEXTS[ours.GuidedBackpropContext]]
    with pytest.raises(RecursionError), common.ReLUContext(Tenfold):
        torch.relu(torch.ones(1))


@pytest.mark.parametrize("dims", [1, 3])
def test_grad_cam_of_other_dims(dims):
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[dims](2, 3, 2)
    model = nn.Sequential(conv, nn.Sigmoid(), nn.Flatten(), nn.Linear(3 * 3**dims, 2))
    x = torch.randn(2, 2, *[4] * dims)
    expected = fa.grad_cam(model, "1")(x, target=1)
    assert_close(ours.grad_cam(model, x, 1, saliency_layer="1"), expected)
    if dims == 1:
        with pytest.raises(IndexError):
            grad_cam.grad_cam(model, x, 1, saliency_layer="1")
