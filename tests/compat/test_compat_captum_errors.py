"""Every error of the drop-ins, its type and first words, against Captum's own."""

import pytest
import torch
from captum_pairs import (
    AT_INPUT,
    AT_LAYER,
    DENSE,
    FLAT,
    INPUT_SHAPED,
    NEURON,
    Several,
    X,
    each_method,
    maps,
    ours,
    theirs,
)
from test_peers import (
    images,
    plain_net,
    seeded,
)
from torch import nn


class InATuple(nn.Sequential):
    def forward(self, x):
        return (super().forward(x),)


NO_TARGET = (
    "Target not provided when necessary, cannot take gradient with respect to multiple outputs."
)
# name -> model, target, type of error, first words
BAD_TARGETS = {
    "missing": (FLAT, None, AssertionError, NO_TARGET),
    "int of a dense output": (DENSE, 1, AssertionError, NO_TARGET),
    "short tuple": (DENSE, (1, 2), AssertionError, NO_TARGET),
    "short tuples": (DENSE, [(1, 2)] * 3, AssertionError, NO_TARGET),
    "tensor of a dense output": (DENSE, torch.tensor([1]), AssertionError, NO_TARGET),
    "a tuple": (InATuple(*FLAT), None, AssertionError, NO_TARGET),
    "too many": (FLAT, (1, 2), AssertionError, "Cannot choose target column with output shape"),
    "shape": (FLAT, torch.tensor([[1, 2, 3]]), AssertionError, "Tensor target dimension"),
    "length of a tensor": (FLAT, torch.tensor([1, 2]), AssertionError, "Tensor target dimension"),
    "float": (FLAT, torch.tensor(1.0), AssertionError, "Tensor target dimension"),
    "floats": (FLAT, torch.ones(3), RuntimeError, "gather(): Expected dtype int"),
    "length": (FLAT, [1, 2], AssertionError, "Target list length does not match output!"),
    "elements": (FLAT, ["a", "b", "c"], AssertionError, "Target element type"),
    "type": (FLAT, "a", AssertionError, "Target type"),
    "callable": (FLAT, lambda o: o[:, 0], AssertionError, "Target type"),
    "list of a dense output": (DENSE, [1, 2, 0], AssertionError, "Output must be 2D"),
    "tensors of a dense output": (DENSE, torch.tensor([1, 2, 0]), AssertionError, "Output must be"),
    "out of range": (FLAT, 6, IndexError, "index 6 is out of bounds for dimension"),
    "negative out of range": (FLAT, -7, IndexError, "index -7 is out of bounds for dimension"),
    "one out of range": (FLAT, [0, 6, 1], RuntimeError, "index 6 is out of bounds for dimension"),
    "tuple out of range": (DENSE, (5, 0, 0), IndexError, "index 5 is out of bounds for dimension"),
    "tuples out of range": (DENSE, [(0, 9, 0)] * 3, IndexError, "index 9 is out of bounds"),
}


def same_error(error, words, *args, **kwargs):
    for library in theirs, ours:
        came = maps(library, *args, **kwargs)
        assert type(came) is error, came
        assert str(came).startswith(words), came


@pytest.mark.parametrize("name", [*AT_INPUT, *AT_LAYER, "GuidedGradCam"])
@pytest.mark.parametrize("bad", BAD_TARGETS)
def test_wrong_targets(name, bad):
    model, target, error, words = BAD_TARGETS[bad]
    same_error(error, words, name, model, X, model[1], target)


# name -> layer of Several or of FLAT, selector, type of error, first words
BAD_NEURONS = {
    "too many": (FLAT, "1", (0,) * 4, AssertionError, "Cannot choose target column with output"),
    "out of range": (FLAT, "1", (9, 0, 0), IndexError, "index 9 is out of bounds for dimension"),
    "not one": (FLAT, "1", 1, RuntimeError, "grad can be implicitly created only for scalar"),
    "several": (Several().double(), "pair", 1, AssertionError, "Cannot select neuron index from"),
}


@pytest.mark.parametrize("name", NEURON)
@pytest.mark.parametrize("bad", BAD_NEURONS)
def test_wrong_neurons(name, bad):
    model, layer, selector, error, words = BAD_NEURONS[bad]
    x = X[..., :5, :5] if isinstance(model, Several) else X
    same_error(error, words, name, model, x, model.get_submodule(layer), neuron=selector)


@pytest.mark.parametrize("name", [*AT_LAYER, "GuidedGradCam", *NEURON])
@pytest.mark.parametrize("foreign", [True, False])
def test_a_layer_that_never_runs(name, foreign):
    model = seeded(Several())
    layer = nn.ReLU() if foreign else model.idle
    if name in NEURON:
        expected = maps(theirs, name, model, images(3, 2, 5, 5), layer, neuron=1)
        assert type(expected) is AssertionError
    words = "Forward hook did not obtain any outputs for given layer"
    same_error(AssertionError, words, name, model, images(3, 2, 5, 5), layer, 1, 1)


@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution", "GuidedGradCam", *NEURON])
def test_a_model_that_is_no_module(name):
    words = "Given model must be an instance of torch.nn.Module to properly hook ReLU layers."
    same_error(AssertionError, words, name, lambda x: x, X, FLAT[1], 1, 1)


@each_method
@pytest.mark.parametrize("x", [[X], "image"], ids=["list", "word"])
def test_inputs_that_are_no_tensors(name, x):
    same_error(AssertionError, "`inputs` must be a torch.Tensor or", name, FLAT, x, FLAT[1], 1, 1)


@pytest.mark.parametrize("name", INPUT_SHAPED)
def test_a_tuple_of_something_else(name):
    if name != "GuidedGradCam":  # its Grad-CAM runs the model first
        same_error(AssertionError, "Given input is not a", name, FLAT, (3,), FLAT[1], 1, 1)


def test_guided_grad_cam_of_a_layer_with_several_outputs():
    model = seeded(Several())
    same_error(
        AssertionError, "GuidedGradCAM attributions for layer with multiple inputs / outputs",
        "GuidedGradCam", model, images(3, 2, 5, 5), model.pair, 1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "mode"), [("1", "linear"), ("1", "trilinear"), ("1", "cubist"), ("6", "nearest")]
)
def test_guided_grad_cam_that_cannot_be_resized(layer, mode):
    """`torch.empty(0)` and a warning, whatever the reason."""
    model = plain_net()
    options = {"target": 1, "interpolate_mode": mode}
    expected = maps(theirs, "GuidedGradCam", model, X, model.get_submodule(layer), **options)
    with pytest.warns(UserWarning, match="returning empty tensor for corresponding attributions"):
        got = ours.GuidedGradCam(model, model.get_submodule(layer)).attribute(X, **options)
    assert got.shape == expected.shape == (0,)
