"""The shared tables: models, methods, and transforms with what they must equal."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_flatten

import funcattr as fa


class Tiny(nn.Module):
    """Every trait that matters in few numbers: a pre-activation block whose skip path reads the
    rectified tensor, a reused and a clipped ReLU, batch norm, a smooth activation (so that second
    derivatives are not zero), float64."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        self.same = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3 * 9, 4)
        self.norm.running_mean.uniform_(-0.5, 0.5)
        self.norm.running_var.uniform_(0.5, 1.5)
        self.double().eval()

    def forward(self, x):
        x = self.norm(self.conv(x))
        x = x + self.same(self.relu(x))
        x = F.relu6(2 * torch.tanh(self.same(x)) + 0.3)
        return self.head(self.relu(x + 0.1).flatten(1)) ** 2


def tiny(seed=0):
    torch.manual_seed(seed)
    return Tiny()


def tiny_input(batch=2, seed=1):
    return torch.randn(
        batch, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def doubled(x, g):
    """A rule of the user's."""
    return 2 * g * (x > 0)


def joined(attr):
    """The tuple of a bundle's maps as one tensor."""

    def linearize(*args, **kwargs):
        out, explain = attr.linearize(*args, **kwargs)
        return out, lambda target: torch.cat([m.flatten(1) for m in explain(target)], 1)

    return fa.Attribution(linearize)


EPSILON = fa.Composite([("convolution", fa.rules.epsilon(0.3)), ("linear", fa.rules.epsilon(0.2))])

# name -> (func, argnums) -> Attribution
METHODS = {
    "gradient": fa.gradient,
    "saliency": fa.saliency,
    "input_x_gradient": fa.input_x_gradient,
    "guided_backprop": fa.guided_backprop,
    "deconvnet": fa.deconvnet,
    "rule_backprop": lambda f, argnums=0: fa.rule_backprop(f, doubled, argnums),
    "layer_gradient_x_activation": lambda f, argnums=0: fa.layer_gradient_x_activation(f, "norm"),
    "layer_input": lambda f, argnums=0: fa.layer_gradient_x_activation(
        f, "same:0", attribute_to_layer_input=True
    ),
    "grad_cam": lambda f, argnums=0: fa.grad_cam(f, "same:0", relu=False),
    "guided_grad_cam": lambda f, argnums=0: fa.guided_grad_cam(f, "relu:0", argnums=argnums),
    "neuron": lambda f, argnums=0: fa.guided_backprop(fa.layer_output(f, "head"), argnums),
    "smooth_grad": lambda f, argnums=0: fa.smooth_grad(
        fa.guided_backprop(f, argnums), samples=3, sigma=0.1, generator=5, argnums=argnums
    ),
    "integrated_gradients": lambda f, argnums=0: fa.integrated_gradients(
        f, steps=4, baseline=0.1, argnums=argnums, chunk_size=3
    ),
    "bundle": lambda f, argnums=0: joined(
        fa.bundle(
            fa.gradient(f, argnums),
            fa.guided_backprop(f, argnums),
            fa.grad_cam(f, "same:0", relu=False),
        )
    ),
    "epsilon": lambda f, argnums=0: fa.input_x_gradient(fa.with_rules(f, EPSILON), argnums),
    "epsilon_at_a_layer": lambda f, argnums=0: fa.layer_gradient_x_activation(
        fa.with_rules(f, EPSILON), "relu:0"
    ),
    "lrp": lambda f, argnums=0: fa.lrp(f, fa.composites.epsilon_alpha2_beta1_flat(), argnums),
    "deep_lift": lambda f, argnums=0: fa.deep_lift(f, baseline=0.1, argnums=argnums),
    "guided_tanh": lambda f, argnums=0: fa.guided_backprop(f, argnums, sites=("relu", "tanh")),
}

MEANS = {"smooth_grad", "integrated_gradients", "deep_lift"}  # take several forward passes
AT_A_LAYER = {
    "bundle", "epsilon_at_a_layer", "layer_gradient_x_activation", "layer_input", "grad_cam",
    "guided_grad_cam", "neuron",
}  # fmt: skip


def direction(x, seed=2):
    """Fixed numbers of the shape of ``x``, that a compiler can trace."""
    steps = torch.arange(x.numel(), dtype=x.dtype, device=x.device)
    return torch.cos((1.7 + seed) * steps + seed).reshape(x.shape)


def snapshot(model):
    """Everything of a model that a call could change."""
    state = copy.deepcopy(
        {name: (t.detach(), t._version, t.requires_grad, t.grad) for name, t in both(model)}
    )
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.training)
        for m in model.modules()
    ]
    identity = [id(t) for _, t in both(model)]
    attributes = [sorted(vars(m)) for m in model.modules()]
    return state, hooks, identity, attributes, torch.get_rng_state().clone()


def both(model):
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def assert_unchanged(model, before):
    for old, new in zip(tree_flatten(before)[0], tree_flatten(snapshot(model))[0]):
        assert torch.equal(old, new) if isinstance(old, torch.Tensor) else old == new


def assert_close(ours, theirs, tolerance=1e-9):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
