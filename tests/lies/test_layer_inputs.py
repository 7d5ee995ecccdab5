"""A layer's input is what went in, before the layer (or the model) wrote to it."""

import pytest
import torch
from conftest import needs_edges
from helpers import assert_close
from torch import nn

import funcattr as fa


class Own(nn.Module):
    """A layer of one's own, which writes to its input and does not say so."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


class Net(nn.Module):
    """A layer whose input others read before and, where it is discarded, after it."""

    def __init__(self, layer, early, discards):
        super().__init__()
        self.conv, self.next = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3)
        self.layer, self.head = layer, nn.Linear(27, 4)
        self.early, self.discards = early, discards

    def after(self, h):
        extra = torch.tanh(h).sum((1, 2, 3))[:, None] if self.early else 0
        return lambda a: self.head(self.next(a).flatten(1)) ** 2 + extra

    def forward(self, x):
        h = self.conv(x)
        after = self.after(h)
        if self.discards:
            self.layer(h)
            return after(h)
        return after(self.layer(h))


LAYERS = {
    "relu": nn.ReLU(inplace=True),
    "leaky": nn.LeakyReLU(0.1, inplace=True),
    "silu": nn.SiLU(inplace=True),
    "own_relu": Own(lambda x: x.relu_()),
    "own_affine": Own(lambda x: x.mul_(2).add_(1)),
    "own_view": Own(lambda x: x.view(-1).mul_(2).view_as(x)),
    "container": nn.Sequential(nn.ReLU(True), nn.Tanh()),
    "identity": nn.Identity(),
    "plain": nn.ReLU(),
}
X = torch.randn(2, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def writing(*names):
    """Names of layers, of which those that write to their input need edges."""
    kept = ("identity", "plain")
    return [n if n in kept else pytest.param(n, marks=needs_edges) for n in names]


def made(name, early=False, discards=False):
    torch.manual_seed(1)
    return Net(LAYERS[name], early, discards).double().eval()


def split(net, target=1):
    """By plain autograd: the layer's input and output, and the gradients at both."""
    h = net.conv(X).detach().requires_grad_()
    a = net.layer(h.clone())
    out = net.after(h)(a)[:, target].sum()
    return (h, *torch.autograd.grad(out, h, retain_graph=True)), (a, *torch.autograd.grad(out, a))


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("name", writing(*LAYERS))
def test_layer_gradient_x_activation(name, early):
    net = made(name, early)
    for at_input, (t, g) in zip((True, False), split(net)):
        attr = fa.layer_gradient_x_activation(net, "layer", attribute_to_layer_input=at_input)
        wanted = t * g
        assert_close(attr(X, target=1), wanted)
        assert_close(fa.sweep(attr, X, targets=[0, 1])[1], wanted)
        assert_close(torch.vmap(lambda x, attr=attr: attr(x[None], target=1)[0])(X), wanted)
        assert_close(fa.bundle(attr, fa.gradient(net))(X, target=1)[0], wanted)


DISCARDED = ("relu", "leaky", "silu", "own_relu", "own_affine", "plain")


@pytest.mark.parametrize("name", writing(*DISCARDED))
def test_a_layer_whose_result_is_discarded(name):
    net = made(name, early=True, discards=name != "plain")
    for at_input, (t, g) in zip((True, False), split(net)):
        attr = fa.layer_gradient_x_activation(net, "layer", attribute_to_layer_input=at_input)
        assert_close(attr(X, target=1), t * g)


@pytest.mark.parametrize("name", writing("relu", "own_relu", "silu"))
def test_grad_cam_and_guided_grad_cam(name):
    net = made(name)
    (h, g), _ = split(net)
    cam = torch.relu((g.mean((2, 3), keepdim=True) * h).sum(1, keepdim=True))
    assert_close(fa.grad_cam(net, "layer", attribute_to_layer_input=True)(X, target=1), cam)
    sites = {"relu": "relu", "own_relu": "relu", "silu": "silu"}[name]
    guided = fa.guided_backprop(net, sites=sites)(X, target=1)
    ours = fa.guided_grad_cam(net, "layer", attribute_to_layer_input=True, sites=sites)
    assert_close(ours(X, target=1), cam * guided)


@pytest.mark.parametrize("name", ["relu", "own_affine"])
@pytest.mark.parametrize("at_input", [False, pytest.param(True, marks=needs_edges)])
def test_derivatives_of_the_map(name, at_input):
    net = made(name, early=True)
    attr = fa.layer_gradient_x_activation(net, "layer", attribute_to_layer_input=at_input)
    v, step = torch.cos(torch.arange(100.0, dtype=torch.float64)).reshape(X.shape), 1e-6
    f = lambda x: (attr(x, target=1) * net.conv(X).detach().cos()).sum()
    numeric = (f(X + step * v) - f(X - step * v)) / (2 * step)
    assert_close((torch.func.grad(f)(X) * v).sum(), numeric, 1e-5)
    assert_close(torch.func.jvp(f, (X,), (v,))[1], numeric, 1e-5)
    x = X.clone().requires_grad_()
    assert_close((torch.autograd.grad(f(x), x)[0] * v).sum(), numeric, 1e-5)


class Later(nn.Module):
    """Writes to what went into a layer, behind it: to that itself, or to a view of it."""

    def __init__(self, view):
        super().__init__()
        self.layer, self.view = nn.Identity() if view else Own(lambda x: x + 1), view

    def forward(self, x):
        h = torch.sin(x)
        y = self.layer(h)
        (y if self.view else h).mul_(2)
        return (y + h).flatten(1)


@pytest.mark.parametrize("model", [made("own_affine"), Later(False), Later(True)])
def test_an_input_that_is_written_to_is_refused_without_edges(monkeypatch, model):
    """As with torch 2.0, where its map was zero, or what was there after the write."""
    for module in ("models.taps", "engine.linearize"):
        monkeypatch.setattr(f"funcattr.{module}.EDGES", False)
    monkeypatch.setattr("funcattr.engine.linearize.edge_of", lambda t: None)
    attr = fa.layer_gradient_x_activation(model, "layer", attribute_to_layer_input=True)
    for call in (
        lambda: attr(X, target=1),
        lambda: fa.sweep(attr, X, targets=[0, 1]),
        lambda: torch.vmap(lambda x: attr(x[None], target=1))(X),
        lambda: torch.func.grad(lambda x: attr(x, target=1).sum())(X),
    ):
        with pytest.raises(fa.LayerError, match=r"writes to later, and torch before 2\.1"):
            call()
    assert fa.layer_output(model, "layer", at_input=True)(X).shape[0] == len(X)


@needs_edges
def test_what_the_model_writes_to_later():
    """The layer only reads; the model overwrites its input, and what it returned, afterwards."""

    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Own(lambda x: x + 1)

        def forward(self, x):
            h = torch.sin(x)
            y = self.layer(h)
            h.mul_(2)
            y.mul_(5)
            return (y + h).flatten(1)

    h = torch.sin(X)
    hot = torch.zeros_like(h.flatten(1))
    hot[:, 3] = 1
    hot = hot.reshape(h.shape)
    attr = fa.layer_gradient_x_activation(Writes(), "layer", attribute_to_layer_input=True)
    assert_close(attr(X, target=3), 7 * hot * h)
    attr = fa.layer_gradient_x_activation(Writes(), "layer")
    assert_close(attr(X, target=3), 5 * hot * (h + 1))
    assert_close(fa.layer_output(Writes(), "layer", at_input=True)(X), h)


def test_an_input_that_needs_no_gradient():
    """A layer of something that does not depend on the input is a start of its own."""

    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.ReLU(inplace=True)

        def forward(self, x):
            p = torch.linspace(-1, 1, 5, dtype=x.dtype)
            self.layer(p)
            return (x * p).sum((1, 2, 3))

    attr = fa.layer_gradient_x_activation(Positions(), "layer", attribute_to_layer_input=True)
    p = torch.linspace(-1, 1, 5, dtype=torch.float64)
    g = X.sum((0, 1, 2)) * (p > 0)
    assert_close(attr(X, target=lambda out: out), g * p)


def test_the_derivative_counts_readers_before_and_after():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            h = torch.tanh(x)
            before = h.exp()
            return before + self.layer(h) + h**2

    net = Skip().double()
    x = torch.randn(2, 3, dtype=torch.float64)
    h = torch.tanh(x).requires_grad_()
    (g,) = torch.autograd.grad((h.exp() + net.layer(h) + h**2)[:, 1].sum(), h)
    attr = fa.layer_gradient_x_activation(net, "layer", attribute_to_layer_input=True)
    assert_close(attr(x, target=1), g * h)


@pytest.mark.compiled
@pytest.mark.parametrize("name, at_input", [("relu", False), ("container", False), ("plain", True)])
def test_compiled(name, at_input):
    net = made(name, early=True)
    attr = fa.layer_gradient_x_activation(net, "layer", attribute_to_layer_input=at_input)
    compiled = torch.compile(attr, backend="aot_eager", fullgraph=True)
    assert_close(compiled(X, target=1), attr(X, target=1))


@pytest.mark.compiled
@pytest.mark.parametrize(
    "name, at_input", [("own_relu", False), ("relu", True), ("own_relu", True)]
)
def test_compiled_code_refuses_what_it_cannot_follow(name, at_input):
    attr = fa.layer_gradient_x_activation(made(name), "layer", attribute_to_layer_input=at_input)
    # Torch 2.15 raises an error of its own, which quotes ours.
    with pytest.raises(fa.LayerError, match="writes to its own input"):
        fa.sweep(attr, X, targets=[1], compile=True)


@pytest.mark.compiled
def test_a_compiled_sweep_of_a_layer_behind_a_convolution():
    attr = fa.layer_gradient_x_activation(made("plain"), "layer")
    assert_close(fa.sweep(attr, X, targets=[1], compile=True)[0], attr(X, target=1))


VIEWS = {
    "of all": lambda h: h.view(len(h), -1),
    "a part": lambda h: h[:, :2],
    "turned": lambda h: h.transpose(1, 2),
    "of a view": lambda h: h.view(len(h), -1).view(h.shape)[:, 1:],
}


class Viewed(nn.Module):
    """A layer whose input is a view; ``later`` is done to that, and all of it is read again."""

    def __init__(self, layer, view, later):
        super().__init__()
        self.conv, self.layer = nn.Conv1d(3, 4, 2), layer
        self.view, self.later = view, later

    def behind(self, v):
        early = torch.tanh(v).flatten(1).sum(1)
        a = self.layer(v) + 0
        self.later(v)
        weight = torch.sin(torch.arange(float(a[0].numel()), dtype=a.dtype))
        out = (a.flatten(1) * weight).sum(1) ** 2 + early + torch.sin(v).flatten(1).sum(1)
        return torch.stack([out, out * 2], 1)

    def forward(self, x):
        return self.behind(self.view(self.conv(x)))


def viewed(layer, view, later=lambda v: None):
    torch.manual_seed(0)
    return Viewed(layer, VIEWS[view], later).double().eval()


@needs_edges
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["relu", "leaky", "silu", "own_relu", "own_affine", "container"])
def test_a_view_that_the_layer_writes_to(name, view):
    """As what comes of an instance norm, in front of an activation in place."""
    net, x = viewed(LAYERS[name], view), torch.randn(2, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        v = net.view(net.conv(x)).clone()
        step, numeric = 1e-6, torch.zeros(v.numel(), dtype=v.dtype)
        for i in range(v.numel()):
            d = torch.zeros(v.numel(), dtype=v.dtype)
            d[i] = step
            up, down = net.behind(v + d.view(v.shape)), net.behind(v - d.view(v.shape))
            numeric[i] = (up - down)[:, 1].sum() / (2 * step)
    attr = fa.layer_gradient_x_activation(net, "layer", attribute_to_layer_input=True)
    out, explain = attr.linearize(x)
    assert torch.equal(out, net(x))
    wanted = numeric.view(v.shape) * v
    assert_close(explain(1), wanted, 1e-5)
    assert_close(attr(x, target=1), explain(1))
    assert_close(torch.vmap(explain)(torch.arange(2))[1], explain(1))
    assert_close(torch.vmap(lambda t: attr(x, target=t))(torch.arange(2))[1], explain(1))


@pytest.mark.parametrize("act", [nn.ReLU(True), nn.LeakyReLU(0.1, True)])
@needs_edges
def test_behind_an_instance_norm(act):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True), act, nn.Flatten(), nn.Linear(36, 3)
    ).double()
    h = net[1](net[0](X)).detach().requires_grad_()
    (g,) = torch.autograd.grad(net[3:](act(h * 1))[:, 1].sum(), h)
    attr = fa.layer_gradient_x_activation(net, "2", attribute_to_layer_input=True)
    assert_close(attr(X, target=1), g * h.detach())


@needs_edges
@pytest.mark.parametrize("name", ["plain", "identity"])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_that_the_model_writes_to_later(name, view):
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    for later in (torch.Tensor.relu_, lambda v: v.mul_(2), lambda v: v[:, :1].sigmoid_()):
        net = viewed(LAYERS[name], view, later)
        attr = fa.layer_gradient_x_activation(net, "layer:0", attribute_to_layer_input=True)
        with pytest.raises(fa.LayerError, match="a view, which the model writes to later"):
            attr(x, target=1)
    fa.layer_gradient_x_activation(viewed(LAYERS[name], view), "layer:0")(x, target=1)


@needs_edges
def test_a_layer_in_a_branch_without_gradients_that_writes_to_a_view():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act = nn.Linear(3, 3).double(), nn.ReLU(inplace=True)

        def forward(self, x):
            h = self.first(x)
            with torch.no_grad():
                self.act(h[:, :2])
            return h * x

    net, x = Branch(), torch.randn(2, 3, dtype=torch.float64)
    attr = fa.layer_gradient_x_activation(net, "act", attribute_to_layer_input=True)
    out, explain = attr.linearize(x)
    assert torch.equal(out, net(x))
    assert not explain(1).any()


@needs_edges
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_a_sparse_view_beside_the_input():
    """As an adjacency that is transposed: it has no strides."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3).double()

        def forward(self, x, weight):
            return torch.sparse.mm(weight, self.linear(x))

    layer, x = Mixed(), torch.randn(4, 3, dtype=torch.float64)
    csr = torch.eye(4, dtype=torch.float64).to_sparse_csr()

    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x, csr.t())

    expected = layer.linear(x).detach() * torch.tensor([0.0, 1.0, 0.0])
    assert_close(fa.layer_gradient_x_activation(Graph(), "layer")(x, target=1), expected)
    attr = fa.layer_gradient_x_activation(Graph(), "layer", attribute_to_layer_input=True)
    with pytest.raises(fa.LayerError, match="sparse_csc, of which there is no map"):
        attr(x, target=1)
