"""Every drop-in against the class of Captum that it stands for, on the same inputs."""

import warnings

import pytest
import torch
from captum_pairs import (
    AT_INPUT,
    AT_LAYER,
    FLAT,
    NETS,
    NEURON,
    RULES,
    Several,
    X,
    agree,
    close,
    each_method,
    maps,
    method,
    ours,
    residual,
    theirs,
)
from oracle import rule_gradient
from test_peers import (
    ONE_CONV,
    SPELLINGS,
    DiscardedInPlace,
    InPlaceSkip,
    SharedInput,
    SiblingCalls,
    Spelled,
    TwoInputs,
    assert_differs,
    images,
    one_conv,
    plain_net,
    seeded,
)
from torch import nn

import funcattr as fa


@each_method
@pytest.mark.parametrize("net", NETS)
def test_the_same_maps(name, net):
    torch.manual_seed(3)
    build, x, layer, target, neuron = NETS[net]
    model = build()
    with warnings.catch_warnings():
        if name == "GuidedGradCam" and net == "a linear layer":
            warnings.simplefilter("ignore")  # it has no spatial dimensions
        got = agree(name, model, x, layer(model), target, neuron)
    # A random network's Grad-CAM may have no positive part.
    assert got.any() or not got.numel() or name == "GuidedGradCam"


def test_the_ties_are_ties():
    torch.manual_seed(3)
    build, x, *_ = NETS["ties"]
    assert not fa.layer_output(build(), "0")(x).all()


@pytest.mark.parametrize("name", [*AT_LAYER, "GuidedGradCam", *NEURON])
@pytest.mark.parametrize("layer", ["norm1", "block", "reused", "head"])
def test_the_input_of_a_layer(name, layer):
    model, x = residual(2), images(3, 2, 5, 5)
    key = "attribute_to_neuron_input" if name in NEURON else "attribute_to_layer_input"
    got = agree(name, model, x, model.get_submodule(layer), 2, (2, slice(0, 3), 1), **{key: True})
    assert got.abs().max() > 0


OPTIONS = {
    "Saliency": [{"abs": False}],
    "LayerGradCam": [
        {"relu_attributions": True},
        {"attr_dim_summation": False},
        {"attr_dim_summation": False, "relu_attributions": True},
        {"options": {"device_ids": [0]}},
        {"grad_kwargs": {"retain_graph": True}},
    ],
    "LayerGradientXActivation": [
        {"options": {"multiply_by_inputs": False}},
        {"options": {"memory_efficient": True, "device_ids": [0]}},
        {"grad_kwargs": {"allow_unused": True, "create_graph": True}},
    ],
    "GuidedGradCam": [{"interpolate_mode": "bilinear"}, {"interpolate_mode": "bicubic"}],
}


@pytest.mark.parametrize(
    ("name", "options"), [(name, o) for name, all in OPTIONS.items() for o in all], ids=str
)
def test_options(name, options):
    model = residual(2)
    agree(name, model, images(3, 2, 5, 5), model.norm2, 2, **options)


@pytest.mark.parametrize("name", [*AT_INPUT, *AT_LAYER, *NEURON])
@pytest.mark.parametrize(
    "extra",
    [None, 0.5, (0.5,), (torch.tensor([[0.2], [0.5], [0.9]]).double(),)],
    ids=["none", "number", "tuple", "tensor"],
)
def test_tuples_of_inputs_and_further_arguments(name, extra):
    model, x = seeded(TwoInputs()), (images(3, 2, 5, 5), images(3, 5))
    layer = model.head[1] if name in NEURON else model.image[1]
    agree(name, model, x, layer, [1, 3, 5], 2, additional_forward_args=extra)


def test_guided_grad_cam_of_inputs_of_unlike_dimensions():
    model, x = seeded(TwoInputs()), (images(3, 2, 5, 5), images(3, 5))
    with pytest.warns(UserWarning, match="Couldn't appropriately interpolate GradCAM"):
        image, vector = agree("GuidedGradCam", model, x, model.image[1], [1, 3, 5])
    assert image.shape == x[0].shape
    assert vector.shape == (0,)


@pytest.mark.parametrize("name", NEURON)
def test_an_input_that_does_not_reach_the_neuron_has_zeros(name):
    """Captum fails with autograd's error."""
    model, x = seeded(TwoInputs()), (images(3, 2, 5, 5), images(3, 5))
    for library, error in (theirs, RuntimeError), (ours, ()):
        got = maps(library, name, model, x, model.image[1], neuron=(0, 1, 2))
        assert isinstance(got, error) is (library is theirs)
    assert got[0].any()
    assert not got[1].any()


@pytest.mark.parametrize("name", AT_LAYER)
def test_a_layer_with_several_outputs(name):
    model = seeded(Several())
    assert len(agree(name, model, images(3, 2, 5, 5), model.pair, 2)) == 2


def test_a_list_of_layers():
    model, x = seeded(Several()), images(3, 2, 5, 5)
    layers = [model.pair, model.pair.relu]
    got = agree("LayerGradientXActivation", model, x, layers, 2)
    assert [type(part) for part in got] == [tuple, torch.Tensor]


@pytest.mark.skipif(torch.__version__ < "2.1", reason="Captum itself needs materialize_grads")
@pytest.mark.parametrize("name", AT_LAYER)
def test_a_layer_that_does_not_reach_the_output(name):
    """Zeros, as Captum's if it is told to materialize them; it fails otherwise."""
    model, x = seeded(Several()), images(3, 2, 5, 5)
    got = agree(name, model, x, model.unused, 2, grad_kwargs={"materialize_grads": True})
    assert torch.equal(got, maps(ours, name, model, x, model.unused, 2))
    assert not got.any()


@pytest.mark.parametrize("name", NEURON)
def test_a_neuron_of_several_tensors(name):
    model = seeded(Several())
    select = lambda acts: (acts[0] * acts[1])[:, 1, 2, 0]
    agree(name, model, images(3, 2, 5, 5), model.pair, neuron=select)


@pytest.mark.parametrize(
    ("shape", "dims", "mode"),
    [
        ((2, 3, 4), 8, "nearest"),
        ((2, 3, 4), (9,), "linear"),
        ((2, 3, 4, 5), (8, 8), "bilinear"),
        ((2, 3, 4, 5), 7, "area"),
        ((2, 1, 3, 4, 5), (5, 6, 7), "trilinear"),
    ],
)
def test_interpolate(shape, dims, mode):
    x = images(*shape)
    got = ours.LayerAttribution.interpolate(x, dims, mode)
    assert torch.equal(got, theirs.LayerAttribution.interpolate(x, dims, mode))
    assert torch.equal(got, ours.LayerGradCam.interpolate(x, dims, interpolate_mode=mode))


def test_the_published_numbers():
    model, x = one_conv(), torch.arange(16.0).double().view(1, 1, 4, 4)
    guided_cam = [[0, 0, 4, 4], [0, 0, 12, 8], [28, 84, 97.5, 65], [28, 56, 65, 32.5]]
    known = {
        "GuidedBackprop": ONE_CONV["guided"],
        "Deconvolution": ONE_CONV["deconvnet"],
        "GuidedGradCam": guided_cam,
    }
    for name, expected in known.items():
        got = agree(name, model, x, model[1], 0)
        assert torch.equal(got[0, 0], torch.tensor(expected).double())


# ------------------------------------------------------------------ where Captum is not right


def last(model):
    return model.head[1]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("spelling", list(SPELLINGS))
def test_activations_that_captum_does_not_see(name, spelling):
    """Captum's map is the plain gradient. The neuron is the target's, so the oracle is the same."""
    model, x = seeded(Spelled(SPELLINGS[spelling])), images(3, 2, 9, 9)
    expected, plain = rule_gradient(model, x, 2, RULES[name]), rule_gradient(model, x, 2)
    close(maps(theirs, name, model, x, last(model), 2, 2), plain)
    assert_differs(plain, expected)
    close(maps(ours, name, model, x, last(model), 2, 2), expected)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("net", [InPlaceSkip, DiscardedInPlace, SharedInput, SiblingCalls])
def test_relus_that_share_what_they_read(name, net):
    model, x = seeded(net()), images(3, 2, 9, 9)
    expected = rule_gradient(model, x, 2, RULES[name])
    wrong = maps(theirs, name, model, x, last(model), 2, 2)
    if net is not SiblingCalls or RULES[name] == "deconvnet":
        assert_differs(wrong, expected)
    close(maps(ours, name, model, x, last(model), 2, 2), expected)


def test_a_relu_right_after_another():
    """Captum's DeconvNet hands the first one what the second one got, not what it gave."""
    model, x = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.ReLU(), nn.Flatten()), X
    model = seeded(model.append(nn.Linear(147, 6)))
    expected = rule_gradient(model, x, 3, "deconvnet")
    assert_differs(maps(theirs, "Deconvolution", model, x, target=3), expected)
    close(maps(ours, "Deconvolution", model, x, target=3), expected)


@pytest.mark.parametrize("spelling", ["F.relu", "nn.ReLU6"])
def test_guided_grad_cam_of_activations_that_captum_does_not_see(spelling):
    model, x = seeded(Spelled(SPELLINGS[spelling])), images(3, 2, 9, 9)
    guided = rule_gradient(model, x, 2, "guided")
    cam = maps(theirs, "LayerGradCam", model, x, model.first, 2, relu_attributions=True)
    expected = guided * theirs.LayerAttribution.interpolate(cam, (9, 9))
    assert_differs(maps(theirs, "GuidedGradCam", model, x, model.first, 2), expected)
    close(maps(ours, "GuidedGradCam", model, x, model.first, 2), expected)


def test_negative_targets_in_a_list():
    """Captum refuses them, though not as an int."""
    x = images(3, 2, 9, 9)
    assert isinstance(maps(theirs, "Saliency", FLAT, x, target=[-1, 0, 1]), RuntimeError)
    expected = maps(theirs, "Saliency", FLAT, x, target=[5, 0, 1])
    close(maps(ours, "Saliency", FLAT, x, target=[-1, 0, 1]), expected)


def test_an_input_that_is_not_used_has_zeros():
    """Captum fails with autograd's error."""
    model, x = (lambda a, b: FLAT(a)), (images(3, 2, 9, 9), images(3, 2))
    assert isinstance(maps(theirs, "Saliency", model, x, target=1), RuntimeError)
    assert not maps(ours, "Saliency", model, x, target=1)[1].any()


def test_batch_norm_in_training_is_not_updated():
    """By Captum it is."""
    for library, changed in ((theirs, True), (ours, False)):
        model = residual(2).train()
        mean = model.norm1.running_mean.clone()
        maps(library, "GuidedBackprop", model, images(3, 2, 5, 5), target=1)
        assert torch.equal(model.norm1.running_mean, mean) is not changed


@pytest.mark.parametrize("name", [*RULES, "GuidedGradCam"])
def test_a_model_without_any_relu_is_the_plain_gradient_and_says_so(name):
    model = seeded(nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(147, 6)))
    x = images(3, 2, 9, 9)
    expected = maps(theirs, name, model, x, model[3 if name in NEURON else 0], 2, 2)
    attr = method(ours, name, model, model[3 if name in NEURON else 0])
    with pytest.warns(UserWarning, match="no ReLU here to modify, so this is the plain gradient"):
        close(attr.attribute(x, 2), expected)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_an_activation_out_of_reach_is_an_error(name):
    """Captum's is the plain gradient of TorchScript, without a word."""
    model = plain_net()
    model[1] = torch.jit.script(nn.ReLU())
    assert isinstance(maps(theirs, name, model, X, model[6], 2, 2), torch.Tensor)
    assert isinstance(maps(ours, name, model, X, model[6], 2, 2), fa.NoSiteError)
