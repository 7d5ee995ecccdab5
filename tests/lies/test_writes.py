"""Writes between operations that a method puts together, compiled and not.

In compiled code nobody can read how often a tensor was written to: what is known of it went stale
in silence. The oracle is the same model that writes nothing.
"""

import pytest
import torch
import torch.nn.functional as F
from conftest import VERSION, needs_edges
from torch import nn
from torch.testing import assert_close

import funcattr as fa

X = torch.randn(2, 2, 4, 4, generator=torch.manual_seed(1), dtype=torch.float64)


class Normed(nn.Module):
    """A convolution, something done, and a batch norm of it; ``write`` says what, ``how`` how."""

    def __init__(self, write):
        super().__init__()
        self.write = write
        self.conv, self.beside = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 3, 1)
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(48, 4)
        for t in (*self.norm.parameters(), *self.norm.buffers()):
            if t.is_floating_point():
                t.data.uniform_(0.5, 2)

    def forward(self, x):
        y = self.conv(x)
        z = self.beside(x)
        y, z = self.write(y, z)
        return self.head((self.norm(y) + z).relu().flatten(1))


def done_to_view(y, z):
    y.flatten(1)[:, :5].mul_(2)
    return y, z


def done_to_item(y, z):
    y[:, 0] = 0.5
    return y, z


def masked(y, factor, where):
    flat = torch.ones_like(y[0]).flatten()
    flat[:where] = factor
    return y * flat.view_as(y[0])


WRITES = {  # as it is written, and without a write
    "another's relu": (lambda y, z: (y, z.relu_()), lambda y, z: (y, z.relu())),
    "another's sum": (lambda y, z: (y, z.add_(1)), lambda y, z: (y, z + 1)),
    "relu_": (lambda y, z: (y.relu_(), z), lambda y, z: (y.relu(), z)),
    "F.relu": (lambda y, z: (F.relu(y, inplace=True), z), lambda y, z: (y.relu(), z)),
    "hardswish": (lambda y, z: (F.hardswish(y, inplace=True), z), lambda y, z: (F.hardswish(y), z)),
    "add_": (lambda y, z: (y.add_(1), z), lambda y, z: (y + 1, z)),
    "an item": (
        done_to_item,
        lambda y, z: (torch.cat([torch.full_like(y[:, :1], 0.5), y[:, 1:]], 1), z),
    ),
    "a view": (done_to_view, lambda y, z: (masked(y, 2.0, 5), z)),
    "dropout": (lambda y, z: (F.dropout(y, training=False, inplace=True), z), lambda y, z: (y, z)),
}
BY_ANOTHER_NAME = {"a view"}
if VERSION > (2, 13):  # whose compiler takes it apart
    BY_ANOTHER_NAME |= {"an item"}


def by_linear_rules(write):
    torch.manual_seed(0)
    model = Normed(write).double().eval().requires_grad_(False)
    rows = [("convolution", fa.rules.z_plus()), ("linear", fa.rules.epsilon())]
    return fa.lrp(model, fa.Composite(rows))


def compiled(attr, *args, **kwargs):
    torch.compiler.reset()
    return torch.compile(attr, backend="aot_eager", fullgraph=True)(*args, **kwargs)


@pytest.mark.parametrize("name", WRITES)
def test_a_write_between_a_convolution_and_its_norm(name):
    expected = by_linear_rules(WRITES[name][1])(X, target=1)
    assert_close(by_linear_rules(WRITES[name][0])(X, target=1), expected)


@pytest.mark.compiled
@pytest.mark.parametrize("name", WRITES)
def test_compiled_a_write_between_a_convolution_and_its_norm(name):
    attr = by_linear_rules(WRITES[name][0])
    if name in BY_ANOTHER_NAME:
        with pytest.raises(RuntimeError, match="a view or another name"):
            compiled(attr, X, target=1)
    else:
        assert_close(compiled(attr, X, target=1), attr(X, target=1))


class Rested(nn.Module):
    """A linear layer and its norm; what goes into the layer is written to between them."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.head = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x):
        x = x * 1
        y = self.linear(x)
        x += 1
        return self.head(self.norm(y) + x)


@pytest.mark.parametrize("code", ["eager", pytest.param("compiled", marks=pytest.mark.compiled)])
def test_the_input_of_an_operation_that_a_norm_is_merged_into(code):
    """Its map was that without merging, where the same model out of place had another."""
    model = Rested().double().eval().requires_grad_(False)
    attr, x = fa.lrp(model, fa.composites.epsilon_plus()), torch.randn(2, 4, dtype=torch.float64)
    with pytest.raises((fa.NoSiteError, RuntimeError), match="writes to what goes into"):
        attr(x, target=1) if code == "eager" else compiled(attr, x, target=1)


def gated_root(h):
    gate = torch.sigmoid(h)
    h.add_(1)
    return h * gate


def gated_view_of_root(h):
    gate = torch.sigmoid(h)
    h.view(-1)[:3].add_(1)
    return h * gate


def gate_itself(h):
    gate = torch.sigmoid(h)
    gate.view(-1)[:3] = h.view(-1)[:3].detach()
    return h * gate


class Gated(nn.Module):
    def __init__(self, gate):
        super().__init__()
        self.gate, self.first, self.last = gate, nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.gate(self.first(x)))


@pytest.mark.compiled
@pytest.mark.parametrize("composite", [fa.composites.attn_lrp, fa.composites.cp_lrp])
@pytest.mark.parametrize("gate", [gated_root, gated_view_of_root, gate_itself])
def test_compiled_a_write_between_a_gate_and_its_product(gate, composite):
    attr = fa.lrp(Gated(gate).double().requires_grad_(False), composite())
    x = torch.randn(2, 4, dtype=torch.float64)
    if gate is gated_root:
        assert_close(compiled(attr, x, target=1), attr(x, target=1))
    else:
        with pytest.raises(RuntimeError, match="a view or another name"):
            compiled(attr, x, target=1)


def test_a_gate_is_one_though_what_it_was_made_of_is_written_to():
    """By CP-LRP the gate gets nothing, so that the map is that of a constant gate."""
    model = Gated(gated_root).double().requires_grad_(False)
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    h = model.first(x)
    model.last((h + 1) * torch.sigmoid(h).detach())[:, 1].sum().backward()
    rows = [("product", fa.rules.stop_weights), ("elementwise", fa.rules.pass_through)]
    attr = fa.lrp(model, fa.Composite(rows))
    assert_close(attr(x.detach(), target=1), x.grad * x.detach())


class Late(nn.Module):
    """A layer's input that the model writes to when the layer is done."""

    def __init__(self, write):
        super().__init__()
        self.write, self.first = write, nn.Linear(4, 4)
        self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = self.first(x) * 1
        y = self.layer(h)
        return self.last(y * self.write(h))


LATE = {
    "relu_": (lambda h: h.relu_(), lambda h: h.relu()),
    "mul_": (lambda h: h.mul_(2), lambda h: h * 2),
}


def late(write):
    torch.manual_seed(0)
    model = Late(write).double().requires_grad_(False)
    return fa.layer_gradient_x_activation(model, "layer", attribute_to_layer_input=True)


@needs_edges
@pytest.mark.parametrize("name", LATE)
def test_what_goes_into_a_layer_is_written_to_later(name):
    x = torch.randn(2, 4, dtype=torch.float64)
    written, plain = LATE[name]
    assert_close(late(written)(x, target=1), late(plain)(x, target=1))


@pytest.mark.compiled
@pytest.mark.parametrize("name", LATE)
def test_compiled_what_goes_into_a_layer_is_written_to_later(name):
    """The derivative was that by the later value."""
    x = torch.randn(2, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="writes to what goes into layer"):
        compiled(late(LATE[name][0]), x, target=1)
    assert_close(compiled(late(LATE[name][1]), x, target=1), late(LATE[name][1])(x, target=1))


class Turned(nn.Module):
    """A layer that gives a view of its input; one of both is written to, the other read."""

    def __init__(self, of_output):
        super().__init__()
        self.of_output, self.first = of_output, nn.Linear(4, 4)
        self.layer, self.last = nn.Flatten(), nn.Linear(4, 3)

    def forward(self, x):
        h = self.first(x)[:, None] * 1
        view = self.layer(h)
        (view if self.of_output else h).mul_(2)
        return self.last(h[:, 0] if self.of_output else view)


WAYS = {
    "plain": lambda attr, x: attr(x, target=1),
    "vmap": lambda attr, x: torch.vmap(lambda t: attr(x, target=t))(torch.arange(2)),
    "vmap of examples": lambda attr, x: torch.vmap(lambda x: attr(x, target=1))(x[None]),
    "vjp": lambda attr, x: torch.func.vjp(lambda x: attr(x, target=1), x)[0],
    "jvp": lambda attr, x: torch.func.jvp(lambda x: attr(x, target=1), (x,), (x,))[0],
    "sweep": lambda attr, x: fa.sweep(attr, x, targets=range(2)),
}


@pytest.mark.parametrize("of_output", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_view_of_a_layers_input(way, of_output):
    """Under a transform nobody saw that both share memory, and the map was another."""
    attr = fa.layer_gradient_x_activation(Turned(of_output).double(), "layer")
    with pytest.raises(fa.LayerError, match="gives a view of its own input"):
        WAYS[way](attr, torch.randn(2, 4, dtype=torch.float64))


@pytest.mark.compiled
@pytest.mark.parametrize("of_output", [False, True])
def test_compiled_a_view_of_a_layers_input(of_output):
    attr = fa.layer_gradient_x_activation(Turned(of_output).double(), "layer")
    with pytest.raises(RuntimeError, match="gives a view of its own input"):
        compiled(attr, torch.randn(2, 4, dtype=torch.float64), target=1)
