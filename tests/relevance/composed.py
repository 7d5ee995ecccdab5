"""What relevance is composed with transforms on: a network, composites, and what they equal."""

import torch
import torch.nn.functional as F
from helpers import direction
from torch import nn

import funcattr as fa
from relevance.models import randn, ready


class Gate(nn.Module):
    """An activation written out: smooth, and its parts are products of its input with itself."""

    def forward(self, x):
        return x * torch.sigmoid(1.7 * x)


class Net(nn.Module):
    """Batch norms behind convolutions, a skip connection, a functional ReLU, a mean."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.same, self.norm2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.gate, self.relu = Gate(), nn.ReLU(inplace=True)
        self.body, self.head = nn.Linear(12, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        x = self.gate(x + self.norm2(self.same(x)))
        x = F.avg_pool2d(x, 2).flatten(1)
        return self.head(self.relu(self.body(x)))


C = fa.composites
EPS = 0.1  # large, so that finite differences are exact
# name -> eps -> composite
COMPOSITES = {
    "epsilon_plus": C.epsilon_plus,
    "epsilon_plus_flat": C.epsilon_plus_flat,
    "alpha2_beta1": C.epsilon_alpha2_beta1,
    "gamma_box": lambda eps: C.epsilon_gamma_box(-4.0, 4.0, eps=eps),
    "excitation_backprop": C.excitation_backprop,
    "whole_module": lambda eps: fa.Composite([(Gate, fa.rules.pass_through)]) + C.epsilon_plus(eps),
}
LAYERS = ["norm", "norm2", "gate", "body", "relu"]
X, V = randn(2, 2, 4, 4), randn(2, 2, 4, 4, seed=5)
TARGETS = torch.arange(4)


def net(seed=0):
    return ready(Net(), seed)


def lrp(composite, model=None, **options):
    return fa.lrp(net() if model is None else model, composite, **options)


def looped(attr, x=X):
    """One pass for each target."""
    return torch.stack([attr(x, target=int(t)) for t in TARGETS])


def dot(map_):
    return (map_ * direction(map_, 3)).sum()


def siblings():
    """Composites of the same kinds that differ in their numbers alone, and in none."""
    pairs = [(make(EPS), make(0.3)) for make in COMPOSITES.values()]
    gamma = C.epsilon_gamma_box(-4.0, 4.0, gamma=2.0, eps=EPS)
    box = C.epsilon_gamma_box(-5.0, 5.0, eps=EPS)
    alphas = [[("convolution", fa.rules.alpha_beta(a, a - 1, eps=EPS))] for a in (1, 3)]
    biases = C.epsilon_plus(EPS, zero_bias=True)
    return [*sum(pairs, ()), gamma, box, *map(fa.Composite, alphas), biases]
