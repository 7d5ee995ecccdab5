"""``output=`` of every method, and the arguments of the CAMs."""

import functools
import warnings
from collections import namedtuple

import pytest
import torch
from helpers import assert_close
from torch import nn

import funcattr as fa

X = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Named = namedtuple("Named", "logits hidden")


class Result:
    """An output object of a model library."""

    def __init__(self, logits, hidden):
        self.logits, self.hidden = logits, hidden


FORMS = {
    "dict": (lambda a, b: {"logits": a, "hidden": b}, "logits"),
    "object": (Result, "logits"),
    "named tuple": (Named, "logits"),
    "tuple": (lambda a, b: (a, b), 0),
    "last of a list": (lambda a, b: [b, a], -1),
    "function": (lambda a, b: {"logits": a, "hidden": b}, lambda out: out["logits"]),
}


class Net(nn.Module):
    def __init__(self, form):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
        self.form = form
        self.double()

    def forward(self, x):
        h = torch.relu(self.body(x) + 0.5)
        return self.form(self.head(h), (h * 0).sqrt())


METHODS = {
    "gradient": fa.gradient,
    "saliency": fa.saliency,
    "input_x_gradient": fa.input_x_gradient,
    "guided_backprop": fa.guided_backprop,
    "deconvnet": fa.deconvnet,
    "rule_backprop": lambda f, **how: fa.rule_backprop(f, lambda x, g: g / 2, **how),
    "integrated_gradients": functools.partial(fa.integrated_gradients, steps=3),
    "layer_gradient_x_activation": lambda f, **how: fa.layer_gradient_x_activation(
        f, "body", **how
    ),
    "grad_cam": lambda f, **how: fa.grad_cam(f, "body", **how),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_a_part_is_explained_as_if_it_were_all(method, form):
    make, part = FORMS[form]
    plain = METHODS[method](Net(lambda a, b: a))
    attr = METHODS[method](Net(make), output=part)
    wanted = plain(X, target=1)
    assert_close(attr(X, target=1), wanted)
    assert_close(fa.sweep(attr, X, targets=range(3)), fa.sweep(plain, X, targets=range(3)))
    assert_close(torch.vmap(lambda x: attr(x[None], target=1)[0])(X), wanted)
    out, explain = attr.linearize(X)
    assert_close(out, plain.linearize(X)[0])
    assert_close(explain([0, 2]), plain(X, target=[0, 2]))


def test_functional_models_layers_and_bundles():
    net, plain = Net(FORMS["dict"][0]), Net(lambda a, b: a)
    f, params = fa.make_functional(net)
    wanted = fa.guided_backprop(plain)(X, target=1)
    assert_close(fa.guided_backprop(f, argnums=1, output="logits")(params, X, target=1), wanted)
    both = fa.bundle(
        fa.guided_backprop(net, output="logits"),
        fa.layer_gradient_x_activation(net, "body", output="logits"),
        fa.gradient(lambda x: net(x)["logits"]),
    )
    guided, at_layer, gradient = both(X, target=1)
    assert_close(guided, wanted)
    assert_close(at_layer, fa.layer_gradient_x_activation(plain, "body")(X, target=1))
    assert_close(gradient, fa.gradient(plain)(X, target=1))
    assert_close(fa.gradient(fa.relu_rule(net), output="logits")(X, target=1), wanted)


def test_one_forward_pass_for_the_same_part():
    net, calls = Net(FORMS["dict"][0]), []
    net.body.register_forward_hook(lambda *_: calls.append(1))
    attrs = [m(net, output="logits") for m in (fa.gradient, fa.guided_backprop, fa.deconvnet)]
    fa.bundle(*attrs)(X, target=1)
    assert len(calls) == 1


@pytest.mark.compiled
def test_compiled():
    attr = fa.guided_backprop(Net(FORMS["dict"][0]), output="logits")
    compiled = torch.compile(attr, backend="aot_eager", fullgraph=True)
    assert_close(compiled(X, target=1), attr(X, target=1))


PICTURE = torch.randn(2, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def pictures():
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 3, 3), nn.GELU(), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4)
    return nn.Sequential(*layers).double()


def test_guided_grad_cam_by_other_rules_at_other_sites():
    net = pictures()
    cam = fa.interpolate(fa.grad_cam(net, "0")(PICTURE, target=1), (5, 5), "nearest")
    for rule, sites in [(fa.rules.deconvnet, "relu"), (fa.rules.guided, ("relu", "gelu"))]:
        wanted = cam * fa.rule_backprop(net, rule, sites=sites)(PICTURE, target=1)
        attr = fa.guided_grad_cam(net, "0", rule=rule, sites=sites)
        assert_close(attr(PICTURE, target=1), wanted)
    named = fa.guided_grad_cam(in_a_dict(net), "0", output="out")
    assert_close(named(PICTURE, target=1), fa.guided_grad_cam(net, "0")(PICTURE, target=1))


def in_a_dict(net):
    class Wrapped(nn.Sequential):
        def forward(self, x):
            return {"out": super().forward(x)}

    return Wrapped(*net)


class Tokens(nn.Module):
    """``[B, N, D]`` tokens, and their mean."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.head = nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 4)
        self.double()

    def forward(self, x):
        return self.head(self.norm(torch.tanh(self.embed(x))).mean(1))


TOKENS = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_grad_cam_over_tokens():
    net = Tokens()
    a = net.norm(torch.tanh(net.embed(TOKENS))).detach().requires_grad_()
    (g,) = torch.autograd.grad(net.head(a.mean(1))[:, 1].sum(), a)
    wanted = torch.relu((a * g.mean(1, keepdim=True)).sum(-1))[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attr = fa.grad_cam(net, "norm", channel_dim=-1)
        assert_close(attr(TOKENS, target=1), wanted)
        assert_close(fa.sweep(attr, TOKENS, targets=[1])[0], wanted)
        channels = fa.grad_cam(net, "norm", channel_dim=2, channel_sum=False, relu=False)
        assert_close(channels(TOKENS, target=1).sum(1, keepdim=True).relu(), wanted)
        assert fa.grad_cam(net, "norm", channel_dim=1)(TOKENS, target=1).shape == (2, 1, 8)


def test_a_layer_that_looks_like_tokens_draws_a_warning():
    with pytest.warns(UserWarning, match="channel_dim=-1"):
        fa.grad_cam(Tokens(), "norm")(TOKENS, target=1)
    signal = nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(40, 4)).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fa.grad_cam(signal, "0")(TOKENS.transpose(1, 2), target=1)


def test_tensors_of_indices_as_targets_of_neurons():
    attr = fa.gradient(fa.layer_output(pictures(), "0"))
    targets = torch.tensor([[0, 1, 1], [2, 0, 2], [1, 2, 0], [0, 0, 0]])
    wanted = torch.stack([attr(PICTURE, target=tuple(t)) for t in targets.tolist()])
    assert_close(fa.sweep(attr, PICTURE, targets=targets), wanted)
    chunks = fa.stream(attr, PICTURE, targets=targets, chunk_size=3)
    assert_close(torch.cat([maps for _, maps in chunks]), wanted)
    each = targets[:, None].expand(4, 2, 3)
    assert_close(fa.sweep(attr, PICTURE, targets=each), wanted)
    with pytest.raises(fa.TargetError, match="Pass"):
        fa.sweep(attr, torch.cat([PICTURE, PICTURE[:1]]), targets=targets)
