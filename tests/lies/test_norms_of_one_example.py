"""The norms of torch 2.13 have a wrong derivative on a CPU where a cotangent has odd strides."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close
from torch import nn

import funcattr as fa


class Tokens(nn.Module):
    """A norm of feature maps that go on as tokens: their cotangents come back transposed."""

    def __init__(self, norm, shape):
        super().__init__()
        self.norm, self.head = norm, nn.Linear(shape[1], 2)

    def forward(self, x):
        return self.head(torch.tanh(self.norm(x).flatten(2).transpose(1, 2))).mean(1)


def by_hand(norm, x):
    """The same in single steps."""
    along = [1, -1] + [1] * (x.dim() - 2)
    instance = isinstance(norm, nn.modules.instancenorm._InstanceNorm)
    if norm.training or instance:
        over = [*range(2, x.dim())] if instance else [0, *range(2, x.dim())]
        mean = x.mean(over, keepdim=True)
        var = (x - mean).square().mean(over, keepdim=True)
    else:
        mean, var = norm.running_mean.reshape(along), norm.running_var.reshape(along)
    return (x - mean) * (var + norm.eps).rsqrt()


NORMS = {
    "batch": lambda n, d: (nn.BatchNorm2d, nn.BatchNorm3d)[d - 4](n, affine=False).eval(),
    "training": lambda n, d: (nn.BatchNorm2d, nn.BatchNorm3d)[d - 4](n, affine=False),
    "instance": lambda n, d: (nn.InstanceNorm2d, nn.InstanceNorm3d)[d - 4](n),
}
SHAPES = [(1, 3, 2, 2), (1, 3, 1, 4), (2, 3, 1, 4), (1, 4, 3, 3), (1, 3, 2, 2, 2), (1, 3, 1, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_maps_of_a_norm_in_front_of_tokens(name, shape):
    x = torch.randn(shape, dtype=torch.float64)
    model = Tokens(NORMS[name](shape[1], len(shape)), shape).double()
    hand = lambda x: model.head(torch.tanh(by_hand(model.norm, x).flatten(2).mT)).mean(1)
    expected = [torch.func.grad(lambda x, t=t: hand(x)[:, t].sum())(x) for t in (0, 1)]
    attr = fa.gradient(model)
    assert_close(attr(x, target=1), expected[1])
    assert_close(fa.sweep(attr, x, targets=[0, 1]), torch.stack(expected))
    by_level = torch.func.vmap(lambda t: attr(x, target=t))(torch.arange(2))
    assert_close(by_level, torch.stack(expected))


def test_where_torch_is_wrong():
    """Should this fail, torch has mended it, and `funcattr.core.layout.ambiguous` can go."""
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    g = torch.randn(1, 4, 3, dtype=torch.float64).mT.unflatten(2, (2, 2))
    g = g.as_strided(g.shape, (3, *g.stride()[1:]))
    (found,) = torch.autograd.grad(F.batch_norm(x, mean, var, eps=0.0), x, g)
    if torch.__version__.startswith("2.13"):
        assert not torch.allclose(found, g)
