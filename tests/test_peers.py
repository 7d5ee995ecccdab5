"""Captum, TorchRay and zennit: a second opinion where they are right, pinned where they are wrong.

Where a peer is wrong, its test asserts both that it differs from the oracle and that funcattr
does not. When a peer is repaired, the first half fails, and tells us to move the case to the
other group. None of the peers is imported by funcattr.
"""

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest
import torch
from conftest import CAN_COMPILE
from oracle import FORMULAS, numeric_derivative, rule_gradient
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import funcattr as fa

pytestmark = [
    # Captum warns on every call, TorchRay instantiates a Function (long deprecated).
    pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU"),
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks"),
    pytest.mark.filterwarnings("ignore:Input Tensor .* did not already require gradients"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated"),
]

OURS = {"guided": fa.guided_backprop, "deconvnet": fa.deconvnet}


def images(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def seeded(model):
    """The same weights at every run, and biases large enough for ReLUs to close and open."""
    generator = torch.Generator().manual_seed(0)
    model = model.double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, dtype=torch.float64, generator=generator) * 0.5)
    return model


def plain_net(head=True):
    """What every peer gets right: each ReLU an nn.ReLU of its own, the only reader of its input."""
    layers = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 6)] if head else []
    return seeded(nn.Sequential(*layers))


def assert_differs(a, b):
    """By far more than rounding: at least a hundredth of the largest entry."""
    assert (a - b).abs().max() > 1e-2 * b.abs().max() > 0


# ------------------------------------------------------------------------------------ known numbers


def one_conv():
    """Captum's smallest test net (PEERS.md), whose maps are published in its tests."""
    conv, fc = nn.Conv2d(1, 2, 3), nn.Linear(8, 4, bias=False)
    with torch.no_grad():
        conv.weight.fill_(1)
        conv.bias.copy_(torch.tensor([-50.0, -75.0]))
        fc.weight.copy_(torch.tensor([1.0] * 5 + [-1.0] * 3).expand(4, 8))
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), fc, nn.ReLU()).double()


ONE_CONV = {
    "guided": [[0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1]],
    "deconvnet": [[2, 3, 3, 1], [3, 5, 5, 2], [3, 5, 5, 2], [1, 2, 2, 1]],
}


def test_the_known_maps_of_one_convolution(opinion, rule):
    x = torch.arange(16.0, dtype=torch.float64).view(1, 1, 4, 4)
    expected = torch.tensor(ONE_CONV[rule], dtype=torch.float64).view(1, 1, 4, 4)
    assert_close(opinion(one_conv(), x, 0, rule), expected, rtol=0, atol=0)


# ------------------------------------------------------------------------------------- the opinions


@pytest.fixture(params=["guided", "deconvnet"])
def rule(request):
    return request.param


def captum_map(model, x, target, rule):
    attr = pytest.importorskip("captum.attr")
    method = {"guided": attr.GuidedBackprop, "deconvnet": attr.Deconvolution}[rule]
    # A clone, for Captum marks the input itself as requiring grad.
    return method(model).attribute(x.clone(), target=target).detach()


def torchray_map(model, x, target, rule):
    pytest.importorskip("torchray")
    module, name = {
        "guided": ("torchray.attribution.guided_backprop", "guided_backprop"),
        "deconvnet": ("torchray.attribution.deconvnet", "deconvnet"),
    }[rule]
    method = getattr(importlib.import_module(module), name)
    leaf = x.clone().requires_grad_()
    return method(model, leaf, target, gradient_to_saliency=lambda probe: probe.grad.clone())


def zennit_map(model, x, target, rule):
    composites = pytest.importorskip("zennit.composites")
    method = {"guided": composites.GuidedBackprop, "deconvnet": composites.DeconvNet}[rule]
    leaf = x.clone().requires_grad_()
    with method().context(model) as modified:
        (grad,) = torch.autograd.grad(modified(leaf)[:, target].sum(), leaf)
    return grad


@pytest.fixture
def torchvision_stub(monkeypatch):
    """zennit imports two classes of torchvision, for canonizers not used here: empty ones do.

    Only while the test runs: other tests must still find torchvision missing where it is.
    """
    if importlib.util.find_spec("torchvision") is None:
        names = [
            "torchvision",
            "torchvision.models",
            "torchvision.models.resnet",
            "torchvision.models.vgg",
        ]
        for name in names:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        for block in "Bottleneck", "BasicBlock":
            setattr(sys.modules["torchvision.models.resnet"], block, type(block, (nn.Module,), {}))


@pytest.fixture(params=["funcattr", "oracle", "captum", "torchray", "zennit"])
def opinion(request, torchvision_stub):
    """One way to a map: (model, x, target, rule) -> map."""
    return {
        "funcattr": lambda model, x, target, rule: OURS[rule](model)(x, target=target),
        "oracle": rule_gradient,
        "captum": captum_map,
        "torchray": torchray_map,
        "zennit": zennit_map,
    }[request.param]


def test_all_opinions_agree_on_a_plain_net(opinion, rule):
    model, x = plain_net(), images(3, 2, 9, 9)
    assert_close(opinion(model, x, 4, rule), rule_gradient(model, x, 4, rule), rtol=1e-12, atol=0)


# ------------------------------------------------------------------------------------------- captum

METHODS = {
    "GuidedBackprop": fa.guided_backprop,
    "Deconvolution": fa.deconvnet,
    "Saliency": fa.saliency,
    "InputXGradient": fa.input_x_gradient,
}


@pytest.fixture(params=list(METHODS))
def method(request):
    """Captum's class and the function of ours with the same meaning."""
    return getattr(pytest.importorskip("captum.attr"), request.param), METHODS[request.param]


@pytest.mark.parametrize(
    "target",
    [
        3,
        -1,
        (2,),
        torch.tensor(5),
        torch.tensor([5]),
        [0, 4, 2],
        torch.tensor([5, 5, 1]),
        [(0,), (4,), (2,)],
    ],
    ids=str,
)
def test_captum_on_targets_of_a_classifier(method, target):
    theirs, ours = method
    model, x = plain_net(), images(3, 2, 9, 9)
    expected = theirs(model).attribute(x.clone(), target=target)
    assert_close(ours(model)(x, target=target), expected, rtol=1e-12, atol=0)


def test_negative_targets_in_a_list_which_captum_refuses(method):
    theirs, ours = method
    model, x = plain_net(), images(3, 2, 9, 9)
    with pytest.raises(RuntimeError, match="out of bounds"):
        theirs(model).attribute(x.clone(), target=[-1, 0, -6])
    expected = theirs(model).attribute(x.clone(), target=[5, 0, 0])
    assert_close(ours(model)(x, target=[-1, 0, -6]), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "target", [(3, 1, 2), (-1, -2, 0), [(0, 1, 1), (4, 0, 2), (2, -1, -1)]], ids=str
)
def test_captum_on_targets_of_a_dense_output(method, target):
    theirs, ours = method
    model, x = plain_net(head=False), images(3, 2, 9, 9)
    expected = theirs(model).attribute(x.clone(), target=target)
    assert_close(ours(model)(x, target=target), expected, rtol=1e-12, atol=0)


class TwoInputs(nn.Module):
    """Two inputs of unlike shapes that meet after their ReLUs, and a number not explained."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten())
        self.vector = nn.Sequential(nn.Linear(5, 27), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(27, 8), nn.ReLU(), nn.Linear(8, 6))

    def forward(self, image, vector, scale=1.0):
        return self.head(self.image(image) * self.vector(vector) * scale)


def test_captum_on_a_tuple_of_inputs(method):
    theirs, ours = method
    model, image, vector = seeded(TwoInputs()), images(3, 2, 5, 5), images(3, 5)
    expected = theirs(model).attribute((image.clone(), vector.clone()), target=[1, 3, 5])
    got = ours(model, argnums=(0, 1))(image, vector, target=[1, 3, 5])
    assert isinstance(got, tuple)
    assert_close(got, expected, rtol=1e-12, atol=0)


def test_captum_on_arguments_that_are_not_explained(method):
    theirs, ours = method
    model, image, vector = seeded(TwoInputs()), images(3, 2, 5, 5), images(3, 5)
    expected = theirs(model).attribute(
        image.clone(), target=2, additional_forward_args=(vector, 0.5)
    )
    assert_close(ours(model)(image, vector, 0.5, target=2), expected, rtol=1e-12, atol=0)
    assert_close(ours(model)(image, vector, scale=0.5, target=2), expected, rtol=1e-12, atol=0)


def test_captum_on_one_number_per_example(method):
    theirs, ours = method
    model = nn.Sequential(plain_net(), nn.Linear(6, 1), nn.ReLU(), nn.Flatten(0)).double()
    nn.init.ones_(model[1].weight)
    x = images(3, 2, 9, 9)
    expected = theirs(model).attribute(x.clone())
    assert expected.abs().max() > 0
    assert_close(ours(model)(x), expected, rtol=1e-12, atol=0)


# ------------------------------------------------------------------ the peers, where they are wrong


class InPlaceSkip(nn.Module):
    """A pre-activation block whose in-place ReLU also rectifies what the skip connection reads."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 7 * 7, 6))

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.conv(self.relu(x)) + x)


class DiscardedInPlace(InPlaceSkip):
    """The in-place call whose result nobody takes."""

    def forward(self, x):
        x = self.stem(x)
        self.relu(x)
        return self.head(self.conv(x))


class SharedInput(InPlaceSkip):
    """A tensor read by an out-of-place ReLU and by another branch, as in DARTS and Xception."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()


class SiblingCalls(SharedInput):
    """One nn.ReLU module called on two parallel branches."""

    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(2, 4, 3)

    def forward(self, x):
        a, b = self.stem(x), self.other(x)
        return self.head(self.conv(self.relu(a)) - self.relu(b))


class Spelled(nn.Module):
    """A two-layer net whose only rectifier is `spelling`, scaled so that a ceiling is reached."""

    def __init__(self, spelling):
        super().__init__()
        self.spelling = spelling
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 5 * 5, 6))

    def forward(self, x):
        return self.head(self.spelling(4 * self.second(self.spelling(4 * self.first(x)))))


# Looked up at the call, as in a model's own code, for the oracle and TorchRay patch the names.
SPELLINGS = {
    "F.relu": lambda x: F.relu(x),
    "F.relu inplace": lambda x: F.relu(x, inplace=True),
    "F.relu keyword": lambda x: F.relu(input=x),
    "F.relu_": lambda x: F.relu_(x),
    "torch.relu": lambda x: torch.relu(x),
    "torch.relu keyword": lambda x: torch.relu(input=x),
    "torch.relu_": lambda x: torch.relu_(x),
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": lambda x: x.relu_(),
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6 inplace": nn.ReLU6(inplace=True),
    "F.relu6": lambda x: F.relu6(x),
    "F.hardtanh": lambda x: F.hardtanh(x, 0.0, 2.0),
    "F.hardtanh_": lambda x: F.hardtanh_(x, min_val=0.0, max_val=2.0),
    "nn.Hardtanh": nn.Hardtanh(0.0, 2.0, inplace=True),
}


def plain_gradient(model, x, target):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, target].sum(), leaf)[0]


@pytest.mark.parametrize("spelling", list(SPELLINGS))
def test_the_oracle_sees_every_spelling(spelling):
    """Its standard rule is autograd's and the true derivative; its others differ from it."""
    model, x = seeded(Spelled(SPELLINGS[spelling])), images(3, 2, 9, 9)
    plain = plain_gradient(model, x, 2)
    assert_close(rule_gradient(model, x, 2, "standard"), plain, rtol=1e-12, atol=0)
    for rule in "guided", "deconvnet":
        assert_differs(rule_gradient(model, x, 2, rule), plain)
    v = images(4, 2, 9, 9)[1:]
    with torch.no_grad():
        along = numeric_derivative(lambda x: model(x)[:, 2].sum(), x, v)
    assert_close(along, (plain * v).sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("spelling", list(SPELLINGS))
def test_captum_and_zennit_miss_what_is_not_an_nn_relu(spelling, rule, torchvision_stub):
    """Theirs is the plain gradient, to the bit and without a word."""
    model, x = seeded(Spelled(SPELLINGS[spelling])), images(3, 2, 9, 9)
    expected, plain = rule_gradient(model, x, 2, rule), plain_gradient(model, x, 2)
    assert_differs(plain, expected)
    assert torch.equal(captum_map(model, x, 2, rule), plain)
    assert torch.equal(zennit_map(model, x, 2, rule), plain)
    assert_close(OURS[rule](model)(x, target=2), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("spelling", list(SPELLINGS))
def test_torchray_misses_the_tensor_methods_and_the_clipped_forms(spelling, rule):
    """It patches `torch.relu` and `torch.relu_`, which F.relu calls, and nothing else."""
    if spelling == "torch.relu keyword" and not CAN_COMPILE:
        pytest.skip("its patch takes no keywords with an older torch")
    model, x = seeded(Spelled(SPELLINGS[spelling])), images(3, 2, 9, 9)
    expected, plain = rule_gradient(model, x, 2, rule), plain_gradient(model, x, 2)
    seen = spelling.startswith(("F.relu", "torch.relu")) and spelling not in ("F.relu_", "F.relu6")
    theirs = torchray_map(model, x, 2, rule)
    assert_differs(plain, expected)
    assert_close(theirs, expected if seen else plain, rtol=1e-12, atol=0)
    assert_close(OURS[rule](model)(x, target=2), expected, rtol=1e-12, atol=0)


PEERS = {"captum": captum_map, "torchray": torchray_map, "zennit": zennit_map}
BOTH = ("guided", "deconvnet")

# Which rules a peer gets wrong on a graph of nn.ReLU only, and why. All three rectify a copy, so
# that whoever else reads the tensor sees it unrectified. Captum hooks the input *tensor*, so that
# the gradients of its other readers are rectified too, and keeps one output gradient per module,
# which a sibling's call overwrites.
WRONG = {
    ("captum", InPlaceSkip): BOTH,
    ("captum", DiscardedInPlace): BOTH,
    ("captum", SharedInput): BOTH,
    ("captum", SiblingCalls): ("deconvnet",),
    ("torchray", InPlaceSkip): BOTH,
    ("torchray", DiscardedInPlace): BOTH,
    ("torchray", SharedInput): (),
    ("torchray", SiblingCalls): (),
    ("zennit", InPlaceSkip): BOTH,
    ("zennit", DiscardedInPlace): BOTH,
    ("zennit", SharedInput): (),
    ("zennit", SiblingCalls): (),
}


@pytest.mark.parametrize(("peer", "model"), list(WRONG), ids=lambda p: getattr(p, "__name__", p))
def test_where_a_peer_is_wrong_on_its_own_modules(peer, model, rule, torchvision_stub):
    model, x, wrong = seeded(model()), images(3, 2, 9, 9), rule in WRONG[peer, model]
    theirs, expected = PEERS[peer](model, x, 2, rule), rule_gradient(model, x, 2, rule)
    if wrong:
        assert_differs(theirs, expected)
    else:
        assert_close(theirs, expected, rtol=1e-12, atol=0)
    assert torch.equal(fa.relu_rule(model)(x), model(x))
    assert_close(OURS[rule](model)(x, target=2), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["darts", "nasnet", "xception", "mobilenetv2", "mobilenetv3"])
def test_captum_is_wrong_on_real_architectures(name, rule):
    """Inputs shared by several ReLUs in the first three, ReLU6 in the others."""
    pytest.importorskip("pytorchcv")
    from test_pytorchcv import NETS, build

    model, x = build(NETS[name]), images(1, 3, 64, 64)
    expected = rule_gradient(model, x, 3, rule)
    assert_differs(captum_map(model, x, 3, rule), expected)
    got = OURS[rule](model)(x, target=3)
    assert (got - expected).abs().max() < 1e-9 * expected.abs().max()


# ----------------------------------------------------------------------------------- ties at x == 0


def tied():
    """A ReLU that is fed the input itself, so that zeros of the input are exact ties."""
    x = torch.tensor([[-1.0, 0.0, 2.0, -3.0, 0.0, 0.5]], dtype=torch.float64)
    model = nn.Sequential(nn.ReLU(), nn.Linear(6, 2, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, 2.0, 3.0, -4.0, -5.0, -6.0]).expand(2, 6))
    return model, x


def test_at_a_tie_guided_blocks_as_captum_and_zennit(torchvision_stub):
    model, x = tied()
    expected = torch.tensor([[0, 0, 3, 0, 0, 0]], dtype=torch.float64)
    for theirs in captum_map, zennit_map:
        assert torch.equal(theirs(model, x, 0, "guided"), expected)
    assert torch.equal(rule_gradient(model, x, 0, "guided"), expected)
    assert torch.equal(fa.guided_backprop(model)(x, target=0), expected)


def test_at_a_tie_guided_inclusive_passes_as_torchray():
    model, x = tied()
    expected = torch.tensor([[0, 2, 3, 0, 0, 0]], dtype=torch.float64)
    assert torch.equal(torchray_map(model, x, 0, "guided"), expected)
    formula = rule_gradient(model, x, 0, lambda x, g: g * (x >= 0) * (g > 0))
    assert torch.equal(formula, expected)
    got = fa.rule_backprop(model, fa.rules.guided_inclusive)(x, target=0)
    assert torch.equal(got, expected)


def test_guided_inclusive_is_torchrays_guided_on_a_net_full_of_ties():
    """Of two stacked ReLUs the second is fed exact zeros, where the two readings part."""
    model = plain_net()
    model = nn.Sequential(*model[:2], nn.ReLU(), *model[2:4], nn.ReLU(), *model[4:])
    model, x = model.double(), images(3, 2, 9, 9).relu()
    theirs = torchray_map(model, x, 4, "guided")
    got = fa.rule_backprop(model, fa.rules.guided_inclusive)(x, target=4)
    assert_close(got, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", list(FORMULAS))
def test_the_named_rules_are_the_papers_formulas(name):
    """Any function (x, g) is a rule: the formula handed over gives what our own rule gives."""
    model, x = plain_net(), images(3, 2, 9, 9)
    own = fa.rule_backprop(model, getattr(fa.rules, name))(x, target=4)
    assert_close(own, rule_gradient(model, x, 4, name), rtol=1e-12, atol=0)
    assert torch.equal(own, fa.rule_backprop(model, FORMULAS[name])(x, target=4))


def test_an_invented_rule():
    """A rule that uses both of its arguments otherwise than any named one."""

    def rule(x, g):
        return g * (g > 0) * (x > 0.3) - 0.1 * g * (x < 0)

    model, x = plain_net(), images(3, 2, 9, 9)
    got = fa.rule_backprop(model, rule)(x, target=[0, 1, 2])
    assert_close(got, rule_gradient(model, x, [0, 1, 2], rule), rtol=1e-12, atol=0)
