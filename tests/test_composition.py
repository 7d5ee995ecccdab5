"""Every method under every transform, eager and compiled: the derivative of a map is the true
derivative of the function that computes it (finite differences), and a batched map is the loop."""

import pytest
import torch
from conftest import SINCE_2_3
from helpers import METHODS, Tiny, assert_close, direction, tiny, tiny_input
from oracle import numeric_derivative
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._pytree import tree_flatten

import funcattr as fa

X = tiny_input()
V = direction(X, 2)
TARGETS = torch.arange(4)


def dot(map_):
    """A number made of a map: its product with a fixed direction of its shape."""
    return (map_ * direction(map_, 3)).sum()


def along(jacobian, v):
    return torch.tensordot(jacobian, v, v.dim())


def energy(f):
    return lambda x: (f(x) ** 2).sum()


# Transforms of a map f: X -> map, as (transformed f, what it equals), each a function of x.
# `numeric` in the second place stands for the directional derivative of f along V.
DERIVATIVES = {
    "jvp": lambda f: lambda x: jvp(f, (x,), (V,))[1],
    "jacfwd": lambda f: lambda x: along(jacfwd(f)(x), V),
    "jacrev": lambda f: lambda x: along(jacrev(f)(x), V),
    "vjp": lambda f: lambda x: (vjp(f, x)[1](direction(f(x), 3))[0] * V).sum(),
    "grad": lambda f: lambda x: (grad(lambda x: dot(f(x)))(x) * V).sum(),
    "grad_of_vmap": lambda f: (
        lambda x: (grad(lambda x: dot(vmap(lambda x: f(x[None])[0])(x)))(x) * V).sum()
    ),
}
SCALAR = ("vjp", "grad", "grad_of_vmap")  # dot(derivative), not the derivative itself


def numeric(f, x, name):
    derivative = numeric_derivative(f, x, V)
    return dot(derivative) if name in SCALAR else derivative


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    return METHODS[request.param]


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_by_input(method, name):
    attr = method(tiny())

    def f(x):
        return attr(x, target=1)

    assert_close(DERIVATIVES[name](f)(X), numeric(f, X, name), 1e-6)


def test_second_derivatives(method):
    attr = method(tiny())
    f = energy(lambda x: attr(x, target=1))
    assert_close(along(hessian(f)(X), V), numeric_derivative(grad(f), X, V), 1e-5)


def test_third_derivative(method):
    attr = method(tiny())

    def f(x):
        return energy(lambda x: attr(x, target=1))(x)

    def second(x):
        return dot(grad(lambda x: (grad(f)(x) * V).sum())(x))

    assert_close((grad(second)(X) * V).sum(), numeric_derivative(second, X, V), 1e-4)


def test_plain_backward_outside(method):
    model = tiny()
    attr = method(model)
    x = X.clone().requires_grad_()
    dot(attr(x, target=1)).backward()
    assert_close(
        (x.grad * V).sum(), dot(numeric_derivative(lambda x: attr(x, target=1), X, V)), 1e-6
    )
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("outer", ["grad", "jacfwd", "backward"])
def test_derivatives_by_parameters(method, outer):
    f, params = fa.make_functional(tiny())
    attr = method(f, argnums=1)
    name = "same.weight"

    def map_of(w):
        return attr({**params, name: w}, X, target=1)

    w, v = params[name], direction(params[name])
    expected = dot(numeric_derivative(map_of, w, v))
    if outer == "grad":
        came = (grad(lambda w: dot(map_of(w)))(w) * v).sum()
    elif outer == "jacfwd":
        came = dot(along(jacfwd(map_of)(w), v))
    else:
        w = w.clone().requires_grad_()
        dot(map_of(w)).backward()
        came = (w.grad * v).sum()
    assert_close(came, expected, 1e-6)


def looped_targets(attr, x):
    return torch.stack([attr(x, target=int(t)) for t in TARGETS])


BATCHED = {
    "targets": (lambda a: lambda x: vmap(lambda t: a(x, target=t))(TARGETS), looped_targets),
    "linearized": (lambda a: lambda x: vmap(a.linearize(x)[1])(TARGETS), looped_targets),
    "swept": (lambda a: lambda x: fa.sweep(a, x, targets=TARGETS, chunk_size=3), looped_targets),
    "inputs": (
        lambda a: lambda x: vmap(lambda x: a(x[None], target=2))(x),
        lambda a, x: torch.stack([a(x[i : i + 1], target=2) for i in range(len(x))]),
    ),
    "inputs_and_targets": (
        lambda a: (
            lambda x: vmap(lambda t: vmap(lambda x: a(x[None], target=t))(x), randomness="same")(
                TARGETS
            )
        ),
        lambda a, x: looped_targets(a, x).unsqueeze(2),
    ),
    "per_example_targets": (
        lambda a: lambda x: vmap(lambda t: a(x, target=t))(torch.tensor([[0, 1], [3, 2]])),
        lambda a, x: torch.stack([a(x, target=[0, 1]), a(x, target=[3, 2])]),
    ),
}


@pytest.mark.parametrize("name", BATCHED)
def test_batches_equal_the_loop(method, name):
    attr = method(tiny())
    transformed, loop = BATCHED[name]
    assert_close(transformed(attr)(X), loop(attr, X), 1e-12)


def test_an_ensemble_of_stacked_parameters_equals_the_loop(method):
    models = [tiny(seed) for seed in range(3)]
    f, _ = fa.make_functional(models[0], buffers=True)
    stacked = {
        name: torch.stack([fa.make_functional(m, buffers=True)[1][name] for m in models])
        for name in fa.make_functional(models[0], buffers=True)[1]
    }
    attr = method(f, argnums=1)
    maps = vmap(lambda params: attr(params, X, target=1))(stacked)
    assert_close(maps, torch.stack([method(m)(X, target=1) for m in models]), 1e-12)


def test_make_fx(method):
    from torch.fx.experimental.proxy_tensor import make_fx

    attr = method(tiny())
    graph = make_fx(lambda x: attr(x, target=1))(X)
    assert_close(graph(X + 0.1), attr(X + 0.1, target=1), 1e-12)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_modes(method, context):
    attr = method(tiny())
    expected = attr(X, target=1)
    with context():
        came = attr(X.clone(), target=1)  # in inference mode, an inference tensor
        swept = fa.sweep(attr, X.clone(), targets=[1])
    assert torch.equal(came, expected)
    assert_close(swept[0], expected, 1e-12)
    assert not came.requires_grad
    with torch.inference_mode():
        inference = X.clone()
    assert torch.equal(attr(inference, target=1), expected)


def test_autocast(method):
    model = Tiny().float()
    model.norm = torch.nn.Identity()
    x = X.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        came = method(model)(x, target=1)
        swept = fa.sweep(method(model), x, targets=[1, 2])
    assert came.dtype in (torch.float32, torch.bfloat16)  # at a layer, that of its activation
    assert_close(swept[0].float(), came.float(), 1e-2)
    assert not torch.equal(came.float(), method(model)(x, target=1))


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")
def test_linearize_of_torch(method):
    if not SINCE_2_3:
        pytest.skip("torch.func.linearize of a vjp came later")
    # It refuses every write in place, of funcattr or without it; the model's only one goes.
    model = tiny()
    model.relu.inplace = False
    attr = method(model)

    def f(x):
        return attr(x, target=1)

    out, tangent = torch.func.linearize(f, X)
    assert_close(out, f(X), 1e-12)
    assert_close(tangent(V), numeric_derivative(f, X, V), 1e-6)


# name -> attr -> (function to compile, its arguments)
COMPILED = {
    "call": lambda a: (lambda x, t: a(x, target=t), (X, torch.tensor(1))),
    **{
        f"batch_{name}": lambda a, make=make: (make(a), (X,))
        for name, (make, _) in BATCHED.items()
        if name in ("targets", "inputs", "swept")
    },
    **{
        name: lambda a, make=make: (make(lambda x: a(x, target=1)), (X,))
        for name, make in DERIVATIVES.items()
        if name in ("jvp", "jacfwd", "jacrev", "grad")
    },
    "hessian": lambda a: (
        lambda x: along(hessian(energy(lambda x: a(x, target=1)))(x), V),
        (X,),
    ),
}


@pytest.mark.compiled
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_equals_eager(method, name):
    torch.compiler.reset()
    f, args = COMPILED[name](method(tiny()))
    # aot_eager traces forward and backward as inductor does, and leaves out only the code.
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    assert_close(compiled(*args), f(*args), 1e-10)


@pytest.mark.compiled
def test_compiled_by_parameters(method):
    torch.compiler.reset()
    f, params = fa.make_functional(tiny())
    attr = method(f, argnums=1)

    def by_weight(w, x):
        return grad(lambda w: (attr({"same.weight": w}, x, target=1) ** 2).sum())(w)

    compiled = torch.compile(by_weight, fullgraph=True, backend="aot_eager")
    w = params["same.weight"]
    assert_close(compiled(w, X), by_weight(w, X), 1e-10)


@pytest.mark.compiled
def test_compiled_backward_outside(method):
    torch.compiler.reset()
    attr = method(tiny())
    compiled = torch.compile(attr, fullgraph=True, backend="aot_eager")
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    dot(compiled(x, target=torch.tensor(1))).backward()
    dot(attr(y, target=1)).backward()
    assert_close(x.grad, y.grad, 1e-10)


def test_a_map_is_a_tensor_and_not_zero(method):
    """The tables above would pass on empty trees, and on zeros."""
    maps = method(tiny())(X, target=1)
    assert len(tree_flatten(maps)[0]) == 1
    assert len(maps) == len(X)
    assert maps.abs().sum() > 0


def test_a_site_that_the_map_does_not_differentiate_has_its_true_derivative():
    """Weights that are made positive by a ReLU: only the outer level differentiates it."""
    attr = fa.guided_backprop(lambda x, w: (x * torch.relu(w)).relu())
    x, w = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0, 4.0]]).double()
    f = lambda w: -attr(x, w, target=0).sum()
    expected = torch.tensor([[-1.0, 0.0]]).double()
    assert torch.equal(grad(f)(w), expected)
    assert torch.equal(jacfwd(f)(w), expected)
    tracked = w.clone().requires_grad_()
    f(tracked).backward()
    assert torch.equal(tracked.grad, expected)


def test_a_hashless_rule():
    class Rule:
        __hash__ = None

        def __call__(self, x, g):
            return 2 * g * (x > 0)

    ours = fa.rule_backprop(tiny(), Rule())(X, target=1)
    assert torch.equal(ours, METHODS["rule_backprop"](tiny())(X, target=1))


@pytest.mark.parametrize("how", ["call", "target", "linearized", "swept"])
def test_what_an_attribution_closes_over_is_differentiated(how):
    """Also by another one, which runs in plain autograd where it can."""
    model, x = tiny(), tiny_input()
    attr = fa.guided_backprop(model)
    _, explain = attr.linearize(x)

    def f(z):
        scaled = lambda out: (out * z).sum(1)
        if how == "call":
            maps = fa.guided_backprop(lambda x: (model(x) * z).sum(1, keepdim=True))(x, target=0)
        elif how == "target":
            maps = attr(x, target=scaled)
        elif how == "linearized":
            maps = explain(scaled)
        else:
            maps = fa.sweep(attr, x, targets=[scaled])[0]
        return maps.pow(2).sum((1, 2, 3))

    z = torch.randn(2, 4, dtype=torch.float64)
    ours = fa.gradient(f)(z)
    assert ours.any()
    eps, v = 1e-6, torch.randn_like(z)
    numeric = (f(z + eps * v).sum() - f(z - eps * v).sum()) / (2 * eps)
    assert_close((ours * v).sum(), numeric, 1e-6)
