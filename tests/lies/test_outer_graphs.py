"""Inputs that carry a graph of their own, with the operations in it that rules are for."""

import pytest
import torch
from torch import nn

import funcattr as fa

X = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU()).double()


ENCODER, DECODER = net(0), net(1)
METHODS = {
    "guided": fa.guided_backprop(DECODER),
    "gradient": fa.gradient(DECODER),
    "relevance": fa.lrp(DECODER, fa.composites.epsilon_plus()),
    "deep_lift": fa.deep_lift(DECODER),
    "a layer": fa.layer_gradient_x_activation(DECODER, "1"),
}


@pytest.mark.parametrize("name", METHODS)
def test_maps_at_what_a_network_made(name):
    attr, z = METHODS[name], ENCODER(X)
    expected = attr(z.detach(), target=1)
    torch.testing.assert_close(attr(z, target=1), expected)
    torch.testing.assert_close(fa.sweep(attr, z, targets=[0, 1])[1], expected)
    again = torch.vmap(lambda target: attr(z, target=target))(torch.tensor([0, 1]))[1]
    torch.testing.assert_close(again, expected)


def test_a_map_of_a_map():
    first = METHODS["guided"](X.clone().requires_grad_(), target=2)
    expected = METHODS["guided"](first.detach(), target=1)
    torch.testing.assert_close(METHODS["guided"](first, target=1), expected)


def test_an_argument_beside_the_input():
    attr = fa.guided_backprop(lambda x, z: DECODER(x + z))
    z = ENCODER(X)
    torch.testing.assert_close(attr(X, z, target=1), attr(X, z.detach(), target=1))


def test_the_derivative_goes_on_to_who_made_the_input():
    weight = ENCODER[0].weight
    smooth = fa.rule_backprop(lambda z: DECODER(z).square(), fa.rules.guided)

    def of(w):
        z = torch.relu(nn.functional.linear(X, w, ENCODER[0].bias)) @ ENCODER[2].weight.T
        return smooth(torch.relu(z), target=1).square().sum()

    (found,) = torch.autograd.grad(of(weight), weight)
    step = torch.randn_like(weight) * 1e-6
    with torch.no_grad():
        slope = of(weight + step) - of(weight - step)
    torch.testing.assert_close((found * step * 2).sum(), slope, rtol=1e-5, atol=0)


def test_what_is_no_argument_is_refused_with_the_way_out():
    z = ENCODER(X)
    with pytest.raises(fa.FuncattrError, match="was not detached"):
        fa.guided_backprop(lambda x: DECODER(x + z))(X, target=1)
    # In Python no rule can reach an activation of TorchScript, behind the input's own past or not.
    scripted = torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.ReLU()).double())
    with pytest.raises(fa.FuncattrError, match="TorchScript"):
        fa.guided_backprop(lambda x: torch.relu(scripted(x)))(z, target=1)


def test_an_input_that_is_written_to_hides_nothing():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.ReLU()).double())

    def writes(x):
        x.copy_(scripted(x))
        return torch.relu(x)

    for x in (X, ENCODER(X)):
        with pytest.raises(fa.FuncattrError, match="TorchScript"):
            fa.guided_backprop(writes)(x, target=1)
