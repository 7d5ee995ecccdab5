"""Layer methods against a model split by hand, known numbers, and captum."""

import importlib
import warnings

import pytest
import torch
import torch.nn.functional as F
from conftest import needs_edges
from helpers import Tiny, assert_close, assert_unchanged, snapshot, tiny, tiny_input
from oracle import rule_gradient
from torch import nn

import funcattr as fa

X = tiny_input()


def split(model):
    """Tiny by hand, at its first ReLU: what comes before, and what comes after."""

    def before(x):
        return torch.relu(model.norm(model.conv(x)))

    def after(a):
        x = a + model.same(a)
        x = F.relu6(2 * torch.tanh(model.same(x)) + 0.3)
        return model.head(torch.relu(x + 0.1).flatten(1)) ** 2

    return before, after


def by_hand(model, target):
    """Activation and gradient at the first ReLU of Tiny."""
    before, after = split(model)
    a = before(X).detach().requires_grad_()
    after(a)[:, target].sum().backward()
    return a.detach(), a.grad


def cam_by_hand(a, g):
    return (g.mean((2, 3), keepdim=True) * a).sum(1, keepdim=True).clamp(min=0)


def test_the_split_is_the_model():
    model = tiny()
    before, after = split(model)
    assert_close(after(before(X)), model(X))


@needs_edges
def test_layer_gradient_x_activation():
    model = tiny()
    a, g = by_hand(model, 2)
    attr = fa.layer_gradient_x_activation
    assert_close(attr(model, "relu:0")(X, target=2), g * a)
    assert_close(attr(model, "relu:0", multiply_by_inputs=False)(X, target=2), g)
    norm = model.norm(model.conv(X)).detach()
    come = attr(model, "relu:0", attribute_to_layer_input=True)(X, target=2)
    assert_close(come, g * (norm > 0) * norm)
    assert_close(attr(model, "norm")(X, target=2), come)


def test_grad_cam():
    model = tiny()
    a, g = by_hand(model, 2)
    assert_close(fa.grad_cam(model, "relu:0")(X, target=2), cam_by_hand(a, g))
    raw = (g.mean((2, 3), keepdim=True) * a).sum(1, keepdim=True)
    assert_close(fa.grad_cam(model, "relu:0", relu=False)(X, target=2), raw)
    assert_close(
        fa.grad_cam(model, "relu:0", relu=False, channel_sum=False)(X, target=2),
        g.mean((2, 3), keepdim=True) * a,
    )


def test_guided_grad_cam():
    model = tiny()
    a, g = by_hand(model, 2)
    guided = rule_gradient(model, X, 2, "guided")
    come = fa.guided_grad_cam(model, "relu:0")(X, target=2)
    assert_close(come, guided * cam_by_hand(a, g))


def test_layer_output():
    model = tiny()
    before, _ = split(model)
    assert torch.equal(fa.layer_output(model, "relu:0")(X), before(X))
    assert torch.equal(fa.layer_output(model, model.norm)(X), model.norm(model.conv(X)))
    assert torch.equal(fa.layer_output(model, "norm", at_input=True)(X), model.conv(X))
    first, last = fa.layer_output(model, ["conv", "relu"])(X)
    assert torch.equal(first, model.conv(X))
    assert last.shape == (2, 3, 3, 3)
    assert torch.equal(fa.layer_output(model, "")(X), model(X))


def test_a_neuron_under_a_rule():
    model = tiny()
    before, _ = split(model)
    neuron = fa.layer_output(model, "relu:0")
    come = fa.guided_backprop(neuron)(X, target=(1, 2, 0))
    assert_close(come, rule_gradient(before, X, (1, 2, 0), "guided"))
    block = fa.guided_backprop(neuron)(X, target=lambda a: a[:, 1, :2])
    assert_close(block, rule_gradient(before, X, lambda a: a[:, 1, :2], "guided"))
    swept = fa.sweep(fa.guided_backprop(neuron), X, targets=[(c, 1, 1) for c in range(3)])
    assert_close(swept[1], rule_gradient(before, X, (1, 1, 1), "guided"))
    only = fa.guided_backprop(neuron, sites=lambda path: path == "relu")
    assert_close(only(X, target=(1, 2, 0)), come)


def test_occurrences_of_a_reused_layer():
    model = tiny()
    attr = fa.layer_gradient_x_activation
    last = attr(model, "relu")(X, target=1)
    assert torch.equal(attr(model, "relu:1")(X, target=1), last)
    assert not torch.equal(attr(model, "relu:0")(X, target=1), last)
    both = attr(model, ["relu:0", model.relu, "conv"])(X, target=1)
    assert_close(both[0], attr(model, "relu:0")(X, target=1))
    assert_close(both[1], last)
    assert_close(both[2], attr(model, "conv")(X, target=1))


class Several(nn.Module):
    """A layer with several outputs, one that does not reach the output, one in a no_grad branch."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)
        self.side, self.gated, self.unused = nn.Linear(4, 2), nn.Linear(4, 3), nn.Linear(1, 1)
        self.table = nn.Embedding(5, 4)
        self.double()

    def forward(self, x, ids=None, *, scale=1.0):
        if ids is not None:
            x = x + self.table(ids)
        self.side(x)
        with torch.no_grad():
            gate = self.gated(x)
        out, (h, c) = self.lstm(x)
        return scale * (torch.relu(out) * gate + h[0, :, None] * c[0, :, None]).sum(1)


def test_several_outputs_and_layers_that_do_not_reach_the_output():
    model = Several()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    attr = fa.layer_gradient_x_activation(model, ["lstm", "side", "gated", "table"])
    maps, side, gated, table = attr(x, torch.tensor([[1] * 5, [2] * 5]), scale=2.0, target=1)
    assert isinstance(maps, tuple)
    assert [m.shape for m in maps] == [(2, 5, 3), (1, 2, 3), (1, 2, 3)]
    assert all(m.abs().sum() > 0 for m in maps)
    assert side.shape == (2, 5, 2)
    assert not side.any()
    assert not gated.any()
    assert table.shape == x.shape
    assert table.any()
    ids = torch.tensor([1, 2])  # explained at a layer, an input may be of any type
    words = nn.Sequential(nn.Embedding(5, 4), nn.ReLU()).double()
    assert fa.layer_gradient_x_activation(words, "0")(ids, target=1).shape == (2, 4)


class Conv(nn.Module):
    def __init__(self, dims, batch_norm=False):
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.a, self.b = conv(2, 3, 3, padding=1), conv(3, 4, 3, stride=2)
        self.r1, self.r2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 5)
        self.double()

    def forward(self, x):
        x = self.r2(self.b(self.r1(self.a(x))))
        return self.fc(x.flatten(2).mean(2))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_spatial_dimensions_and_interpolation_modes(dims):
    model, x = Conv(dims), torch.randn(2, 2, *[7] * dims, dtype=torch.float64)
    cam = fa.grad_cam(model, "b")(x, target=1)
    assert cam.shape == (2, 1, *[3] * dims)
    fits = {1: "linear", 2: "bilinear", 3: "trilinear"}[dims]
    guided = fa.guided_backprop(model)(x, target=1)
    for mode in ("nearest", "nearest-exact", "area", fits, *["bicubic"][: dims == 2]):
        come = fa.guided_grad_cam(model, "b", interpolate_mode=mode)(x, target=1)
        assert_close(come, guided * F.interpolate(cam, [7] * dims, mode=mode))
    with pytest.raises(fa.LayerError, match="spatial dimensions"):
        wrong = "linear" if dims != 1 else "bilinear"
        fa.guided_grad_cam(model, "b", interpolate_mode=wrong)(x, target=1)


def test_layers_without_spatial_dimensions():
    model, x = Conv(2), torch.randn(2, 2, 7, 7, dtype=torch.float64)
    g = fa.layer_gradient_x_activation(model, "fc", multiply_by_inputs=False)(x, target=1)
    a = fa.layer_output(model, "fc")(x)
    assert_close(fa.grad_cam(model, "fc")(x, target=1), (g * a).sum(1, keepdim=True).clamp(min=0))
    with pytest.warns(UserWarning, match="cannot be resized") as caught:
        assert fa.guided_grad_cam(model, "fc")(x, target=1) is None
    assert len(caught) == 1


def test_several_inputs_of_different_sizes():
    class Two(Conv):
        def forward(self, x, small, row):
            return super().forward(x + F.interpolate(small, x.shape[2:]) + row[:, :, None, None])

    model = Two(2)
    x, small = torch.randn(2, 2, 7, 7).double(), torch.randn(2, 2, 3, 4).double()
    row = torch.randn(2, 2).double()
    attr = fa.guided_grad_cam(model, "r2", argnums=(0, 1, 2))
    with pytest.warns(UserWarning, match=r"shape \(2, 2\)"):
        maps = attr(x, small, row, target=1)
    assert maps[0].shape == x.shape
    assert maps[1].shape == small.shape
    assert maps[2] is None
    with pytest.warns(UserWarning):
        swept = fa.sweep(attr, x, small, row, targets=range(5), chunk_size=2)
    assert_close(swept[1][1], maps[1])
    assert swept[2] is None


@pytest.mark.parametrize(
    "attr",
    [
        lambda m: fa.layer_gradient_x_activation(m, ["conv", "relu"]),
        lambda m: fa.grad_cam(m, "relu"),
        lambda m: fa.guided_grad_cam(m, "norm"),
    ],
)
def test_one_forward_pass_and_nothing_changed(attr):
    model, calls = tiny(), []
    model.head.register_forward_hook(lambda *args: calls.append(1))
    before = snapshot(model)
    swept = fa.sweep(attr(model), X, targets=range(4), chunk_size=3)
    assert len(calls) == 1
    assert_unchanged(model, before)
    single = attr(model)(X, target=2)
    if isinstance(swept, list):
        swept, single = swept[0], single[0]
    assert_close(swept[2], single)


def test_the_backward_pass_ends_at_the_layer():
    """What is before the layer is not differentiated: its rule is never asked."""
    asked = []

    def rule(x, g):
        asked.append(tuple(x.shape))
        return g * (x > 0)

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 5)

        def forward(self, x):
            return torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x))))))

    attr = fa.layer_gradient_x_activation(fa.relu_rule(Deep(), rule), "b")
    attr(torch.randn(1, 2), target=1)
    assert asked == [(1, 5), (1, 4)]


@needs_edges
def test_a_relu_in_place_that_others_read():
    """The rectified tensor is what the layer gives, and what the skip path reads."""

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin, self.relu = nn.Linear(4, 4).double(), nn.ReLU(inplace=True)

        def forward(self, x):
            x = self.lin(x)
            y = self.relu(x)
            return torch.sin(x) * y.exp()  # x is y

    model, x = Skip(), torch.randn(2, 4, dtype=torch.float64)
    a = model.lin(x).relu().detach().requires_grad_()
    (torch.sin(a) * a.exp())[:, 1].sum().backward()
    attr = fa.layer_gradient_x_activation
    assert_close(attr(model, "relu")(x, target=1), a.grad * a.detach())
    pre = model.lin(x).detach()
    assert_close(
        attr(model, "relu", attribute_to_layer_input=True)(x, target=1), a.grad * (pre > 0) * pre
    )
    assert_close(attr(model, "lin")(x, target=1), a.grad * (pre > 0) * pre)


BAD = {
    "path": ("relu.0", r"'relu' exists, a ReLU, and has no parts.*Did you mean 'relu'"),
    "first part": ("nrom", r"The model has 'conv', 'norm'.*Did you mean 'norm'"),
    "another model's": (nn.ReLU(), "no part of this Tiny"),
    "type": (3, "dotted path or a module; got 3"),
    "never runs": ("spare", "never calls it"),
    "occurrence": ("relu:2", r"called 2 times; relu:2 does not exist, the last is relu:1"),
    "integers": ("ids", r"no float tensor to explain; it is torch\.int64"),
}


class Ids(nn.Module):
    def forward(self, x):
        return x.argmax(1)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize(
    "method",
    [fa.layer_output, fa.layer_gradient_x_activation, fa.grad_cam, fa.guided_grad_cam],
)
def test_wrong_layers(name, method):
    class Spare(Tiny):
        def __init__(self):
            super().__init__()
            self.spare, self.ids = nn.Linear(1, 1), Ids()

        def forward(self, x):
            self.ids(x)
            return super().forward(x)

    Spare.__name__ = "Tiny"
    layer, message = BAD[name]
    with pytest.raises(fa.LayerError, match=message) as error:
        attr = method(Spare(), layer)
        attr(X) if method is fa.layer_output else attr(X, target=1)
    assert isinstance(error.value, ValueError)


def test_other_bad_input():
    with pytest.raises(fa.LayerError, match="plain function"):
        fa.grad_cam(torch.relu, "x")
    with pytest.raises(fa.ArgumentError, match="got 'cubic'"):
        fa.guided_grad_cam(tiny(), "relu", interpolate_mode="cubic")
    with pytest.raises(fa.ArgumentError, match="rule of its own"):
        fa.guided_grad_cam(fa.relu_rule(tiny()), "relu")
    with pytest.raises(fa.LayerError, match="one output; 'lstm' has 3"):
        fa.guided_grad_cam(Several(), "lstm")(torch.randn(2, 5, 4).double(), target=0)
    with pytest.raises(fa.TargetError):
        fa.grad_cam(tiny(), "relu")(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = nn.Sequential(torch.jit.script(nn.Linear(3, 3)))
    with pytest.raises(fa.LayerError, match="TorchScript"):
        fa.grad_cam(scripted, "0")


@pytest.mark.compiled
def test_layers_of_compiled_models():
    torch.compiler.reset()
    plain = tiny()
    expected = fa.grad_cam(plain, "norm")(X, target=1)
    wrapped = torch.compile(plain, backend="aot_eager")
    assert_close(fa.grad_cam(wrapped, plain.norm)(X, target=1), expected)
    assert_close(fa.grad_cam(wrapped, wrapped._orig_mod.norm)(X, target=1), expected)


# ---------------------------------------------------------------------------- captum

NETS = {
    "resnet20": ("resnet_cifar", "resnet20_cifar10", "features.stage2.unit1"),
    "seresnet20": ("seresnet_cifar", "seresnet20_cifar10", "features.stage2.unit1.se"),
    "densenet": ("densenet_cifar", "densenet40_k12_cifar10", "features.stage1.unit3"),
    "a convolution before a ReLU in place": (
        "resnet_cifar",
        "resnet20_cifar10",
        "features.stage1.unit1.body.conv1.conv",
    ),
}


@pytest.fixture(scope="module", params=NETS)
def network(request):
    pytest.importorskip("captum")
    pytest.importorskip("pytorchcv")
    module, builder, layer = NETS[request.param]
    torch.manual_seed(0)
    model = getattr(importlib.import_module(f"pytorchcv.models.{module}"), builder)()
    return model.double().eval(), layer, torch.randn(2, 3, 32, 32, dtype=torch.float64)


def without_in_place(model):
    """Captum's activation is overwritten by a ReLU in place that comes next."""
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    return model


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_captum_agrees(network):
    from captum import attr as captum

    model, layer, x = network
    # Once as the network is, before the flags are cleared for captum's sake.
    ours = {
        (name, at_input): method(model, layer, attribute_to_layer_input=at_input)(x, target=[3, 7])
        for name, method in {
            "gxa": fa.layer_gradient_x_activation,
            "cam": fa.grad_cam,
            "guided": fa.guided_grad_cam,
        }.items()
        for at_input in (False, True)
    }
    without_in_place(model)
    module = model.get_submodule(layer)
    for at_input in (False, True):
        how = dict(target=[3, 7], attribute_to_layer_input=at_input)
        theirs = captum.LayerGradientXActivation(model, module).attribute(x, **how)
        theirs = theirs[0] if isinstance(theirs, tuple) else theirs
        assert_close(ours["gxa", at_input], theirs.detach())
        cam = captum.LayerGradCam(model, module).attribute(x, relu_attributions=True, **how)
        cam = cam[0] if isinstance(cam, tuple) else cam
        assert_close(ours["cam", at_input], cam.detach())
        guided = captum.GuidedGradCam(model, module).attribute(x, **how)
        assert_close(ours["guided", at_input], guided.detach())


def test_the_published_numbers():
    class OneConv(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu1 = nn.Conv2d(1, 2, 3), nn.ReLU()
            self.fc, self.relu2 = nn.Linear(8, 4, bias=False), nn.ReLU()
            with torch.no_grad():
                self.conv.weight.fill_(1)
                self.conv.bias.copy_(torch.tensor([-50.0, -75.0]))
                self.fc.weight.copy_(torch.tensor([1.0] * 5 + [-1.0] * 3).expand(4, 8))

        def forward(self, x):
            return self.relu2(self.fc(self.relu1(self.conv(x)).flatten(1)))

    x = torch.arange(16.0).view(1, 1, 4, 4)
    expected = [[0, 0, 4, 4], [0, 0, 12, 8], [28, 84, 97.5, 65], [28, 56, 65, 32.5]]
    come = fa.guided_grad_cam(OneConv(), "relu1")(x, target=0)
    assert_close(come[0, 0], torch.tensor(expected))
