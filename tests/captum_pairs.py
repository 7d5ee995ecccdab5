"""What the tests of `funcattr.compat.captum` share: one call by both libraries, and the nets."""

import warnings

import pytest
import torch
from test_peers import images, plain_net, seeded
from torch import nn
from torch.testing import assert_close

from funcattr.compat import captum as ours

theirs = pytest.importorskip("captum.attr")

AT_INPUT = ("GuidedBackprop", "Deconvolution", "Saliency", "InputXGradient")
AT_LAYER = ("LayerGradCam", "LayerGradientXActivation")
NEURON = ("NeuronGuidedBackprop", "NeuronDeconvolution")
INPUT_SHAPED = (*AT_INPUT, "GuidedGradCam", *NEURON)
METHODS = (*AT_INPUT, *AT_LAYER, "GuidedGradCam", *NEURON)
RULES = {"GuidedBackprop": "guided", "Deconvolution": "deconvnet"}
RULES |= {"NeuronGuidedBackprop": "guided", "NeuronDeconvolution": "deconvnet"}

each_method = pytest.mark.parametrize("name", METHODS)


def close(a, b):
    assert_close(a, b, rtol=1e-12, atol=1e-12)


def method(library, name, model, layer=None, **options):
    cls = getattr(library, name)
    model = model if library is ours else getattr(model, "for_captum", model)
    return cls(model, **options) if name in AT_INPUT else cls(model, layer, **options)


def apart(value):
    """Copies, for Captum marks what it is given."""
    if isinstance(value, tuple):
        return tuple(map(apart, value))
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def outcome(library, call):
    """What a call gives, or its error. No warning may come of ours."""
    with warnings.catch_warnings():
        if library is theirs:
            warnings.simplefilter("ignore")
        try:
            return torch.utils._pytree.tree_map_only(torch.Tensor, torch.detach, call(library))
        except Exception as error:
            return error


def maps(library, name, model, x, layer=None, target=None, neuron=None, options=None, **kwargs):
    explained = {"neuron_selector": neuron} if name in NEURON else {"target": target}
    return outcome(
        library,
        lambda of: method(of, name, model, layer, **(options or {})).attribute(
            apart(x), **explained, **kwargs
        ),
    )


def agree(*args, **kwargs):
    """Both give the same, in the same form; returned for further checks."""
    expected, got = maps(theirs, *args, **kwargs), maps(ours, *args, **kwargs)
    for result in expected, got:
        if isinstance(result, Exception):
            raise result
    assert type(got) is type(expected)
    close(got, expected)
    return got


class Residual(nn.Module):
    """Batch norm, a residual, a reused ReLU and one in place; where Captum is right."""

    def __init__(self, dims):
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
        self.stem, self.norm1 = conv(2, 4, 3), norm(4)
        self.block, self.norm2 = conv(4, 4, 3, padding=1), norm(4)
        self.inplace, self.reused = nn.ReLU(inplace=True), nn.ReLU()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 3**dims, 6))

    def forward(self, x):
        x = self.inplace(self.norm1(self.stem(x)))
        x = self.reused(self.norm2(self.block(x)) + x)
        return self.head(self.reused(self.block(x)))


def residual(dims):
    return seeded(Residual(dims))


def ties():
    """Small whole numbers, so that much of what ReLUs are fed is exactly zero."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Flatten()
    )
    model.append(nn.Linear(27, 6)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randint(-1, 2, p.shape))
    return model


def whole(*shape):
    return images(*shape).round().clamp(-1, 1)


def path(layer):
    return lambda model: model.get_submodule(layer)


# name -> model, input, layer, target, neuron
NETS = {
    "1-D": (lambda: residual(1), images(3, 2, 5), path("block"), 1, (1, 2)),
    "2-D": (lambda: residual(2), images(3, 2, 5, 5), path("norm1"), [0, 5, 2], (1, 2, 0)),
    "3-D": (lambda: residual(3), images(2, 2, 5, 5, 5), path("stem"), (4,), (1, 2, 0, 1)),
    "reused": (lambda: residual(2), images(3, 2, 5, 5), path("reused"), -1, (slice(0, 3), 2, 0)),
    "in place": (lambda: residual(2), images(3, 2, 5, 5), path("inplace"), 1, (1, slice(None), 0)),
    "one each": (plain_net, images(3, 2, 9, 9), path("3"), torch.tensor([0, 4, 2]), (0, 1, 1)),
    "one-element tensor": (plain_net, images(3, 2, 9, 9), path("4"), torch.tensor([3]), (0, 1, 1)),
    "tuples": (plain_net, images(3, 2, 9, 9), path("1"), [(0,), (4,), (2,)], (0, 1, -1)),
    "negative": (plain_net, images(3, 2, 9, 9), path("0"), (-2,), lambda o: o[:, 0].sum((1, 2))),
    "dense": (lambda: plain_net(head=False), images(3, 2, 9, 9), path("1"), (3, 1, 2), (0, 1, 2)),
    "dense per example": (
        lambda: plain_net(head=False),
        images(3, 2, 9, 9),
        path("2"),
        [(3, 1, 2), (0, 0, 0), (4, -1, 2)],
        (0, 1, 2),
    ),
    "ties": (ties, whole(4, 2, 5, 5), path("2"), 3, (0, 1, 2)),
    "a linear layer": (plain_net, images(3, 2, 9, 9), path("6"), 3, 4),
}  # fmt: skip


class Several(nn.Module):
    """A layer with two outputs, one that is not used, and one that never runs."""

    def __init__(self):
        super().__init__()
        self.pair, self.idle, self.unused = Pair(), nn.ReLU(), nn.Conv2d(2, 2, 1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(27, 6))

    def forward(self, x):
        a, b = self.pair(x)
        self.unused(x)
        return self.head(a * b)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(2, 3, 3), nn.ReLU()

    def forward(self, x):
        return self.conv(x), self.relu(self.conv(x))


X = images(3, 2, 9, 9)
FLAT, DENSE = plain_net(), plain_net(head=False)
