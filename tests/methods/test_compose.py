"""smooth_grad and integrated_gradients against loops written out, and captum."""

import numpy as np
import pytest
import torch
from helpers import assert_close, tiny, tiny_input

import funcattr as fa

X = tiny_input()


def test_smooth_grad_is_the_mean_over_noise_of_the_seed():
    model = tiny()
    attr = fa.smooth_grad(fa.guided_backprop(model), samples=5, sigma=0.3, generator=7)
    noise = [np.random.default_rng((7, i, 0)).standard_normal((1, 2, 3, 3)) for i in range(5)]
    maps = [fa.guided_backprop(model)(X + 0.3 * torch.from_numpy(e), target=1) for e in noise]
    assert_close(attr(X, target=1), sum(maps) / 5)
    assert torch.equal(attr(X, target=1), attr(X, target=1))
    assert torch.equal(attr.linearize(X)[0], model(X))


def test_sources_of_noise():
    attr = fa.gradient(tiny())

    def smooth(generator):
        return fa.smooth_grad(attr, samples=2, sigma=0.3, generator=generator)(X, target=1)

    first = smooth(torch.Generator().manual_seed(1))
    assert torch.equal(first, smooth(torch.Generator().manual_seed(1)))
    source = torch.Generator().manual_seed(1)
    assert torch.equal(first, smooth(source))
    assert not torch.equal(first, smooth(source))
    before = torch.get_rng_state()
    smooth(3)
    smooth(source)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(0)
    drawn = smooth(None)
    assert not torch.equal(drawn, smooth(None))
    torch.manual_seed(0)
    assert torch.equal(drawn, smooth(None))


def test_without_noise_it_is_the_attribution():
    attr = fa.guided_backprop(tiny())
    assert_close(fa.smooth_grad(attr, samples=3, sigma=0.0)(X, target=1), attr(X, target=1))


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 100])
def test_chunks_bound_what_is_held(chunk_size):
    model, calls = tiny(), []
    model.register_forward_hook(lambda *args: calls.append(1))
    for make in (
        lambda c: fa.smooth_grad(
            fa.deconvnet(model), samples=5, sigma=0.3, generator=7, chunk_size=c
        ),
        lambda c: fa.integrated_gradients(model, steps=5, chunk_size=c),
    ):
        calls.clear()
        whole = fa.sweep(make(None), X, targets=range(4))
        assert len(calls) == 6  # each point once, and the output
        calls.clear()
        parts = fa.sweep(make(chunk_size), X, targets=range(4), chunk_size=2)
        assert len(calls) == (6 if chunk_size >= 5 else 1 + 2 * 5)  # once per chunk of targets
        assert_close(parts, whole)


def test_integrated_gradients_are_complete():
    model = tiny()
    start = X.flip(0) / 2
    maps = fa.integrated_gradients(model, steps=400, baseline=start)(X, target=2)
    assert_close(maps.flatten(1).sum(1), (model(X) - model(start))[:, 2], 1e-2)
    smooth = lambda x: torch.sin(x.flatten(1)).cumsum(1)
    maps = fa.integrated_gradients(smooth, steps=20)(X, target=-1)
    assert_close(maps.flatten(1).sum(1), smooth(X)[:, -1])


@pytest.mark.parametrize("baseline", [None, 0.3, "tensor"])
def test_captum_agrees(baseline):
    captum = pytest.importorskip("captum.attr")
    model = tiny()
    start = {None: 0.0, "tensor": X.flip(0)}.get(baseline, baseline)
    theirs = captum.IntegratedGradients(model).attribute(X, start, target=[1, 3], n_steps=7)
    ours = fa.integrated_gradients(model, steps=7, baseline=None if baseline is None else start)(
        X, target=[1, 3]
    )
    assert_close(ours, theirs)


def test_several_arguments_and_trees():
    f = lambda d, y: torch.sin(d["x"] * y)
    d, y = {"x": X[:, 0, 0], "n": 3}, X[:, 0, 1]
    both = fa.integrated_gradients(f, steps=30, argnums=(0, 1))(d, y, target=1)
    assert both[0]["n"] is None
    total = both[0]["x"].sum(1) + both[1].sum(1)
    assert_close(total, f(d, y)[:, 1])
    pair = fa.integrated_gradients(f, steps=30, argnums=(0, 1), baseline=({"x": y}, d["x"]))
    total = sum(t.sum(1) for t in (pair(d, y, target=1)[0]["x"], pair(d, y, target=1)[1]))
    assert_close(total, (f(d, y) - f({"x": y}, d["x"]))[:, 1])
    attr = fa.gradient(f, argnums=(0, 1))
    noisy = fa.smooth_grad(attr, samples=2, sigma=0.1, generator=0, argnums=(0, 1))
    assert noisy(d, y, target=1)[1].shape == y.shape


BAD = {
    "samples": (lambda a, f: fa.smooth_grad(a, samples=0, sigma=1.0), "samples is a positive"),
    "sigma": (lambda a, f: fa.smooth_grad(a, samples=1, sigma=-1.0), "sigma is a standard"),
    "sigma type": (lambda a, f: fa.smooth_grad(a, samples=1, sigma="a"), "got 'a'"),
    "generator": (
        lambda a, f: fa.smooth_grad(a, samples=1, sigma=1.0, generator="x"),
        "generator is",
    ),
    "attr": (lambda a, f: fa.smooth_grad(f, samples=1, sigma=1.0), "attr is an Attribution"),
    "steps": (lambda a, f: fa.integrated_gradients(f, steps=1.5), "steps is a positive int"),
    "chunk": (lambda a, f: fa.integrated_gradients(f, steps=2, chunk_size=0), "chunk_size"),
    "baseline": (
        lambda a, f: fa.integrated_gradients(f, steps=2, baseline=X[0, 0, 0, :2])(X, target=1),
        "broadcasts to its input",
    ),
    "baselines": (
        lambda a, f: fa.integrated_gradients(f, steps=2, baseline=(0.0, 1.0))(X, target=1),
        "form of what is explained, a tensor",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    model = tiny()
    with pytest.raises(fa.ArgumentError, match=message):
        call(fa.gradient(model), model)


def test_a_bundle_is_its_parts_from_one_forward_pass():
    model, calls = tiny(), []
    model.conv.register_forward_pre_hook(lambda *_: calls.append(1))
    parts = [
        fa.guided_backprop(model),
        fa.gradient(model),
        fa.rule_backprop(model, fa.rules.deconvnet, sites=("relu", "tanh")),
        fa.guided_backprop(model, sites=lambda path: path == "relu"),
        fa.layer_gradient_x_activation(model, ["norm", "same:0"]),
        fa.guided_grad_cam(model, "same:0"),
        fa.grad_cam(fa.relu_rule(model), "same:0"),
    ]
    expected = [part(X, target=1) for part in parts]
    calls.clear()
    maps = fa.bundle(*parts)(X, target=1)
    assert len(calls) == 1
    assert len(maps) == len(expected)
    for came, wanted in zip(maps, expected):
        assert_close(came, wanted, 1e-12)


def test_a_bundle_of_what_cannot_share():
    model, other = tiny(), tiny(3)
    at_input = fa.layer_gradient_x_activation(model, "same:0", attribute_to_layer_input=True)
    smooth = fa.smooth_grad(fa.gradient(model), samples=2, sigma=0.1, generator=0)
    parts = [fa.gradient(model), at_input, fa.grad_cam(model, "norm"), smooth, fa.gradient(other)]
    for came, wanted in zip(fa.bundle(*parts)(X, target=2), (p(X, target=2) for p in parts)):
        assert_close(came, wanted, 1e-12)


def test_a_bundle_of_different_arguments():
    f = lambda x, y: torch.relu(x * y["a"] + y["b"])
    x, y = X.flatten(1)[:, :4], {"b": X.flatten(1)[:, 4:8], "a": X.flatten(1)[:, 8:12]}
    parts = [fa.gradient(f, 1), fa.guided_backprop(f, (1, 0)), fa.saliency(f, 0)]
    for came, wanted in zip(fa.bundle(*parts)(x, y, target=2), (p(x, y, target=2) for p in parts)):
        assert_close(came, wanted, 1e-12)


def test_errors_of_a_bundle():
    with pytest.raises(fa.ArgumentError, match="nothing"):
        fa.bundle()
    with pytest.raises(fa.ArgumentError, match="Tiny"):
        fa.bundle(tiny())
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.GELU())
    both = fa.bundle(fa.gradient(model), fa.guided_backprop(model))
    with pytest.raises(fa.NoSiteError, match="gelu"):  # one part that cannot be is not left out
        both(torch.ones(1, 3), target=0)
