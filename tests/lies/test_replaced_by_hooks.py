"""The output of a layer is what the model gets of it, which a hook may have replaced."""

import pytest
import torch
from conftest import needs_hooks
from helpers import assert_close
from torch import nn

import funcattr as fa

X = torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64)


class Net(nn.Module):
    def __init__(self, direct=False):
        super().__init__()
        self.layer, self.direct = nn.Identity(), direct
        self.layer.register_forward_hook(lambda module, args, out: out**2)
        self.layer.register_forward_hook(lambda module, args, out: out * X)

    def forward(self, x):
        return (self.layer.forward if self.direct else self.layer)(x * 1) ** 2


@needs_hooks
@pytest.mark.parametrize("layers", ["layer", ["layer"], "layer:0"])
def test_a_layer_whose_output_hooks_replace(layers):
    net = Net()
    act = X**3
    attr = fa.layer_gradient_x_activation(net, layers)
    found = attr(X, target=1)
    found = found[0] if isinstance(layers, list) else found
    assert_close(found, 2 * act * act * torch.tensor([[0.0, 1.0, 0.0]]))
    seen = fa.layer_output(net, layers)(X)
    assert_close(seen[0] if isinstance(layers, list) else seen, act)
    assert_close(net(X), act**2)
    assert "_call_impl" not in net.layer.__dict__


@needs_hooks
def test_hooks_do_not_see_a_forward_that_is_called_by_itself():
    found = fa.layer_gradient_x_activation(Net(direct=True), "layer")(X, target=1)
    assert_close(found, 2 * X * X * torch.tensor([[0.0, 1.0, 0.0]]))
    with pytest.raises(fa.LayerError, match="is called 1 time"):
        fa.layer_output(Net(), "layer:1")(X)


@pytest.mark.compiled
def test_compiled_code_refuses_a_layer_with_hooks():
    torch.compiler.reset()
    attr = fa.layer_gradient_x_activation(Net(), "layer")
    with pytest.raises(Exception, match="has a forward hook"):
        torch.compile(attr, backend="aot_eager", fullgraph=True)(X, target=1)
