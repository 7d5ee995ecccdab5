"""The drop-ins as they are used: signatures, circumstances, and inside of Captum's own tools."""

import functools
import inspect
import subprocess
import sys

import pytest
import torch
from captum_pairs import (
    AT_INPUT,
    AT_LAYER,
    INPUT_SHAPED,
    NEURON,
    agree,
    apart,
    close,
    each_method,
    maps,
    method,
    ours,
    outcome,
    residual,
    theirs,
)
from helpers import assert_unchanged, snapshot
from test_peers import (
    TwoInputs,
    images,
    plain_net,
    seeded,
)
from torch import nn
from torch.testing import assert_close

import funcattr as fa

metrics = pytest.importorskip("captum.metrics")


def signature(of):
    return [(p.name, p.default, p.kind) for p in inspect.signature(of).parameters.values()]


@each_method
def test_the_signatures_and_what_captum_reads(name):
    model = residual(2)
    for get in (lambda cls: cls, lambda cls: cls.attribute):
        assert signature(get(getattr(ours, name))) == signature(get(getattr(theirs, name)))
    got, expected = (method(library, name, model, model.norm1) for library in (ours, theirs))
    shared = [
        "forward_func", "multiplies_by_inputs", "layer", "device_ids", "model",
    ]  # fmt: skip
    for attribute in shared:
        if hasattr(expected, attribute):
            assert getattr(got, attribute) == getattr(expected, attribute), attribute
    assert got.has_convergence_delta() is expected.has_convergence_delta() is False
    assert signature(got.attribute.__wrapped__) == signature(expected.attribute.__wrapped__)
    assert got.get_name() == expected.get_name()
    with pytest.raises(NotImplementedError, match="attribute_future is not implemented for"):
        got.attribute_future()
    bases = [b.__name__ for b in type(expected).__mro__ if b.__name__.endswith("Attribution")]
    assert set(bases) - {"ModifiedReluGradientAttribution"} <= {
        b.__name__ for b in type(got).__mro__
    }


@each_method
def test_positional_arguments(name):
    model, x = seeded(TwoInputs()), images(3, 2, 5, 5)
    further = ((images(3, 5), 0.5),)
    second = {"Saliency": (1, False), "LayerGradCam": (1,)}.get(name, (1,))
    rest = {"LayerGradCam": (False, True, False), "GuidedGradCam": ("bilinear", False)}
    args = (*second, *further, *rest.get(name, ()))
    layer = model.head[1] if name in NEURON else model.image[1]
    expected, got = (
        outcome(of, lambda of: method(of, name, model, layer).attribute(x.clone(), *args))
        for of in (theirs, ours)
    )
    close(got, expected)


def test_multiply_by_inputs_is_readable():
    model = plain_net()
    for flag in True, False:
        got = ours.LayerGradientXActivation(model, model[1], multiply_by_inputs=flag)
        assert got.multiplies_by_inputs is flag


@each_method
def test_without_warnings_and_side_effects(name):
    """Captum marks the input, sets hooks and says so; nothing of this here. No map has a graph."""
    model, x = residual(2), images(3, 2, 5, 5)
    before = snapshot(model)
    explained = (1, 2, 0) if name in NEURON else 2
    for tracked in False, True:
        x.requires_grad_(tracked)
        got = method(ours, name, model, model.norm1).attribute(x, explained)
        assert not got.requires_grad
        assert x.requires_grad is tracked
        assert x.grad is None
    assert_unchanged(model, before)


@pytest.mark.parametrize("name", AT_LAYER)
def test_create_graph_gives_the_true_derivative(name):
    model, x = plain_net(), images(2, 2, 9, 9).requires_grad_()
    got = method(ours, name, model, model[0]).attribute(x, 2, grad_kwargs={"create_graph": True})
    functional = {
        "LayerGradCam": fa.grad_cam(model, "0", relu=False),
        "LayerGradientXActivation": fa.layer_gradient_x_activation(model, "0"),
    }[name]
    expected = torch.func.grad(lambda x: functional(x, target=2).square().sum())(x.detach())
    close(torch.autograd.grad(got.square().sum(), x)[0], expected)


@each_method
@pytest.mark.parametrize("how", ["frozen", "no_grad", "DataParallel", "inference"])
def test_circumstances(name, how):
    model, x = residual(2), images(3, 2, 5, 5)
    explained = {"target": 2, "neuron": (1, 2, 0)}
    expected = maps(theirs, name, model, x, model.norm1, **explained)
    wrapped = nn.DataParallel(model) if how == "DataParallel" else model
    model.requires_grad_(how != "frozen")
    off = {"no_grad": torch.no_grad, "inference": torch.inference_mode}.get(how, torch.enable_grad)
    with off():
        close(maps(ours, name, wrapped, x, model.norm1, **explained), expected)


MODEL = plain_net()  # for a function that finds it among the globals


def by_global(x):
    return MODEL(x) * 2


class Holder:
    def __call__(self, x):
        return self.model(x) * 2


def function(kind):
    """A callable that is no module, and the model in it."""
    model, holder = plain_net(), Holder()
    holder.model = model
    return {
        "closure": (lambda x: model(x) * 2, model),
        "global": (by_global, MODEL),
        "bound method": (model.forward, model),
        "partial": (functools.partial(lambda m, x: m(x) * 2, model), model),
        "partial of a method": (functools.partial(model.forward), model),
        "object": (holder, model),
    }[kind]


@pytest.mark.parametrize("name", [*AT_LAYER, "Saliency", "InputXGradient"])
@pytest.mark.parametrize(
    "kind", ["closure", "global", "bound method", "partial", "partial of a method", "object"]
)
def test_functions_in_the_place_of_modules(name, kind):
    func, model = function(kind)
    agree(name, func, images(3, 2, 9, 9), model[1], 2)


def test_a_function_that_hides_its_model_is_an_error():
    hidden = [plain_net()]
    got = maps(ours, "LayerGradCam", lambda x: hidden[0](x), images(1, 2, 9, 9), hidden[0][1], 2)
    assert isinstance(got, AssertionError)
    assert "Pass the module" in str(got)


def wrapped(library, name, model, layer, wrapper):
    torch.manual_seed(7)
    return outcome(library, lambda of: wrapper(method(of, name, model, layer)))


def tunnel(nt_type, x, **kwargs):
    return lambda m: theirs.NoiseTunnel(m).attribute(
        apart(x), nt_type=nt_type, nt_samples=3, stdevs=0.2, **kwargs
    )


def sensitivity(x, **kwargs):
    return lambda m: metrics.sensitivity_max(m.attribute, apart(x), n_perturb_samples=3, **kwargs)


def infidelity(model, x, **kwargs):
    def perturb(x):
        noise = 0.1 * torch.randn_like(x)
        return noise, x - noise

    return lambda m: metrics.infidelity(
        model, perturb, apart(x), m.attribute(apart(x), **kwargs).detach(), target=2,
        n_perturb_samples=3,
    )  # fmt: skip


def explaining(name):
    return {"neuron_selector": (1, 2, 0)} if name in NEURON else {"target": 2}


@each_method
@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_inside_of_a_noise_tunnel(name, nt_type):
    """The tunnel looks at `isinstance`, and calls `attribute.__wrapped__`."""
    model, x = residual(2), images(3, 2, 5, 5)
    run = tunnel(nt_type, x, **explaining(name))
    expected, got = (wrapped(of, name, model, model.norm1, run) for of in (theirs, ours))
    assert got.shape == expected.shape
    close(got, expected)


@pytest.mark.parametrize("name", [*AT_INPUT, *AT_LAYER])
def test_a_noise_tunnel_repeats_targets_and_arguments(name):
    model, x = seeded(TwoInputs()), (images(3, 2, 5, 5), images(3, 5))
    scale = torch.rand(3, 1).double()
    run = tunnel("smoothgrad", x, target=[1, 3, 5], additional_forward_args=scale)
    expected, got = (wrapped(of, name, model, model.image[1], run) for of in (theirs, ours))
    close(got, expected)


@pytest.mark.parametrize("name", INPUT_SHAPED)
def test_inside_of_sensitivity_max(name):
    model, x = residual(2), images(2, 2, 5, 5)
    run = sensitivity(x, **explaining(name))
    expected, got = (wrapped(of, name, model, model.norm1, run) for of in (theirs, ours))
    assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", INPUT_SHAPED)
def test_inside_of_infidelity(name):
    model, x = residual(2), images(2, 2, 5, 5)
    run = infidelity(model, x, **explaining(name))
    expected, got = (wrapped(of, name, model, model.norm1, run) for of in (theirs, ours))
    assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_convergence_deltas_as_captum_has_them():
    model, x = plain_net(), images(2, 2, 9, 9)
    attributions = maps(ours, "InputXGradient", model, x, target=1)
    expected, got = (
        of.InputXGradient(model).compute_convergence_delta(
            attributions, torch.zeros_like(x), x, target=1
        )
        for of in (theirs, ours)
    )
    close(got, expected)


def test_without_captum():
    code = """
import sys
sys.modules["captum"] = None
import torch
from funcattr.compat import captum as cc
assert not any(name.startswith("captum.") for name in sys.modules)
m = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2), torch.nn.ReLU(), torch.nn.Flatten(),
                        torch.nn.Linear(8, 3))
x = torch.randn(2, 1, 3, 3)
for name in cc.__all__:
    if name.endswith("Rule"):
        continue
    if name in {"LRP", "DeepLift"}:
        getattr(cc, name)(m).attribute(x, target=1)
    elif name != "LayerAttribution":
        cls = getattr(cc, name)
        at_input = name in {"GuidedBackprop", "Deconvolution", "Saliency", "InputXGradient"}
        attr = cls(m) if at_input else cls(m, m[1])
        attr.attribute(x, (1, 0, 1) if name.startswith("Neuron") else 1)
        assert attr.has_convergence_delta() is False and attr.attribute.__wrapped__
try:
    cc.LayerGradCam(m, torch.nn.ReLU()).attribute(x, 1)
except AssertionError as error:
    assert str(error).startswith("Forward hook did not obtain")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_funcattr_itself_imports_neither():
    code = "import sys, funcattr; assert not {'captum', 'funcattr.compat'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
