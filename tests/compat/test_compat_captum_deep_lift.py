"""DeepLift against Captum's, where that is right; and both numbers where it is not."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from captum_relevance import X, copied, dense, net, off, one, ours, quietly, theirs
from helpers import assert_close
from relevance.models import in_one_dim, network, randn, ready
from torch import nn

import funcattr as fa

DEEP = {
    "conv": (lambda: net(norm=False), X),
    "norm, average pooling": (net, X),
    "vgg": (lambda: network("vgg")[0], X),
    "one dim": (lambda: in_one_dim(nn.Softplus), randn(2, 2, 32)),
    "elu": (lambda: in_one_dim(nn.ELU), randn(2, 2, 32)),
}
BASELINES = {
    "none": lambda x: None,
    "a number": lambda x: 0.3,
    "one for all": lambda x: x[:1] * 0.2,
    "one each": lambda x: x.flip(0),
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("baseline", BASELINES)
def test_deep_lift(name, baseline):
    make, x = DEEP[name]
    model, start = ready(make()), BASELINES[baseline](x)
    for how in {}, {"multiply_by_inputs": False}:
        own, other = (
            quietly(
                *(of, "DeepLift", copied(model) if of is theirs else model, x.clone(), start),
                target=[1, 3],
                return_convergence_delta=not how,
                options=how,
            )
            for of in (ours, theirs)
        )
        assert_close(own, other)


def test_an_activation_right_before_max_pooling():
    """Captum's hooks meet at one tensor, and the activation takes the gradient of before."""
    model, start = net(), X.flip(0)
    deltas = [
        quietly(of, "DeepLift", model, X.clone(), start, 1, return_convergence_delta=True)[1]
        for of in (ours, theirs)
    ]
    assert deltas[0].abs().max() < 1e-9
    assert deltas[1].abs().max() > 0.01


def test_what_captums_deep_lift_does_not_see():
    model = one(lambda m, x: m[1](F.relu(m[0](x))), *dense(3, 5, 2))
    module = nn.Sequential(model.layers[0], nn.ReLU(), model.layers[1])
    x, start = randn(2, 3), -randn(2, 3)
    own = quietly(ours, "DeepLift", model, x, start, target=1)
    assert_close(own, quietly(theirs, "DeepLift", module, x, start, target=1))
    assert off(quietly(theirs, "DeepLift", model, x, start, target=1), own) > 0.1
    act = nn.ReLU()
    twice = nn.Sequential(model.layers[0], act, nn.Linear(5, 5), act, model.layers[1]).double()
    delta = quietly(ours, "DeepLift", twice, x, start, 1, return_convergence_delta=True)[1]
    assert_close(delta, torch.zeros_like(delta))
    with pytest.raises(RuntimeError, match="more than once"):
        quietly(theirs, "DeepLift", twice, x, start, target=1)


def test_softmax_of_captum_depends_on_the_other_examples():
    model, x = ready(nn.Sequential(nn.Linear(3, 4), nn.Softmax(1))), randn(2, 3)
    for library in ours, theirs:
        alone = quietly(library, "DeepLift", model, x[:1], target=1)
        together = quietly(library, "DeepLift", model, x, target=1)[:1]
        assert (off(alone, together) > 1e-3) == (library is theirs)


def test_what_deep_lift_refuses():
    model = nn.Linear(3, 2)
    for call in (
        lambda: ours.DeepLift(model, eps=1e-6),
        lambda: ours.DeepLift(model).attribute(X, custom_attribution_func=print),
    ):
        with pytest.raises(fa.ArgumentError):
            call()
    for start in (X, X), "zero", X[:, :1]:
        with pytest.raises(AssertionError):
            ours.DeepLift(model).attribute(X, start, target=1)


def test_noise_tunnel_takes_them():
    model = net(pool=nn.AvgPool2d)
    for name in "LRP", "DeepLift":
        found = []
        for library in ours, theirs:
            torch.manual_seed(1)
            tunnel = theirs.NoiseTunnel(getattr(library, name)(copy.deepcopy(model)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append(tunnel.attribute(X.clone(), nt_samples=3, target=1).detach())
        assert_close(*found)
