"""A part of an output that a target does not use has no part in the map."""

import pytest
import torch
from helpers import assert_close
from torch import nn

import funcattr as fa

X = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
W = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def infinite(x):
    """The second output has an infinite derivative, and zeros pulled through it are NaN."""
    h = torch.relu(x @ W)
    return h * 2, (h * 0).sqrt()


def undifferentiable(x):
    """The second output cannot be differentiated, since what it saved was written to."""
    h = torch.relu(x @ W)
    e = h.exp()
    y = e.sum(1, keepdim=True)
    e.add_(1)
    return {"first": h * 2, "second": y}


def alone(x):
    return torch.relu(x @ W) * 2


TARGETS = {
    "tuple": (infinite, lambda out: out[0][:, 1]),
    "dict": (undifferentiable, lambda out: out["first"][:, 1]),
    "detached": (infinite, lambda out: out[0][:, 1] + 0 * out[1][:, 1].detach()),
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("method", [fa.gradient, fa.guided_backprop, fa.input_x_gradient])
def test_maps(name, method):
    func, target = TARGETS[name]
    attr, wanted = method(func), method(alone)(X, target=1)
    assert_close(attr(X, target=target), wanted)
    assert_close(fa.sweep(attr, X, targets=[target, target])[1], wanted)
    assert_close(torch.vmap(lambda x: attr(x[None], target=target)[0])(X), wanted)
    second = lambda x: attr(x, target=target).sum()
    assert_close(
        torch.func.grad(second)(X), torch.func.grad(lambda x: method(alone)(x, target=1).sum())(X)
    )
    x = X.clone().requires_grad_()
    assert_close(torch.autograd.grad(second(x), x)[0], torch.func.grad(second)(X))


def test_a_target_that_uses_nothing():
    zeros = fa.gradient(infinite)(X, target=lambda out: torch.ones(2, dtype=torch.float64))
    assert_close(zeros, torch.zeros_like(X))


def test_layers_and_a_part_of_the_output():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(3, 3)

        def forward(self, x):
            h = torch.nn.functional.softplus(self.body(x))
            return {"logits": h * 2, "scale": (h * 0).sqrt()}

    net = Heads().double()
    by_callable = fa.layer_gradient_x_activation(net, "body")
    by_name = fa.layer_gradient_x_activation(net, "body", output="logits")
    wanted = by_callable(X, target=lambda out: out["logits"][:, 2])
    assert wanted.isfinite().all() and wanted.any()
    assert_close(by_name(X, target=2), wanted)


@pytest.mark.compiled
@pytest.mark.parametrize("name", ["tuple", "dict"])
def test_compiled(name):
    func, target = TARGETS[name]
    attr = fa.guided_backprop(func)
    compiled = torch.compile(attr, backend="aot_eager", fullgraph=True)
    assert_close(compiled(X, target=target), fa.guided_backprop(alone)(X, target=1))
