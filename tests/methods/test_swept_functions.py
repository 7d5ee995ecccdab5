"""Sweeps of different functions of the output: all of a chunk are pulled at once."""

import pytest
import torch
from helpers import assert_close
from torch import nn

import funcattr as fa

FUNCTIONS = [
    lambda out: out[:, 1],
    lambda out: out[:, 0] * out[:, 2],
    lambda out: out.logsumexp(1),
    lambda out: (out.softmax(1)[:, 0] - out[:, 1:].amax(1)) ** 2,
    lambda out: out.new_ones(len(out)),  # of nothing
]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3)),
    ).double().eval()  # fmt: skip


X = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
METHODS = {
    "gradient": fa.gradient,
    "guided": fa.guided_backprop,
    "lrp": lambda model: fa.lrp(model, fa.composites.epsilon_plus()),
    "deep_lift": fa.deep_lift,
    "grad_cam": lambda model: fa.grad_cam(model, "0"),
    "guided_grad_cam": lambda model: fa.guided_grad_cam(model, "0"),
    "bundle": lambda model: fa.bundle(fa.gradient(model), fa.guided_backprop(model)),
    "smooth_grad": lambda model: fa.smooth_grad(
        fa.gradient(model), samples=3, sigma=0.1, generator=0
    ),
    "integrated_gradients": lambda model: fa.integrated_gradients(model, steps=4),
}


@pytest.mark.parametrize("chunk_size", [None, 2, "auto"])
@pytest.mark.parametrize("name", METHODS)
def test_as_one_by_one(name, chunk_size):
    attr = METHODS[name](network())
    maps = [attr(X, target=f) for f in FUNCTIONS]
    bundled = isinstance(maps[0], tuple)
    expected = tuple(map(torch.stack, zip(*maps))) if bundled else torch.stack(maps)
    assert_close(fa.sweep(attr, X, targets=FUNCTIONS, chunk_size=chunk_size), expected)


def test_under_transforms():
    attr = fa.guided_backprop(network())
    swept = lambda x: fa.sweep(attr, x, targets=FUNCTIONS)
    assert_close(torch.vmap(lambda x: swept(x[None])[:, 0], out_dims=1)(X), swept(X))
    loop = lambda x: torch.stack([attr(x, target=f) for f in FUNCTIONS])
    for sweep in (swept, loop):
        x = X.clone().requires_grad_()
        sweep(x).square().sum().backward()
        assert_close(x.grad, torch.func.grad(lambda x: loop(x).square().sum())(X))


@pytest.mark.parametrize("output", [None, "scores"])
def test_of_an_output_in_a_dict(output):
    """Whose functions may use other parts each."""
    model = network()
    f = lambda x: {"scores": model(x), "more": model(x).sqrt()}
    pick = (lambda g: lambda out: g(out["scores"])) if output is None else (lambda g: g)
    swept = fa.sweep(fa.gradient(f, output=output), X, targets=list(map(pick, FUNCTIONS)))
    assert_close(swept, fa.sweep(fa.gradient(model), X, targets=FUNCTIONS))
    assert swept.isfinite().all()


def test_what_needs_values_is_explained_one_by_one():
    """By a reduce, a rule and a function of the output, none of which runs under torch.vmap."""
    seen = []

    def rule(x, g):
        seen.append(float(g.sum()))
        return g * (x > 0)

    attr = fa.rule_backprop(network(), rule)
    functions = [lambda out: out[:, 0] * float(out.detach().max()), *FUNCTIONS[:2]]
    largest = lambda m: m.reshape(-1)[int(m.argmax())]
    swept = fa.sweep(attr, X, targets=functions, reduce=largest)
    assert_close(swept, torch.stack([largest(attr(X, target=f)) for f in functions]))
    assert seen


def test_an_error_of_a_function_is_what_one_map_says():
    functions = [*FUNCTIONS, lambda out: out[:, 7]]
    with pytest.raises(fa.TargetError, match="the callable target raised IndexError"):
        fa.sweep(fa.gradient(network()), X, targets=functions)


def test_an_attribution_by_somebody_gets_the_functions_themselves():
    got = []

    def linearize(x):
        return x, lambda target: got.append(target) or target(x)

    fa.sweep(fa.Attribution(linearize), X.flatten(1), targets=FUNCTIONS[:2])
    assert got == FUNCTIONS[:2]
