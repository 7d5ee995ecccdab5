"""`lrp`, `conserved` and `rect_grad`: what they ask for, what they say, and where they refuse."""

import numpy as np
import pytest
import torch
from conftest import skip_without_halves
from helpers import assert_close
from torch import nn

import funcattr as fa
from relevance.models import randn


def net(bias=True):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, bias=bias), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(64, 5, bias=bias), nn.ReLU(), nn.Linear(5, 3, bias=bias)),
    )
    return model.double()


X = randn(2, 2, 6, 6).abs()
EPSILON = fa.Composite([("convolution", fa.rules.epsilon()), ("linear", fa.rules.epsilon())])


def test_where_relevance_starts():
    model = net()
    value, one = (fa.lrp(model, EPSILON, start=start)(X, target=1) for start in ("value", "one"))
    out = model(X)[:, 1].detach().reshape(-1, 1, 1, 1)
    assert_close(value, one * out, 1e-9)
    # Of a callable target it is the derivative by the output: here 1 at one class, -2 at another.
    ours = fa.lrp(model, EPSILON, start="one")(X, target=lambda out: out[:, 1] - 2 * out[:, 0])
    other = fa.lrp(model, EPSILON, start="one")(X, target=0)
    assert_close(ours, one - 2 * other, 1e-9)


def test_lrp_is_input_times_the_gradient_of_the_ruled_function():
    model = net()
    ruled = fa.with_rules(model, fa.composites.epsilon_plus())
    expected = fa.lrp(model, fa.composites.epsilon_plus())(X, target=2)
    assert_close(fa.input_x_gradient(ruled)(X, target=2), expected, 0)


def test_conserved_without_biases():
    attr = fa.lrp(net(bias=False), EPSILON)
    book = fa.conserved(attr, X, target=1)
    assert_close(book.explained, net(bias=False)(X)[:, 1].detach(), 1e-12)
    assert_close(book.arrived, attr(X, target=1).flatten(1).sum(1), 1e-12)
    assert_close(book.arrived, book.explained, 1e-4)
    assert [row.operation for row in book.rows] == ["linear", "linear", "convolution"]
    assert [row.path for row in book.rows] == ["5", "3", "0"]


def test_conserved_says_what_biases_take():
    """By hand: of a linear layer under epsilon, the bias has its part of the sum."""
    model = net()
    book = fa.conserved(fa.lrp(model, EPSILON), X, target=1)
    last = book.rows[0]
    assert_close(last.taken, model[5].bias[1].detach().expand(2), 1e-5)
    assert_close(book.elsewhere, torch.zeros_like(last.taken), 1e-9)
    whole = sum(row.taken for row in book.rows) + book.arrived + book.elsewhere
    assert_close(whole, book.explained, 1e-12)
    assert str(book).splitlines()[1].split()[:3] == ["linear", "5", "epsilon"]
    stopped = fa.Composite([(lambda path: path == "3", fa.rules.stop)]) + EPSILON
    book = fa.conserved(fa.lrp(model, stopped), X, target=1)
    assert not book.arrived.any()
    assert_close(book.rows[1].taken, book.rows[1].came, 0)


def rectified(model, x, q, target):
    """RectGrad by hand, with numpy's percentile."""
    with torch.no_grad():
        a = model[0](x)
        hidden = model[3](a.clamp(min=0).flatten(1))
    g = model[5].weight[target].detach().expand(len(x), -1)

    def passed(a, g):
        weighed = (a.clamp(min=0) * g).flatten(1).numpy()
        tau = torch.from_numpy(np.percentile(weighed, q, axis=1)).reshape(-1, *[1] * (g.dim() - 1))
        return g * (a.clamp(min=0) * g > tau)

    g = passed(hidden, g) @ model[3].weight.detach()
    g = passed(a, g.reshape(a.shape))
    return nn.functional.conv_transpose2d(g, model[0].weight.detach())


@pytest.mark.parametrize("q", [0, 37.5, 80, 98, 100])
def test_rect_grad(q):
    model = net()
    attr = fa.rect_grad(model, q)
    maps = attr(X, target=1)
    assert_close(maps, rectified(model, X, q, 1), 1e-12)
    assert_close(fa.sweep(attr, X, targets=range(3), chunk_size=2)[1], maps, 1e-12)
    assert_close(torch.vmap(lambda x: attr(x[None], target=1)[0])(X), maps, 1e-12)


@pytest.mark.compiled
def test_rect_grad_compiled():
    torch.compiler.reset()
    attr = fa.rect_grad(net(), 80)
    compiled = torch.compile(attr, fullgraph=True, backend="aot_eager")
    assert_close(compiled(X, target=1), attr(X, target=1), 1e-12)
    torch.compiler.reset()


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.inner, self.head = kind(4, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.inner(x)[0][:, -1])


class Two(nn.Module):
    def forward(self, x):
        return x, x


class TwoAfter(nn.Module):
    def __init__(self):
        super().__init__()
        self.two = Two()

    def forward(self, x):
        return self.two(x)[0].sum(1)


def called(rows, model=None, x=X):
    return fa.lrp(net() if model is None else model, fa.Composite(rows))(x, target=0)


RULES = fa.rules
EVERYWHERE = [("linear", RULES.epsilon())]
WRONG = {
    "alpha less beta": (lambda: RULES.alpha_beta(2, 0.5), "alpha - beta is 1"),
    "a negative alpha": (lambda: RULES.alpha_beta(-1, -2), "alpha is a finite number, zero or"),
    "an eps that is none": (lambda: RULES.z_plus(eps="small"), "eps is a finite number"),
    "a gamma that is none": (lambda: RULES.gamma(float("inf")), "gamma is a finite number"),
    "zero_bias": (lambda: RULES.epsilon(zero_bias="bias"), "zero_bias is True or False"),
    "bounds the wrong way": (lambda: RULES.z_box(1.0, 0.0), "low is not above high"),
    "bounds of words": (lambda: RULES.z_box("0", 1.0), "low is a finite number, one for each"),
    "bounds that do not fit": (
        lambda: called([("convolution", RULES.z_box(torch.zeros(1, 3, 1, 1), 1.0))]),
        r"z_box at the convolution of '0': low is a number.*got shape \(1, 3, 1, 1\)",
    ),
    "no weight": (
        lambda: called([("activation", RULES.z_plus())]),
        "operations with a weight .*which the relu of '1' has not",
    ),
    "another shape": (
        lambda: called([("linear", RULES.pass_through)]),
        "output has the shape of the input; the linear of '3' maps",
    ),
    "half precision": (
        lambda: called(EVERYWHERE, nn.Linear(3, 2).half(), torch.ones(2, 3).half()),
        "is in float16, which is too coarse",
    ),
    "first of nothing": (lambda: fa.first(), "first is of one kind"),
    "first of what is none": (lambda: fa.first("conv"), "knows the kinds"),
    "no composite": (lambda: fa.lrp(net(), [("linear", None)]), "composite is a Composite"),
    "another start": (lambda: fa.lrp(net(), EPSILON, start=1), "start is one of 'value', 'one'"),
    "a class of a function": (
        lambda: called([(nn.Linear, RULES.epsilon())], lambda x: x.sum((2, 3))),
        "a plain function has n",
    ),
    "an elementwise rule for a whole module": (
        lambda: fa.Composite([(Two, RULES.guided)]),
        "is elementwise, a rule of activations; a row for Two takes a pair",
    ),
    "a whole module of two outputs": (
        lambda: called([(Two, RULES.pass_through)], TwoAfter()),
        "a rule for a whole Two, as 'two' is",
    ),
    "percentiles": (lambda: fa.rect_grad(net(), 101), "q is a percentile"),
    "nothing to keep a book of": (
        lambda: fa.conserved(fa.grad_cam(net(), "1"), X, target=0),
        "conserved is for what funcattr.lrp returns",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls(name):
    call, words = WRONG[name]
    if name == "half precision":
        skip_without_halves()
    with pytest.raises(fa.ArgumentError, match=words):
        call()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_products_inside_of_kernels(kind):
    model = Recurrent(kind)
    x = torch.randn(2, 3, 4)
    with pytest.raises(fa.NoSiteError, match=r"a recurrent layer, .* no rule can act on"):
        fa.lrp(model, EPSILON)(x, target=0)
    ruled = fa.with_rules(model, EPSILON, require_match=False)
    assert fa.input_x_gradient(ruled)(x, target=0).isfinite().all()


def test_a_layer_whose_norm_is_merged():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).double().eval()
    ruled = fa.with_rules(model, EPSILON)
    with pytest.raises(fa.LayerError, match="explain the output of the norm"):
        fa.layer_gradient_x_activation(ruled, "0")(X, target=0)
    assert fa.layer_gradient_x_activation(ruled, "1")(X, target=0).shape == (2, 4, 4, 4)
