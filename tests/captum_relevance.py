"""What the tests of Captum's LRP and DeepLift share: one call by both libraries, and the nets."""

import copy
import itertools
import warnings

import torch
from captum_pairs import theirs
from helpers import assert_close
from relevance.models import randn, ready
from torch import nn

from funcattr.compat import captum as ours


class Flat(nn.Module):
    """Captum's LRP has no rule for nn.Flatten, and none for 1-D convolutions."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
        return x


def net(norm=True, act=nn.ReLU, pool=nn.MaxPool2d):
    """Of layers that Captum's LRP knows."""
    between = [nn.BatchNorm2d(4)] if norm else []
    return ready(
        Flat(
            *(nn.Conv2d(2, 4, 3, padding=1), *between, act(), pool(2)),
            *(nn.Conv2d(4, 5, 3), act(), nn.AdaptiveAvgPool2d(1), nn.Dropout()),
            *(nn.Linear(5, 6), act(), nn.Linear(6, 4)),
        )
    )


X = randn(2, 2, 8, 8)


def quietly(library, name, model, *args, options=None, rule=None, **kwargs):
    """``library.name(model).attribute(*args)``, with a rule for some of the layers."""
    model = copy.deepcopy(model)
    for path, make in (rule or {}).items():
        model.get_submodule(path).rule = make()
    with warnings.catch_warnings():
        if library is theirs:
            warnings.simplefilter("ignore")
        found = getattr(library, name)(model, **(options or {})).attribute(*args, **kwargs)
    return torch.utils._pytree.tree_map_only(torch.Tensor, torch.detach, found)


def assert_same(*args, **kwargs):
    own, other = (quietly(of, *args, **kwargs) for of in (ours, theirs))
    assert_close(own, other)
    return own


def off(a, b):
    return float((a - b).abs().max() / b.abs().max())


def one(forward, *layers):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(layers)

        def forward(self, x):
            return forward(self.layers, x)

    return ready(Model())


def dense(*sizes):
    return [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)]


class Copy(nn.Module):
    def forward(self, x):
        return x.clone()


def copied(model):
    """``model``, where no layer is handed the very tensor that another gave (see the next test)."""
    model = copy.deepcopy(model)
    layers = [layer for one in getattr(model, "layers", model) for layer in (one, Copy())]
    if isinstance(model, Flat):
        model.layers = nn.ModuleList(layers)
        return model
    return nn.Sequential(*layers)
