"""Relevance under every transform: one value by all ways to it, and true derivatives of maps."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers import assert_close, assert_unchanged, direction, snapshot
from oracle import numeric_derivative
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import funcattr as fa
from relevance.composed import (
    COMPOSITES,
    EPS,
    LAYERS,
    TARGETS,
    V,
    X,
    dot,
    looped,
    lrp,
    net,
    siblings,
)


@pytest.fixture(params=COMPOSITES)
def composite(request):
    return COMPOSITES[request.param](EPS)


def along(jacobian, v):
    return torch.tensordot(jacobian, v, v.dim())


# ------------------------------------------------------------------------------------ many maps


def check_all_ways(attr):
    """One pass for each target is what every other way has to equal."""
    expected = looped(attr)
    assert (expected.abs().sum((1, 2, 3, 4)) > 1e-3).sum() >= 3  # z+ may leave nothing of one
    out, explain = attr.linearize(X)
    assert out.shape == (2, 4)
    ways = {
        "explain": torch.stack([explain(int(t)) for t in TARGETS]),
        "vmap(explain)": vmap(explain)(TARGETS),
        "vmap in chunks": vmap(explain, chunk_size=3)(TARGETS),
        "sweep": fa.sweep(attr, X, targets=TARGETS),
        "sweep in chunks": fa.sweep(attr, X, targets=TARGETS, chunk_size=3),
        "stream": torch.cat([m for _, m in fa.stream(attr, X, targets=TARGETS, chunk_size=3)]),
        "vmap(call)": vmap(lambda t: attr(X, target=t))(TARGETS),
        "a target of each example": torch.stack(
            [attr(X, target=[int(t), int(t)]) for t in TARGETS]
        ),
        "vmap over inputs": vmap(
            lambda x: fa.sweep(attr, x[None], targets=TARGETS)[:, 0], out_dims=1
        )(X),
        "vmap over both": vmap(
            lambda t: vmap(lambda x: attr(x[None], target=t)[0])(X),
        )(TARGETS),
        "callables": torch.stack([attr(X, target=lambda o, t=t: o[:, t]) for t in TARGETS]),
    }
    for name, maps in ways.items():
        torch.testing.assert_close(maps, expected, rtol=1e-10, atol=1e-12, msg=name)


def test_ways_to_many_maps(composite):
    check_all_ways(lrp(composite))


def test_ways_to_many_maps_that_start_from_one(composite):
    check_all_ways(lrp(composite, start="one"))


def test_layers(composite):
    """Several at once equal each alone, and all ways to many maps are one."""
    ruled = fa.with_rules(net(), composite)
    several = fa.layer_gradient_x_activation(ruled, LAYERS)
    together = fa.sweep(several, X, targets=TARGETS, chunk_size=3)
    for layer, maps in zip(LAYERS, together):
        alone = fa.layer_gradient_x_activation(ruled, layer)
        assert_close(maps, looped(alone), 1e-11)
        assert_close(vmap(alone.linearize(X)[1])(TARGETS), maps, 1e-11)
        derivative = jvp(lambda x, a=alone: a(x, target=1), (X,), (V,))[1]
        numeric = numeric_derivative(lambda x, a=alone: a(x, target=1), X, V)
        assert_close(derivative, numeric, 1e-6)


def test_neurons(composite):
    """Units of a layer in the middle, by their place, or one for all by a callable."""
    attr = lrp(composite, fa.layer_output(net(), "norm2"))
    places = [(0, 1, 1), (2, 0, 3), (1, 2, 2)]
    expected = torch.stack([attr(X, target=p) for p in places])
    assert expected.abs().sum((1, 2, 3, 4)).min() > 1e-4
    by_callable = [attr(X, target=lambda o, p=p: o[(slice(None), *p)]) for p in places]
    assert_close(torch.stack(by_callable), expected, 1e-11)
    assert_close(fa.sweep(attr, X, targets=places, chunk_size=2), expected, 1e-11)
    f = lambda x: attr(x, target=places[0])
    assert_close(jvp(f, (X,), (V,))[1], numeric_derivative(f, X, V), 1e-6)


# ---------------------------------------------------------------------------------- derivatives

# name -> f -> what equals dot(derivative of f along V)
DERIVATIVES = {
    "jvp": lambda f: lambda x: dot(jvp(f, (x,), (V,))[1]),
    "jacfwd": lambda f: lambda x: dot(along(jacfwd(f)(x), V)),
    "jacrev": lambda f: lambda x: dot(along(jacrev(f)(x), V)),
    "vjp": lambda f: lambda x: (vjp(f, x)[1](direction(f(x), 3))[0] * V).sum(),
    "grad": lambda f: lambda x: (grad(lambda x: dot(f(x)))(x) * V).sum(),
}


def test_derivatives_by_input(composite):
    attr = lrp(composite)
    for f, whole in (
        (lambda x: attr(x, target=1), True),
        (lambda x: vmap(lambda x: attr(x[None], target=1)[0])(x), False),
        (lambda x: fa.sweep(attr, x, targets=TARGETS, chunk_size=3), False),
    ):
        numeric = dot(numeric_derivative(f, X, V))
        for name in DERIVATIVES if whole else ("jvp", "grad"):
            transformed = DERIVATIVES[name]
            came = transformed(f)(X)
            torch.testing.assert_close(came, numeric, rtol=1e-6, atol=1e-6, msg=name)


def test_second_derivatives(composite):
    attr = lrp(composite)
    energy = lambda x: (attr(x, target=1) ** 2).sum()
    numeric = numeric_derivative(grad(energy), X, V)
    assert_close(along(hessian(energy)(X), V), numeric, 1e-5)
    tracked = X.clone().requires_grad_()
    (first,) = torch.autograd.grad(energy(tracked), tracked, create_graph=True)
    (second,) = torch.autograd.grad((first * V).sum(), tracked)
    assert_close(first.detach(), grad(energy)(X), 1e-10)
    assert_close(second, numeric, 1e-5)


def test_derivatives_by_parameters(composite):
    """Norms are merged into the weights that are given, and so are their derivatives."""
    f, params = fa.make_functional(net())
    attr = lrp(composite, f, argnums=1)
    v = {name: direction(p) for name, p in params.items()}
    map_of = lambda p: attr(p, X, target=1)
    moved = lambda eps: map_of({n: p + eps * v[n] for n, p in params.items()})
    numeric = (moved(1e-6) - moved(-1e-6)) / 2e-6
    assert_close(jvp(map_of, (params,), (v,))[1], numeric, 1e-6)
    for name in params:
        moved = lambda p, n=name: map_of({**params, n: p})
        numeric = dot(numeric_derivative(moved, params[name], v[name]))
        came = (grad(lambda p, m=moved: dot(m(p)))(params[name]) * v[name]).sum()
        torch.testing.assert_close(came, numeric, rtol=1e-6, atol=1e-6, msg=name)
        leaf = params[name].clone().requires_grad_()
        dot(moved(leaf)).backward()
        by_backward = (leaf.grad * v[name]).sum() if leaf.grad is not None else torch.zeros(())
        torch.testing.assert_close(by_backward.double(), came, rtol=1e-9, atol=1e-9, msg=name)


def test_an_ensemble_of_stacked_parameters(composite):
    models = [net(seed) for seed in range(3)]
    f, _ = fa.make_functional(models[0], buffers=True)
    each = [fa.make_functional(m, buffers=True)[1] for m in models]
    stacked = {name: torch.stack([params[name] for params in each]) for name in each[0]}
    attr = lrp(composite, f, argnums=1)
    maps = vmap(lambda params: fa.sweep(attr, params, X, targets=TARGETS))(stacked)
    assert_close(maps, torch.stack([looped(lrp(composite, m)) for m in models]), 1e-11)


@pytest.mark.parametrize("name", ["epsilon_plus", "whole_module"])
def test_make_fx(name):
    """What is known of values must not be a part of a graph, which other values go through."""
    from torch.fx.experimental.proxy_tensor import make_fx

    attr = lrp(COMPOSITES[name](EPS))
    graph = make_fx(lambda x: attr(x, target=1))(X.abs())
    assert_close(graph(X), attr(X, target=1), 1e-11)


# -------------------------------------------------------------------------------------- bundles


def members(model):
    return [fa.gradient(model), *(lrp(c, model) for c in siblings()), fa.guided_backprop(model)]


def joined(bundle):
    return lambda x, t: torch.stack(bundle(x, target=t))


def test_members_of_a_bundle_share_nothing_but_the_pass():
    model = net()
    each = members(model)
    bundle = fa.bundle(*each)
    expected = [looped(attr) for attr in each]
    for i, maps in enumerate(expected):  # they differ, or the test would say nothing
        assert not any(torch.allclose(maps, other) for other in expected[:i])
    alone = torch.stack(expected)
    assert_close(torch.stack(fa.sweep(bundle, X, targets=TARGETS, chunk_size=3)), alone, 1e-11)
    assert_close(torch.stack(bundle(X, target=2)), alone[:, 2], 1e-11)
    assert_close(torch.stack(vmap(bundle.linearize(X)[1])(TARGETS)), alone, 1e-11)
    f = lambda x: joined(bundle)(x, 1)
    assert_close(jvp(f, (X,), (V,))[1], numeric_derivative(f, X, V), 1e-6)
    came = (grad(lambda x: dot(f(x)))(X) * V).sum()
    assert_close(came, dot(numeric_derivative(f, X, V)), 1e-6)


@pytest.mark.parametrize("name", ["epsilon_plus", "gamma_box", "whole_module"])
def test_means_over_passes(name):
    """Integrated gradients and SmoothGrad against what they are the mean of."""
    model, composite = net(), COMPOSITES[name](EPS)
    ruled, attr = fa.with_rules(model, composite), lrp(composite, model)
    integrated = fa.integrated_gradients(ruled, steps=3, baseline=0.2, chunk_size=2)
    nodes, weights = np.polynomial.legendre.leggauss(3)
    points = [0.2 + float(n + 1) / 2 * (X - 0.2) for n in nodes]
    maps = [float(w) / 2 * looped(fa.gradient(ruled), x) for w, x in zip(weights, points)]
    noise = [np.random.default_rng((5, i, 0)).standard_normal((1, 2, 4, 4)) for i in range(3)]
    smooth = fa.smooth_grad(attr, samples=3, sigma=0.1, generator=5, chunk_size=2)
    noisy = [looped(attr, X + 0.1 * torch.from_numpy(e)) / 3 for e in noise]
    for mean, expected in (integrated, sum(maps) * (X - 0.2)), (smooth, sum(noisy)):
        assert_close(mean(X, target=1), expected[1], 1e-11)
        assert_close(fa.sweep(mean, X, targets=TARGETS, chunk_size=3), expected, 1e-11)
        f = lambda x, mean=mean: mean(x, target=1)
        assert_close(jvp(f, (X,), (V,))[1], numeric_derivative(f, X, V), 1e-6)


# ------------------------------------------------------------------------------ around the maps


def test_threads():
    """Composites that differ, on one model at the same time: to the bit what each gets alone."""
    model = net()
    attrs = [lrp(c, model) for c in siblings()]
    jobs = [lambda a=a: a(X, target=1) for a in attrs]
    jobs += [lambda a=a: fa.sweep(a, X, targets=TARGETS, chunk_size=3) for a in attrs[::3]]
    jobs += [lambda a=a: vmap(lambda t: a(X, target=t))(TARGETS) for a in attrs[1::3]]
    jobs += [lambda a=a: grad(lambda x: dot(a(x, target=2)))(X) for a in attrs[2::3]]
    jobs += [lambda a=a: fa.bundle(a, attrs[0])(X, target=0)[0] for a in attrs[::4]]
    alone = [job() for job in jobs]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(2):
            came = list(pool.map(lambda job: job(), jobs))
            assert all(torch.equal(a, b) for a, b in zip(came, alone))


@pytest.mark.parametrize("how", ["pickle", "copy", "deepcopy"])
def test_copies(composite, how):
    made = {
        "pickle": lambda a: pickle.loads(pickle.dumps(a)),
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
    }[how]
    attr = lrp(composite)
    expected = attr(X, target=1)
    assert torch.equal(made(attr)(X, target=1), expected)
    assert torch.equal(lrp(made(composite))(X, target=1), expected)


@pytest.mark.parametrize("train", [False, True])
def test_nothing_of_the_users_is_changed(composite, train):
    model, x = net().train(train), X.clone()
    before, version = snapshot(model), x._version
    attr = lrp(composite, model)
    attr(x, target=1)
    fa.sweep(attr, x, targets=TARGETS, chunk_size=3)
    vmap(lambda t: attr(x, target=t))(TARGETS)
    grad(lambda x: dot(attr(x, target=1)))(x)
    dot(attr(x.clone().requires_grad_(), target=1)).backward()
    fa.layer_gradient_x_activation(fa.with_rules(model, composite), LAYERS)(x, target=1)
    assert_unchanged(model, before)
    assert x._version == version and torch.equal(x, X)
