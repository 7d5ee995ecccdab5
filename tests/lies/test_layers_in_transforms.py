"""A layer inside of a transform that the model itself makes: its maps were zeros, in silence."""

import pytest
import torch
from conftest import VERSION
from torch import nn

import funcattr as fa

X = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

TRANSFORMS = {
    "vmap": lambda f, x: torch.vmap(f)(x),
    "vmap of vmap": lambda f, x: torch.vmap(torch.vmap(f))(x[:, None])[:, 0],
    "grad": lambda f, x: torch.func.grad(lambda y: f(y).sum())(x),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](x)[0],
    "jvp": lambda f, x: sum(torch.func.jvp(f, (x,), (x,))),
    "jacrev": lambda f, x: torch.func.jacrev(lambda y: f(y).sum(0))(x).sum(0),
}


class Net(nn.Module):
    def __init__(self, transform):
        super().__init__()
        self.transform = TRANSFORMS[transform]
        self.inner, self.outer, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        y = self.outer(torch.relu(x))
        return self.last(self.transform(lambda r: torch.relu(self.inner(r)), y))


METHODS = {
    "layer": lambda m, layer: fa.layer_gradient_x_activation(m, layer),
    "input": lambda m, layer: fa.layer_gradient_x_activation(
        m, layer, attribute_to_layer_input=True
    ),
    "grad_cam": lambda m, layer: fa.grad_cam(m, layer),
    "guided_grad_cam": lambda m, layer: fa.guided_grad_cam(m, layer),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("method", METHODS)
def test_it_is_refused(transform, method):
    attr = METHODS[method](Net(transform).double(), "inner")
    with pytest.raises(fa.LayerError, match="layer 'inner' is made inside of a transform"):
        attr(X, target=1)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_what_it_returns_is_no_dead_wrapper(transform):
    with pytest.raises(fa.LayerError, match="inside of a transform"):
        fa.layer_output(Net(transform).double(), "inner")(X)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_layers_outside_are_explained_under_outer_transforms_too(transform):
    model = Net(transform).double()
    attr = fa.layer_gradient_x_activation(model, "outer", multiply_by_inputs=False)
    maps = attr(X, target=1)

    def tail(y):
        return model.last(model.transform(lambda r: torch.relu(model.inner(r)), y))[:, 1].sum()

    expected = torch.func.grad(tail)(model.outer(torch.relu(X)).detach())
    torch.testing.assert_close(maps, expected)
    single = torch.vmap(lambda x: attr(x[None], target=1)[0])(X)
    torch.testing.assert_close(single, expected)


@pytest.mark.compiled
@pytest.mark.skipif(VERSION < (2, 13), reason="funcattr refuses to be compiled before")
def test_compiled_as_well():
    torch.compiler.reset()
    attr = fa.layer_gradient_x_activation(Net("vmap").double(), "inner")
    with pytest.raises(Exception, match="inside of a transform"):
        torch.compile(attr, backend="aot_eager")(X, target=torch.tensor(1))
    attr = fa.layer_gradient_x_activation(Net("vmap").double(), "outer")
    maps = torch.compile(attr, backend="aot_eager")(X, target=torch.tensor(1))
    torch.testing.assert_close(maps, attr(X, target=1))
