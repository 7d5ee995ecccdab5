"""Nothing silent: what cannot follow the rule is an error, or the right answer; and the report."""

import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import SINCE_2_3
from helpers import Tiny, assert_close, tiny, tiny_input
from oracle import rule_gradient
from torch import nn

import funcattr as fa

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


fuses = pytest.mark.skipif(not SINCE_2_3, reason="TorchScript itself fails under torch.func")


def net(*modules):
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), *modules)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TorchScript is deprecated, and still out there

    @torch.jit.script
    def scripted_function(x):
        return torch.relu(x) * 2

    OPAQUE = {
        "scripted": (torch.jit.script(net()), "the model"),
        "scripted among visible ones": (net(torch.jit.script(net())), "'2'"),
        "scripted ReLU6": (net(torch.jit.script(nn.ReLU6())), "'2' is TorchScript.*hardtanh"),
        "traced": (net(torch.jit.trace(net(), X)), "'2' is TorchScript and runs its own relu"),
    }


@pytest.mark.parametrize("name", OPAQUE)
def test_torchscript_is_an_error_that_names_the_place(name):
    model, place = OPAQUE[name]
    for attr in (fa.guided_backprop(model), fa.deconvnet(model)):
        with pytest.raises(fa.NoSiteError, match=place) as error:
            attr(X, target=1)
        assert "require_match=False" in str(error.value)
    assert any(not site.replaced and site.spelling == "TorchScript" for site in fa.sites(model, X))


@fuses
def test_a_scripted_function_is_an_error_among_visible_sites_too():
    for _ in range(3):  # TorchScript optimises after a few calls, and looks different then
        with pytest.raises(fa.NoSiteError, match="autograd's graph"):
            fa.guided_backprop(lambda x: scripted_function(torch.relu(x)))(X, target=1)


@fuses
def test_a_scripted_function_is_seen_under_vmap_and_behind_an_output_object():
    f = lambda x: scripted_function(torch.relu(x))
    with pytest.raises(fa.NoSiteError, match="autograd's graph"):
        torch.func.grad(lambda x: torch.vmap(fa.relu_rule(f))(x).sum())(X)
    attr = fa.guided_backprop(lambda x: SimpleNamespace(logits=f(x)))
    with pytest.raises(fa.NoSiteError, match="autograd's graph"):
        attr(X, target=lambda out: out.logits[:, 0])


def test_torchscript_without_a_relu_is_no_obstacle():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Linear(4, 4))
    attr = fa.guided_backprop(nn.Sequential(nn.ReLU(), scripted))
    assert attr(X, target=1).shape == X.shape


class Recurrent(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.inner = nn.ModuleDict({"cell": cell})
        self.relu = nn.ReLU()

    def forward(self, x):
        out = self.inner["cell"](self.relu(x)[:, None])
        return (out[0] if isinstance(out, tuple) else out).flatten(1)


@pytest.mark.parametrize(
    "cell",
    [nn.RNN(4, 4, nonlinearity="relu", batch_first=True), nn.RNNCell(4, 4, nonlinearity="relu")],
)
def test_recurrent_kernels(cell):
    model = Recurrent(cell)
    if isinstance(cell, nn.RNNCell):
        model.inner["cell"].register_forward_pre_hook(lambda m, args: (args[0][:, 0],))
    with pytest.raises(fa.NoSiteError, match=r"inner\.cell.*torch\.relu"):
        fa.guided_backprop(model)(X, target=1)
    fa.guided_backprop(model, require_match=False)(X, target=1)
    assert [(s.replaced, s.path) for s in fa.sites(model, X)] == [
        (True, "relu"),
        (False, "inner.cell"),
    ]


@pytest.mark.compiled
def test_compiled_submodules_give_the_right_answer():
    torch.compiler.reset()
    plain = net(net())
    expected = rule_gradient(plain, X, 1, "guided")
    wrapped = nn.Sequential(plain[0], plain[1], torch.compile(plain[2], backend="aot_eager"))
    assert_close(fa.guided_backprop(wrapped)(X, target=1), expected, 1e-6)
    assert_close(
        fa.guided_backprop(torch.compile(plain, backend="aot_eager"))(X, target=1), expected, 1e-6
    )
    plain[2].compile(backend="aot_eager")
    assert_close(fa.guided_backprop(plain)(X, target=1), expected, 1e-6)
    f, params = fa.make_functional(wrapped)
    assert_close(fa.guided_backprop(f, argnums=1)(params, X, target=1), expected, 1e-6)


@pytest.mark.compiled
@pytest.mark.parametrize("warm", [False, True])
def test_a_compiled_function_inside_gives_the_right_answer_or_an_error(warm):
    torch.compiler.reset()
    inner = torch.compile(lambda x: torch.relu(x) * 2, backend="aot_eager")
    if warm:
        inner(X)
        inner(X.clone().requires_grad_())
    model = lambda x: torch.relu(inner(x - 0.1))
    expected = rule_gradient(lambda x: torch.relu(torch.relu(x - 0.1) * 2), X, 1, "guided")
    try:
        maps = fa.guided_backprop(model)(X, target=1)
    except (fa.FuncattrError, RuntimeError):
        return
    assert_close(maps, expected, 1e-6)


def test_no_relu_at_all():
    with pytest.raises(fa.NoSiteError, match=r"it met gelu.*sites=") as error:
        fa.guided_backprop(nn.Sequential(nn.GELU()))(X, target=1)
    assert isinstance(error.value, ValueError)
    with pytest.raises(fa.NoSiteError, match="it met no activation"):
        fa.guided_backprop(nn.Linear(4, 4))(X, target=1)
    with pytest.raises(fa.NoSiteError, match="where the predicate holds"):
        fa.guided_backprop(net(), sites=lambda path: "nowhere" in path)(X, target=1)
    lin = nn.Linear(4, 4)
    maps = fa.guided_backprop(lin, require_match=False)(X, target=1)
    assert torch.equal(maps, fa.gradient(lin)(X, target=1))


@pytest.mark.compiled
def test_no_relu_at_all_when_compiled():
    torch.compiler.reset()
    compiled = torch.compile(fa.guided_backprop(nn.Linear(4, 4)), backend="aot_eager")
    with pytest.raises(fa.NoSiteError, match="it met no activation"):
        compiled(X, target=torch.tensor(1))


def test_plain_autograd_inside_of_the_function():
    lin = nn.Linear(4, 1)

    def force(x):
        x = x.clone().requires_grad_() if not x.requires_grad else x
        return torch.autograd.grad(lin(x).relu().sum(), x, create_graph=True)[0]

    with pytest.raises(fa.NoSiteError, match=r"torch\.func\.grad"):
        fa.guided_backprop(force)(X, target=1)


def test_create_graph_is_refused_where_it_would_be_wrong():
    model, x = tiny(), tiny_input().requires_grad_()
    out = fa.relu_rule(model)(x).sum()
    with pytest.raises(fa.FuncattrError, match="create_graph"):
        torch.autograd.grad(out, x, create_graph=True)
    standard = fa.relu_rule(model, fa.rules.standard)(x).sum()
    (first,) = torch.autograd.grad(standard, x, create_graph=True)
    (true,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    assert_close(
        torch.autograd.grad((first**2).sum(), x)[0], torch.autograd.grad((true**2).sum(), x)[0]
    )


def test_the_report():
    model = Tiny()
    report = fa.sites(model, tiny_input())
    assert [(s.activation, s.path, s.replaced) for s in report] == [
        ("relu", "relu", True),
        ("tanh", "", False),
        ("relu6", "", True),
        ("relu", "relu", True),
    ]
    assert report[0].spelling == "nn.functional.relu(inplace=True)"
    assert report[0].shape == (2, 3, 3, 3)
    assert len(report) == 4
    assert "3 of 4 activations follow the rule" in str(report)
    named = fa.sites(fa.relu_rule(model, sites="tanh"), tiny_input())
    assert [s.replaced for s in named] == [False, True, False, False]
    f, params = fa.make_functional(model)
    assert [s.path for s in fa.sites(f, params, tiny_input())] == [s.path for s in report]
    assert fa.sites(lambda x: F.relu(x), X)[0].path == ""


BAD = {
    "func": (lambda: fa.relu_rule(3), "func is a function"),
    "func of gradient": (lambda: fa.gradient("model"), "func is a function"),
    "rule": (lambda: fa.relu_rule(net(), "guided"), "rule is a function"),
    "sites": (lambda: fa.relu_rule(net(), sites="rleu"), "Did you mean 'relu'"),
    "sites list": (lambda: fa.relu_rule(net(), sites=["relu", 3]), "got 3"),
    "sites mapping": (lambda: fa.relu_rule(net(), sites={"relu": fa.rules.guided}), "from torch"),
    "predicate": (lambda: fa.relu_rule(torch.relu, sites=lambda p: True), "has none"),
    "no sites": (lambda: fa.relu_rule(net(), sites=None), "got None"),
    "function for sites": (lambda: fa.relu_rule(net(), sites=F.relu), "sites names activations"),
    "class for sites": (lambda: fa.relu_rule(net(), sites=nn.GELU), "sites names activations"),
    "class in sites": (lambda: fa.relu_rule(net(), sites={nn.ReLU: fa.rules.guided}), "from torch"),
    "in place": (
        lambda: fa.relu_rule(net(), sites={torch.Tensor.uniform_: fa.rules.guided}),
        "in place",
    ),
    "a class": (lambda: fa.guided_backprop(nn.ReLU), "instance"),
    "an attribution": (lambda: fa.gradient(fa.gradient(net())), "attribution already"),
    "report": (lambda: fa.sites(3), "func is a function"),
    "parameter shape": (
        lambda: fa.make_functional(net())[0]({"0.weight": X}, X),
        r"shape \(4, 4\); got \(2, 4\)",
    ),
    "parameter type": (lambda: fa.make_functional(net())[0]({"0.weight": 3}, X), "int"),
    "argnums type": (lambda: fa.gradient(net(), argnums="x"), "argnums is an int"),
    "argnums range": (lambda: fa.gradient(net(), argnums=1)(X, target=1), "1 positional"),
    "argnums twice": (lambda: fa.gradient(net(), argnums=(0, -1))(X, target=1), "once"),
    "integer input": (lambda: fa.gradient(net())(X.long(), target=1), r"torch\.int64"),
    "no tensor": (lambda: fa.gradient(net())([1.0], target=1), "a float"),
    "rule's shape": (
        lambda: fa.rule_backprop(net(), lambda x, g: g.sum())(X, target=1),
        r"shape of x, here \(2, 4\).*returned shape \(\), torch.float32",
    ),
    "rule's type": (lambda: fa.rule_backprop(net(), lambda x, g: None)(X, target=1), "None"),
    "parameters": (lambda: fa.make_functional(net())[0](X), "parameters first"),
    "parameter name": (
        lambda: fa.make_functional(net())[0]({"0.wieght": X}, X),
        "Did you mean '0.weight'",
    ),
    "model": (lambda: fa.make_functional(torch.relu), "pure already"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(fa.ArgumentError, match=message) as error:
        call()
    assert isinstance(error.value, ValueError)
    assert isinstance(error.value, TypeError)


class WithCompiled(nn.Module):
    """A part of it is wrapped by ``torch.compile``, and no module."""

    def __init__(self, way, wrap):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 4)
        if way == "attribute":
            self.middle = wrap(lambda x: torch.relu(x) * 2)
        elif way == "list":
            self.parts = [wrap(lambda x: torch.relu(x) * 2)]
            self.middle = lambda x: self.parts[0](x)
        elif way == "patched":
            self.middle = lambda x: torch.relu(x) * 2
            self.forward = wrap(self.forward)
        else:
            self.middle = lambda x: torch.relu(x) * 2

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


def aot_eager(f):
    return torch.compile(f, backend="aot_eager")


@pytest.mark.compiled
@pytest.mark.parametrize("way", ["attribute", "list", "patched", "class"])
def test_functions_that_are_compiled_are_seen_in_modules(way):
    torch.compiler.reset()
    expected = fa.guided_backprop(WithCompiled("none", None))(X, target=1)
    kind = WithCompiled
    if way == "class":

        class Decorated(WithCompiled):
            forward = aot_eager(WithCompiled.forward)

        kind = Decorated
    model = kind(way, aot_eager)
    assert_close(fa.guided_backprop(model)(X, target=1), expected)
    swept = fa.sweep(fa.guided_backprop(model), X, targets=[1, 2])
    assert_close(swept[0], expected)


@pytest.mark.compiled
def test_elsewhere_they_are_an_error_in_words():
    torch.compiler.reset()
    inner = aot_eager(torch.relu)
    with pytest.raises(fa.FuncattrError, match=r"compiles itself.*wrapped by torch\.compile"):
        fa.guided_backprop(lambda x: inner(x * 2))(X, target=1)
