"""Wrong calls, but for targets (`wrong_targets`) and rules (`wrong_rules`).

A row is a call, the type of its error, and words of the message, in their order.
"""
# ruff: noqa: E501

import copy
import math

import numpy as np
import torch
from torch import nn

import funcattr as fa
from funcattr.compat import captum, torchray

X, IMAGES = torch.randn(2, 3), torch.randn(2, 3, 6, 6)
NET = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
CONV = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
F, PARAMS = fa.make_functional(NET)
ATTR = fa.guided_backprop(NET)
RNN = nn.RNN(3, 4, nonlinearity="relu")
GUIDED = fa.rules.guided
ARGUMENT, LAYER, TARGET, SITE = fa.ArgumentError, fa.LayerError, fa.TargetError, fa.NoSiteError


def scores(x):
    return {"logits": NET(x), "aux": x}


def lazy():
    return nn.Sequential(nn.LazyLinear(3), nn.ReLU())


def scripted():
    return torch.jit.script(copy.deepcopy(NET))


def cam(layer, **more):
    return fa.grad_cam(CONV, layer, **more)(IMAGES, target=0)


def guided_cam(layer, **more):
    return fa.guided_grad_cam(CONV, layer, **more)(IMAGES, target=0)


def smooth(x=X, target=0, **more):
    options = {"samples": 2, "sigma": 0.1, "generator": 0, **more}
    return fa.smooth_grad(ATTR, **options)(x, target=target)


def integrated(x=X, func=NET, **more):
    return fa.integrated_gradients(func, **{"steps": 2, **more})(x, target=0)


# fmt: off
MODELS = {
    "a state dict": (lambda: fa.gradient(NET.state_dict()), ARGUMENT, "func is .*module.*got OrderedDict.*load it into a model"),
    "a state dict with a layer": (lambda: fa.grad_cam(CONV.state_dict(), "1"), ARGUMENT, "got OrderedDict.*load it into a model"),
    "a state dict for layer_output": (lambda: fa.layer_output(CONV.state_dict(), "1"), ARGUMENT, "func is .*module.*load it into a model"),
    "a state dict for make_functional": (lambda: fa.make_functional(NET.state_dict()), ARGUMENT, "got OrderedDict.*load it into a model"),
    "a state dict for with_rules": (lambda: fa.with_rules(NET.state_dict(), fa.Composite([("relu", GUIDED)])), ARGUMENT, "load it into a model"),
    "a state dict for sites": (lambda: fa.sites(NET.state_dict(), X), ARGUMENT, "load it into a model"),
    "None": (lambda: fa.saliency(None), ARGUMENT, "func is .*module.*got None"),
    "a list of models": (lambda: fa.deconvnet([NET]), ARGUMENT, r"func is .*module.*got \[Sequential"),
    "a tensor, the arguments swapped": (lambda: fa.sites(X, NET), ARGUMENT, "func is .*module.*got tensor"),
    "a class for layer_output": (lambda: fa.layer_output(nn.ReLU, "1"), ARGUMENT, "Pass an instance"),
    "a class for make_functional": (lambda: fa.make_functional(nn.ReLU), ARGUMENT, "takes a torch.nn.Module, got type. Pass an instance"),
    "None for make_functional": (lambda: fa.make_functional(None), ARGUMENT, "got NoneType. Pass the model itself"),
    "an attribution for layer_output": (lambda: fa.layer_output(ATTR, "1"), ARGUMENT, "attribution already"),
    "an attribution integrated": (lambda: integrated(func=ATTR), ARGUMENT, "attribution already"),
    "an attribution with rules": (lambda: fa.with_rules(ATTR, fa.Composite([("relu", GUIDED)])), ARGUMENT, "attribution already"),
    "a lazy model": (lambda: fa.gradient(lazy())(X, target=0), ARGUMENT, "'0.weight' is not initialised yet; run the model"),
    "a lazy model with a layer": (lambda: fa.grad_cam(lazy(), "0")(X, target=0), ARGUMENT, "not initialised yet; run the model"),
    "a lazy model for sites": (lambda: fa.sites(lazy(), X), ARGUMENT, "not initialised yet; run the model"),
    "a lazy model for make_functional": (lambda: fa.make_functional(lazy()), ARGUMENT, "'0.weight' is not initialised yet; run the model"),
    "TorchScript": (lambda: fa.guided_backprop(scripted())(X, target=0), SITE, "TorchScript.*its own relu.*Use the Python module.*require_match=False"),
    "TorchScript inside": (lambda: fa.deconvnet(nn.Sequential(scripted()))(X, target=0), SITE, "'0' is TorchScript.*Use the Python module"),
    "a trace with rules": (lambda: fa.gradient(fa.with_rules(torch.jit.trace(copy.deepcopy(NET), X), fa.Composite([("relu", GUIDED)])))(X, target=0), SITE, "TorchScript.*Use the Python module"),
    "a layer of TorchScript": (lambda: fa.layer_output(scripted(), "0"), LAYER, "'0' is TorchScript.*use the Python module"),
    "an RNN's kernel": (lambda: fa.guided_backprop(RNN, output=0)(X[None], target=(0, 0)), SITE, "inside of one kernel.*Write the recurrence with torch.relu"),
    "no ReLU": (lambda: fa.guided_backprop(NET[0])(X, target=0), SITE, "Linear met none.*for .relu.; it met no activation.*require_match=False"),
    "Attribution of a model": (lambda: fa.Attribution(NET), ARGUMENT, r"function.*\(out, explain\); got Sequential.*funcattr.gradient\(model\)"),
    "Attribution of nothing": (lambda: fa.Attribution(None), ARGUMENT, "got None"),
}

ARGUMENTS = {
    "argnums, a float": (lambda: fa.saliency(NET, 1.0), ARGUMENT, "argnums is an int or a tuple of ints; got 1.0"),
    "argnums, a bool": (lambda: fa.gradient(NET, True), ARGUMENT, "argnums is an int or a tuple of ints; got True"),
    "argnums, a list": (lambda: fa.input_x_gradient(NET, [0]), ARGUMENT, r"tuple of ints; got \[0\]"),
    "argnums, none of them": (lambda: fa.guided_backprop(NET, ()), ARGUMENT, r"tuple of ints; got \(\)"),
    "argnums, mixed": (lambda: fa.deconvnet(NET, (0, "x")), ARGUMENT, r"tuple of ints; got \(0, 'x'\)"),
    "argnums, below the first": (lambda: fa.deconvnet(NET, -2)(X, target=0), ARGUMENT, "by position: argnums=-2 .*has 1 positional argument"),
    "argnums, one too many": (lambda: fa.input_x_gradient(NET, (0, 1))(X, target=0), ARGUMENT, "argnums=1 names no argument"),
    "no argument": (lambda: ATTR(target=0), ARGUMENT, "by position: argnums=0 .*has 0 positional"),
    "the input by name": (lambda: ATTR(input=X, target=0), ARGUMENT, "by position: argnums=0"),
    "an array": (lambda: ATTR(X.numpy(), target=0), ARGUMENT, r"float tensor; got a ndarray.*torch.as_tensor\(x\)"),
    "a word": (lambda: ATTR("x", target=0), ARGUMENT, "float tensor; got a str"),
    "None as an input": (lambda: ATTR(None, target=0), ARGUMENT, "float tensor; got a NoneType"),
    "bools": (lambda: ATTR(X > 0, target=0), ARGUMENT, r"got a tensor of torch.bool.*x.float\(\)"),
    "an empty dict": (lambda: fa.gradient(lambda d: NET(X))({}, target=0), ARGUMENT, "float tensor; got nothing"),
    "ids in a dict": (lambda: fa.gradient(lambda d: NET(X))({"ids": X.long()}, target=0), ARGUMENT, "torch.int64.*embedding layer"),
    "numbers in a list": (lambda: ATTR([1.0, 2.0]), ARGUMENT, "^argument 0 is explained.*float tensor; got a float"),
    "integers under vmap": (lambda: torch.vmap(ATTR)(X.long(), target=0), ARGUMENT, "torch.int64"),
    "a bundle of integers": (lambda: fa.bundle(ATTR, fa.gradient(NET))(X.long(), target=0), ARGUMENT, "torch.int64"),
    "an output by a float": (lambda: fa.gradient(scores, output=1.5), ARGUMENT, r"a key or attribute \('logits'\), a place.*got 1.5"),
    "an output by a bool": (lambda: fa.gradient(scores, output=True), ARGUMENT, "got True"),
    "an output by a list": (lambda: fa.guided_backprop(scores, output=["logits"]), ARGUMENT, r"got \['logits'\]"),
    "an output by bytes": (lambda: integrated(func=scores, output=b"logits"), ARGUMENT, "got b'logits'"),
    "an output at a layer": (lambda: cam("1", output=2.5), ARGUMENT, "got 2.5"),
    "an output that is not there": (lambda: fa.gradient(scores, output="logit")(X, target=0), ARGUMENT, "a dict, has no 'logit'; it has 'logits', 'aux'. Did you mean 'logits'"),
    "a place that is not there": (lambda: fa.gradient(lambda x: (NET(x),), output=3)(X, target=0), ARGUMENT, "a tuple, has no 3; it has 1 of them"),
    "a name in a tuple": (lambda: fa.gradient(lambda x: (NET(x),), output="logits")(X, target=0), ARGUMENT, "a tuple, has no 'logits'"),
    "a part of a tensor": (lambda: fa.gradient(NET, output="logits")(X, target=0), ARGUMENT, r"is a tensor of shape \(2, 2\) by itself; leave it out"),
    "an output without numbers": (lambda: fa.gradient(lambda x: {"n": "a"}, output="n")(X, target=0), TARGET, "a str, holds no float tensor.*return the scores"),
    "an output of None": (lambda: fa.gradient(lambda x: None)(X, target=0), TARGET, "a NoneType, holds no float tensor"),
    "parameters, a list": (lambda: F(list(PARAMS.values()), X), ARGUMENT, r"parameters first, a dict.*got list. Call f\(params, x\)"),
    "parameters, the module": (lambda: F(NET, X), ARGUMENT, "a dict of names to tensors; got Sequential"),
    "parameters, a generator": (lambda: F(NET.parameters(), X), ARGUMENT, "got generator"),
    "parameters left out": (lambda: fa.guided_backprop(F)(X, target=0), ARGUMENT, "got Tensor.*argnums=1"),
    "parameters left out at a layer": (lambda: fa.layer_output(F, "1")(X), ARGUMENT, "got Tensor.*argnums=1"),
    "parameters behind": (lambda: fa.guided_backprop(F, 1)(X, PARAMS, target=0), ARGUMENT, "got Tensor"),
    "a parameter's array": (lambda: F({"0.weight": np.zeros((4, 3))}, X), ARGUMENT, r"'0.weight' is a tensor of shape \(4, 3\); got .*ndarray"),
    "parameters of an ensemble": (lambda: F({k: v[None] for k, v in PARAMS.items()}, X), ARGUMENT, r"shape \(4, 3\); got \(1, 4, 3\). Stacked.*vmap"),
    "a parameter by number": (lambda: F({0: PARAMS["0.weight"]}, X), ARGUMENT, "no parameter or buffer 0"),
    "a parameter by another prefix": (lambda: F({"module.0.weight": PARAMS["0.weight"]}, X), ARGUMENT, "no parameter or buffer 'module.0.weight'. Did you mean '0.weight'"),
    "buffers by a word": (lambda: fa.make_functional(NET, buffers="no"), ARGUMENT, "buffers is True or False; got 'no'"),
}

LAYERS = {
    "no layers": (lambda: cam([]), ARGUMENT, "layer is a layer or a list of them; got an empty list"),
    "no layers of a tuple": (lambda: fa.layer_gradient_x_activation(CONV, ()), ARGUMENT, "got an empty list"),
    "no layers for layer_output": (lambda: fa.layer_output(CONV, []), ARGUMENT, "got an empty list"),
    "a layer, None": (lambda: cam(None), LAYER, "a dotted path or a module; got None"),
    "a set of layers": (lambda: cam({"1"}), LAYER, "a dotted path or a module; got {'1'}"),
    "a class as a layer": (lambda: cam(nn.ReLU), LAYER, "a dotted path or a module; got <class"),
    "a function as a layer": (lambda: cam(lambda model: model[1]), LAYER, "a dotted path or a module; got <function"),
    "one of two layers": (lambda: cam(["1", "9"]), LAYER, "no layer '9'. The model has '0', '1'"),
    "a parameter as a layer": (lambda: cam("0.weight"), LAYER, "'0' exists, a Conv2d, and has no parts"),
    "a call from the end": (lambda: cam("1:-1"), LAYER, "no layer '1:-1'"),
    "a call too many": (lambda: cam("1:1"), LAYER, "called 1 time; 1:1 does not exist, the last is 1:0"),
    "a layer in a layer": (lambda: fa.layer_output(fa.layer_output(CONV, "1"), "7"), LAYER, "no layer '7'"),
    "channel_dim, the batch": (lambda: cam("1", channel_dim=0), LAYER, r"dimension 0 of the activation; .*\(2, 4, 4, 4\), of which 0 is the batch.*channel_dim"),
    "channel_dim, too far": (lambda: cam("1", channel_dim=4), LAYER, "dimension 4.*say which dimension has them"),
    "channel_dim, too far back": (lambda: cam("1", channel_dim=-4), LAYER, "dimension -4"),
    "channel_dim, a float": (lambda: cam("1", channel_dim=1.0), ARGUMENT, "channel_dim is an int, or None for 1; got 1.0"),
    "channel_dim, a bool": (lambda: cam("1", channel_dim=True), ARGUMENT, "channel_dim is an int.*got True"),
    "relu by a word": (lambda: cam("1", relu="no"), ARGUMENT, "relu is True or False; got 'no'"),
    "channel_sum by a word": (lambda: cam("1", channel_sum="mean"), ARGUMENT, "channel_sum is True or False; got 'mean'"),
    "the layer's input by a word": (lambda: cam("1", attribute_to_layer_input="yes"), ARGUMENT, "attribute_to_layer_input is True or False; got 'yes'"),
    "at_input by a word": (lambda: fa.layer_output(CONV, "1", at_input="no"), ARGUMENT, "at_input is True or False; got 'no'"),
    "multiply_by_inputs by a word": (lambda: fa.layer_gradient_x_activation(CONV, "1", multiply_by_inputs="no"), ARGUMENT, "multiply_by_inputs is True or False; got 'no'"),
    "guided, several layers": (lambda: guided_cam(["1"]), ARGUMENT, "a single layer; got several. Make one of each"),
    "guided, ruled already": (lambda: fa.guided_grad_cam(fa.with_rules(CONV, fa.Composite([("relu", GUIDED)])), "1"), ARGUMENT, "a rule of its own; pass the model without one"),
    "guided, a mode in a list": (lambda: guided_cam("1", interpolate_mode=["nearest"]), ARGUMENT, r"interpolate_mode is one of 'nearest'.*got \['nearest'\]"),
    "guided, no mode": (lambda: guided_cam("1", interpolate_mode=None), ARGUMENT, "interpolate_mode is one of 'nearest'.*got None"),
    "guided, the rule by its name": (lambda: guided_cam("1", rule="guided"), ARGUMENT, r"rule is a function \(x, g\) -> g_in; got 'guided'"),
    "guided, unknown sites": (lambda: guided_cam("1", sites="rleu"), ARGUMENT, "got 'rleu'. Did you mean 'relu'"),
    "guided, argnums": (lambda: guided_cam("1", argnums="x"), ARGUMENT, "argnums is an int or a tuple of ints; got 'x'"),
    "guided, require_match": (lambda: guided_cam("1", require_match="no"), ARGUMENT, "require_match is True or False"),
    "guided, the layer's input": (lambda: guided_cam("1", attribute_to_layer_input="no"), ARGUMENT, "attribute_to_layer_input is True or False"),
}

COMPOSED = {
    "samples, a bool": (lambda: smooth(samples=True), ARGUMENT, "samples is a positive int; got True"),
    "samples, a float": (lambda: smooth(samples=2.0), ARGUMENT, "samples is a positive int; got 2.0"),
    "samples, None": (lambda: smooth(samples=None), ARGUMENT, "samples is a positive int; got None"),
    "sigma, not a number": (lambda: smooth(sigma=math.nan), ARGUMENT, "a finite number, zero or more; got nan"),
    "sigma, infinite": (lambda: smooth(sigma=math.inf), ARGUMENT, "a finite number, zero or more; got inf"),
    "sigma, a bool": (lambda: smooth(sigma=True), ARGUMENT, "a finite number, zero or more; got True"),
    "sigma, a tensor": (lambda: smooth(sigma=torch.tensor(0.1)), ARGUMENT, "sigma is a standard deviation, a finite number.*got tensor"),
    "sigma, None": (lambda: smooth(sigma=None), ARGUMENT, "sigma is a standard deviation.*got None"),
    "generator, a float": (lambda: smooth(generator=1.5), ARGUMENT, "generator is a torch.Generator, a seed or None; got 1.5"),
    "generator, a bool": (lambda: smooth(generator=True), ARGUMENT, "a seed or None; got True"),
    "generator, numpy's": (lambda: smooth(generator=np.random.default_rng(0)), ARGUMENT, r"a seed or None; got Generator\(PCG64\)"),
    "a negative seed": (lambda: smooth(generator=-1), ARGUMENT, r"a seed as generator is an int in 0..2\*\*63 - 1; got -1"),
    "a seed too large": (lambda: smooth(generator=2**80), ARGUMENT, r"a seed as generator is an int in 0..2\*\*63 - 1"),
    "noise for no argument": (lambda: smooth(argnums=1), ARGUMENT, "argnums=1 names no argument"),
    "noise for none": (lambda: smooth(argnums=()), ARGUMENT, r"argnums is an int or a tuple of ints; got \(\)"),
    "noise for integers": (lambda: smooth(X.long()), ARGUMENT, r"torch.int64. Convert it \(x.float\(\)"),
    "chunk_size, auto": (lambda: smooth(chunk_size="auto"), ARGUMENT, "chunk_size is a positive int; got 'auto'"),
    "chunk_size, a bool": (lambda: smooth(chunk_size=True), ARGUMENT, "chunk_size is a positive int; got True"),
    "smooth, a method": (lambda: fa.smooth_grad(fa.guided_backprop, samples=2, sigma=0.1), ARGUMENT, "attr is an Attribution; got a function"),
    "noise under vmap": (lambda: torch.vmap(lambda x: smooth(x[None], generator=None))(X), ARGUMENT, "under torch.vmap.*pass randomness='different'.*or a seed"),
    "a Generator under vmap": (lambda: torch.vmap(lambda x: smooth(x[None], generator=torch.Generator()))(X), ARGUMENT, "pass randomness='different'.*or a seed"),
    "noise under vmap in chunks": (lambda: torch.vmap(lambda x: smooth(x[None], generator=None, chunk_size=1))(X), ARGUMENT, "pass randomness='different'"),
    "steps, a bool": (lambda: integrated(steps=True), ARGUMENT, "steps is a positive int; got True"),
    "steps, negative": (lambda: integrated(steps=-2), ARGUMENT, "steps is a positive int; got -2"),
    "baseline, a word": (lambda: integrated(baseline="zero"), ARGUMENT, "form of what is explained, a tensor, or a number or None in its place; got 'zero'"),
    "baseline, an array": (lambda: integrated(baseline=np.zeros((2, 3))), ARGUMENT, r"form of what is explained, a tensor.*array.*An array goes in by torch.as_tensor"),
    "baseline, a list of numbers": (lambda: integrated(baseline=[0.0, 1.0, 2.0]), ARGUMENT, r"a tensor, or a number or None in its place; got \[0.0, 1.0, 2.0\]"),
    "baseline, a function": (lambda: integrated(baseline=torch.zeros_like), ARGUMENT, "in its place; got <built-in"),
    "baseline, of more dims": (lambda: integrated(baseline=torch.zeros(1, 2, 3)), ARGUMENT, r"broadcasts to its input, of shape \(2, 3\); got \(1, 2, 3\)"),
    "baseline under vmap": (lambda: torch.vmap(lambda x: integrated(x[None], baseline=torch.zeros(9)))(X), ARGUMENT, "broadcasts to its input"),
    "integrated, no argument": (lambda: integrated(argnums=2), ARGUMENT, "argnums=2 names no argument"),
    "integrated, auto": (lambda: integrated(chunk_size="auto"), ARGUMENT, "chunk_size is a positive int; got 'auto'"),
    "bundle, a list": (lambda: fa.bundle([ATTR, ATTR]), ARGUMENT, r"one by one, bundle\(a, b\); got list"),
    "bundle, one None": (lambda: fa.bundle(ATTR, None), ARGUMENT, "one by one.*got Attribution, NoneType"),
    "bundle, a generator": (lambda: fa.bundle(a for a in [ATTR]), ARGUMENT, "one by one.*got generator"),
    "bundle, a map of another output": (lambda: fa.bundle(ATTR, fa.gradient(lambda x: x.sum(1)))(X, target=0), TARGET, r"output has shape \(2,\)"),
}

MAPS = {
    "resize, a list": (lambda: fa.interpolate([[1.0]], 3), ARGUMENT, r"maps are a float tensor \[B, C, \*spatial\]; got a list"),
    "resize, an array": (lambda: fa.interpolate(np.ones((1, 1, 2)), 3), ARGUMENT, "float tensor.*got a ndarray"),
    "resize, integers": (lambda: fa.interpolate(IMAGES.long(), 3, "bilinear"), ARGUMENT, "float tensor.*of torch.int64"),
    "resize, no spatial dims": (lambda: fa.interpolate(X, 3), ARGUMENT, r"1 to 3 spatial dimensions.*shape \(2, 3\) and size 3"),
    "resize, no channels": (lambda: fa.interpolate(IMAGES[:, :0], 3), ARGUMENT, r"nothing to resize in maps of shape \(2, 0, 6, 6\)"),
    "resize, no pixels": (lambda: fa.interpolate(IMAGES[..., :0], 3), ARGUMENT, "nothing to resize"),
    "resize, the whole shape": (lambda: fa.interpolate(IMAGES, IMAGES.shape), ARGUMENT, "a size for each; got .*torch.Size"),
    "resize, to an image": (lambda: fa.interpolate(IMAGES, IMAGES), ARGUMENT, "size is a positive int, or one for each"),
    "resize, by a float": (lambda: fa.interpolate(IMAGES, 2.5), ARGUMENT, "size is a positive int.*got 2.5"),
    "resize, by floats": (lambda: fa.interpolate(IMAGES, (2.5, 2.0)), ARGUMENT, r"size is a positive int.*got \(2.5, 2.0\)"),
    "resize, to nothing": (lambda: fa.interpolate(IMAGES, 0), ARGUMENT, "size is a positive int.*got 0"),
    "resize, to less": (lambda: fa.interpolate(IMAGES, (3, -3)), ARGUMENT, r"size is a positive int.*got \(3, -3\)"),
    "resize, by None": (lambda: fa.interpolate(IMAGES, None), ARGUMENT, "size is a positive int.*got None"),
    "resize, by a bool": (lambda: fa.interpolate(IMAGES, True), ARGUMENT, "size is a positive int.*got True"),
    "resize, a mode of one dim": (lambda: fa.interpolate(IMAGES, 3, "linear"), ARGUMENT, "mode 'linear' does not resize maps of 2 spatial dimensions; there is 'nearest'"),
    "resize, no mode": (lambda: fa.interpolate(IMAGES, 3, None), ARGUMENT, "mode None does not .*there is 'nearest'"),
    "channels of a tuple": (lambda: fa.channel_max_abs((IMAGES,)), ARGUMENT, "tensor .*at least one channel; got a tuple"),
    "channels of an array": (lambda: fa.channel_max_abs(np.ones((1, 2))), ARGUMENT, "got a ndarray"),
    "channels of bools": (lambda: fa.channel_max_abs(IMAGES > 0), ARGUMENT, "numbers, and torch.bool has no absolute value"),
    "smooth, a bool": (lambda: fa.gaussian_smooth(IMAGES, True), ARGUMENT, "sigma is a number of pixels, 0 or more; got True"),
    "smooth, a tuple": (lambda: fa.gaussian_smooth(IMAGES, (1.0, 1.0)), ARGUMENT, r"sigma is a number of pixels.*got \(1.0, 1.0\)"),
    "smooth, an array": (lambda: fa.gaussian_smooth(IMAGES.numpy(), 1.0), ARGUMENT, "float tensor .*got a ndarray"),
}

COMPAT = {
    "captum, a class": (lambda: captum.Deconvolution(nn.ReLU), AssertionError, "must be an instance of torch.nn.Module"),
    "captum, a layer's number": (lambda: captum.LayerGradCam(CONV, 3).attribute(IMAGES, 0), AssertionError, "did not obtain any outputs.*a dotted path or a module; got 3"),
    "captum, no layers": (lambda: captum.LayerGradientXActivation(CONV, []).attribute(IMAGES, 0), ARGUMENT, "a list of them; got an empty list"),
    "captum, no input": (lambda: captum.Saliency(NET).attribute(None, 0), AssertionError, "must be a torch.Tensor or .*found: .*NoneType"),
    "captum, an input of another type": (lambda: captum.InputXGradient(NET).attribute((X, 3), 0), AssertionError, "Given input is not a torch.Tensor"),
    "captum, a lazy model": (lambda: captum.GuidedBackprop(lazy()).attribute(X, 0), ARGUMENT, "not initialised yet; run the model"),
    "captum, TorchScript": (lambda: captum.GuidedBackprop(scripted()).attribute(X, 0), SITE, "TorchScript.*Use the Python module"),
    "captum, a neuron of None": (lambda: captum.NeuronGuidedBackprop(CONV, CONV[1]).attribute(IMAGES, None), RuntimeError, "only for scalar outputs: a neuron is one number per example, and None selects"),
    "captum, the future": (lambda: captum.Saliency(NET).attribute_future(X), NotImplementedError, "not implemented for Saliency"),
    "captum, an attribution": (lambda: captum.Saliency(ATTR).attribute(X, 0), ARGUMENT, "attribution already"),
    "torchray, a layer's number": (lambda: torchray.saliency(CONV, IMAGES, 0, 3), AssertionError, "a layer is a name or a module; got 3"),
    "torchray, no such layer": (lambda: torchray.saliency(CONV, IMAGES, 0, "7"), AssertionError, "could not find the saliency layer '7'"),
    "torchray, float classes": (lambda: torchray.gradient(CONV, IMAGES, torch.ones(2)), AssertionError, "classes are of dtype torch.long; got torch.float32"),
    "torchray, resize by a word": (lambda: torchray.gradient(CONV, IMAGES, 0, resize="yes"), AssertionError, "resize must be True, False or a tuple"),
    "torchray, a context": (lambda: torchray.gradient(CONV, IMAGES, 0, context_builder=torchray.NullContext), AssertionError, "takes no context_builder; saliency does"),
    "torchray, a context of a module": (lambda: torchray.ReLUContext(nn.ReLU), AssertionError, "a class of torch.autograd.Function; got <class"),
    "torchray, a probe in the middle": (lambda: torchray.Probe(CONV, "middle"), AssertionError, "'input' or 'output'; got 'middle'"),
    "torchray, an output in a list": (lambda: torchray.get_backward_gradient([1.0], 0), AssertionError, "the output is a tensor; got list"),
    "torchray, pointing at a batch": (lambda: torchray.get_pointing_gradient(X, 1), AssertionError, r"the output is a tensor \[1, C\] or \[1, C, H, W\]"),
    "torchray, pointing at no class": (lambda: torchray.get_pointing_gradient(X[:1], 1.5), AssertionError, "a class is an int; got 1.5"),
    "torchray, less than no sigma": (lambda: torchray.imsmooth(IMAGES, -1), AssertionError, "a number of pixels, 0 or more; got -1"),
    "torchray, a map of no gradient": (lambda: torchray.gradient_to_saliency(IMAGES.clone()), ARGUMENT, "got a NoneType"),
}
# fmt: on
