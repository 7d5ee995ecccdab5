"""Nothing of the user's is changed, on success, error or interrupt; and models as they come."""

import functools
import gc
import itertools
import threading
import warnings
import weakref
from collections import OrderedDict, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SINCE_2_1
from helpers import (
    AT_A_LAYER,
    MEANS,
    METHODS,
    Tiny,
    assert_close,
    assert_unchanged,
    direction,
    snapshot,
    tiny,
    tiny_input,
)
from oracle import rule_gradient
from torch import nn
from torch.func import vmap

import funcattr as fa

X = tiny_input()


def guarded(model, call):
    before, x = snapshot(model), X.clone()
    call()
    assert_unchanged(model, before)
    assert torch.equal(x, X)
    assert not X.requires_grad
    assert X.grad is None


@pytest.mark.parametrize("method", METHODS)
def test_success(method):
    if method in ("grad_cam", "bundle") and not SINCE_2_1:
        pytest.skip("torch 2.0 does not show what hooks return; such a layer is refused there")
    model = tiny()
    model.head.weight.requires_grad_(False)
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    calls = []
    model.same.register_forward_hook(lambda *args: calls.append(len(args)))
    attr = METHODS[method](model)
    guarded(model, lambda: attr(X, target=1))
    guarded(model, lambda: fa.sweep(attr, X, targets=range(4), chunk_size=3))
    guarded(model, lambda: vmap(lambda t: attr(X, target=t))(torch.arange(4)))
    # The user's own hook runs, twice in each of the three forward passes (or more: a mean of maps).
    assert set(calls) == {3}
    assert len(calls) == 6 or (len(calls) > 6 and method in MEANS)


class Failing(Tiny):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        super().forward(x)
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), ValueError("no")])
def test_an_error_or_interrupt_in_the_model(error):
    model = Failing(error)
    with pytest.raises(type(error)):
        guarded(model, lambda: fa.guided_backprop(model)(X, target=1))
    assert_unchanged(model, snapshot(model))
    assert torch.equal(torch.relu(X), X * (X > 0))  # and no mode is left behind
    assert torch.overrides._get_current_function_mode() is None


def test_an_error_or_interrupt_in_the_rule():
    model = tiny()
    before = snapshot(model)

    def rule(x, g):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fa.rule_backprop(model, rule)(X, target=1)
    assert_unchanged(model, before)


def test_results_carry_no_graph_unless_asked():
    model = tiny()
    for name, method in METHODS.items():
        assert not method(model)(X, target=1).requires_grad
        if name not in AT_A_LAYER:
            assert not method(lambda x: model(x))(X, target=1).requires_grad
        assert not fa.sweep(method(model), X, targets=[1, 2]).requires_grad
        out, explain = method(model).linearize(X)
        assert not out.requires_grad
        assert not explain(1).requires_grad
        tracked = method(model)(X.clone().requires_grad_(), target=1)
        assert tracked.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_the_ruled_function_keeps_its_graph():
    model = tiny()
    fa.relu_rule(model)(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("functional", [False, True])
def test_batch_norm_in_train_mode_leaves_its_statistics_alone(functional):
    model = tiny().train()
    expected = rule_gradient(model, X, 1, "guided")
    if functional:
        f, params = fa.make_functional(model)
        attr = fa.guided_backprop(f, argnums=1)
        guarded(model, lambda: f(params, X))
        before = {name: t.clone() for name, t in params.items()}
        come = attr(params, X, target=1)
        assert all(torch.equal(before[name], t) for name, t in params.items())
    else:
        guarded(model, lambda: fa.relu_rule(model)(X))
        guarded(model, lambda: fa.guided_backprop(model)(X, target=1))
        come = fa.guided_backprop(model)(X, target=1)
    assert_close(come, expected)


def test_batch_norm_in_train_mode_under_vmap():
    model = tiny().train()
    attr = fa.guided_backprop(model)
    xs = torch.stack([X, X + 1])
    guarded(model, lambda: vmap(lambda x: attr(x, target=1))(xs))
    maps = vmap(lambda x: attr(x, target=1))(xs)
    assert_close(maps, torch.stack([attr(x, target=1) for x in xs]))
    norm = nn.Sequential(nn.InstanceNorm2d(2, track_running_stats=True), nn.ReLU()).double().train()
    attr = fa.gradient(norm)
    before = snapshot(norm)
    maps = vmap(lambda x: attr(x, target=1))(xs)
    assert_unchanged(norm, before)
    assert_close(maps, torch.stack([attr(x, target=1) for x in xs]))


def test_an_attribution_built_once_sees_what_the_model_is_now():
    model = tiny()
    attr = fa.guided_backprop(model)
    maps = [attr(X, target=1)]
    with torch.no_grad():
        model.head.weight.mul_(-1.5)
    maps.append(attr(X, target=1))
    model.same = nn.Conv2d(3, 3, 3, padding=1).double()
    maps.append(attr(X, target=1))
    model.train()
    maps.append(attr(X, target=1))
    for come, expected in zip(maps, [None] * 3 + [rule_gradient(model, X, 1, "guided")]):
        if expected is not None:
            assert_close(come, expected)
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(maps))
    model.eval()
    assert_close(attr(X, target=1), rule_gradient(model, X, 1, "guided"))


def test_eight_threads_with_their_own_parameters():
    model = tiny()
    f, params = fa.make_functional(model)
    attr = fa.guided_backprop(f, argnums=1)
    sets = [
        {n: p + i * 0.1 if p.is_floating_point() else p for n, p in params.items()}
        for i in range(8)
    ]
    alone = [attr(p, X, target=1) for p in sets]
    before, start = snapshot(model), threading.Barrier(8)

    def work(i):
        start.wait()
        return [attr(sets[i], X, target=1) for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        for expected, come in zip(alone, pool.map(work, range(8))):
            assert all(torch.equal(expected, c) for c in come)
    assert_unchanged(model, before)


class AsTheyCome(nn.Module):
    """Dict and tuple inputs, an integer input, kwargs, frozen parameters, a no_grad branch."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 6)
        self.lin = nn.Linear(6, 6)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.double()

    def forward(self, inputs, pair, ids=None, *, scale=1.0):
        x = inputs["x"] + pair[0] * pair[1]
        with torch.no_grad():
            gate = F.relu(self.lin(x))
        x = F.relu(self.lin(x)) + gate + F.relu(self.frozen(x))
        if ids is not None:
            x = x + self.embed(ids)
        return {"scores": scale * x, "ids": ids}


def test_models_as_they_come():
    model = AsTheyCome()
    g = torch.Generator().manual_seed(3)
    x, a, b = (torch.randn(2, 6, dtype=torch.float64, generator=g) for _ in range(3))
    ids = torch.tensor([1, 4])

    def target(out):
        return out["scores"][:, 2]

    def flat(x, a, b):
        return model({"x": x}, (a, b), ids, scale=2.0)

    expected = rule_gradient(flat, (x, a, b), target, "guided")
    attr = fa.guided_backprop(model, argnums=(0, 1))
    in_dict, in_pair = attr({"x": x, "n": 3}, (a, b), ids, scale=2.0, target=target)
    assert in_dict["n"] is None
    assert_close((in_dict["x"], *in_pair), expected)
    swept = fa.sweep(attr, {"x": x}, (a, b), ids, scale=2.0, targets=[target, target])
    assert_close(swept[0]["x"][1], expected[0])
    only = fa.saliency(lambda ids, x: model({"x": x}, (a, b), ids), argnums=-1)
    assert only(ids, x, target=target).shape == x.shape


class Unregistered(nn.Module):
    """Refers to its own modules and parameters in plain attributes as well."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.steps = [self.first, nn.functional.relu, {"then": self.second}]
        self.method = self.norm.forward
        self.seen = []
        self.double()

    def forward(self, x):
        self.seen.append(x)
        self.last = x
        x = self.steps[1](self.method(self.steps[0](x)))
        return self.steps[2]["then"](x)


def test_unregistered_references():
    model = Unregistered().train()
    x = torch.randn(3, 4, dtype=torch.float64)
    expected = rule_gradient(model, x, 1, "guided")
    before = snapshot(model)
    assert_close(fa.guided_backprop(model)(x, target=1), expected)
    assert_unchanged(model, before)
    assert model.seen == []
    f, _ = fa.make_functional(model)
    other = Unregistered().train()
    theirs = fa.make_functional(other)[1]
    assert_close(f(theirs, x), other(x))
    assert_close(
        fa.guided_backprop(f, argnums=1)(theirs, x, target=1), rule_gradient(other, x, 1, "guided")
    )


def test_recurrent_and_tied_parameters_are_replaced():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 3, batch_first=True)
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.double()

        def forward(self, x):
            return self.b(F.relu(self.a(self.lstm(x)[0][:, -1])))

    x = torch.randn(2, 5, 3, dtype=torch.float64)
    f, params = fa.make_functional(Tied())
    other = Tied()
    theirs = {n: p.detach() for n, p in other.named_parameters()}
    assert "b.weight" not in params
    assert_close(f(theirs, x), other(x))
    w, v = theirs["a.weight"], direction(theirs["a.weight"])
    numeric = (
        f({**theirs, "a.weight": w + 1e-6 * v}, x) - f({**theirs, "a.weight": w - 1e-6 * v}, x)
    ) / 2e-6
    assert_close(
        torch.func.jvp(lambda w: f({**theirs, "a.weight": w}, x), (w,), (v,))[1], numeric, 1e-6
    )


class Square(torch.autograd.Function):
    """Old style: no setup_context, so it cannot run under torch.func."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]


def test_old_style_functions_where_no_transform_is_active():
    lin = nn.Linear(4, 4).double()
    model = nn.Sequential(lin, nn.ReLU())
    f = lambda x: model(Square.apply(model(x)))
    x = torch.randn(2, 4, dtype=torch.float64)
    for rule, attr in [("guided", fa.guided_backprop(f)), ("standard", fa.gradient(f))]:
        expected = [rule_gradient(f, x, t, rule) for t in range(4)]
        assert_close(attr(x, target=2), expected[2])
        assert_close(fa.sweep(attr, x, targets=range(4), chunk_size=3), torch.stack(expected))
    assert lin.weight.grad is None
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.jacrev(lambda x: fa.gradient(f)(x, target=1))(x)


def test_checkpointed_models():
    from torch.utils.checkpoint import checkpoint

    lin = nn.Linear(4, 4).double()
    block = lambda x: torch.relu(lin(x))
    x = torch.randn(2, 4, dtype=torch.float64)
    rule = lambda x, g: torch.relu(g * x)  # needs the input itself, not just its sign
    attr = fa.rule_backprop(lambda x: checkpoint(block, torch.relu(x), use_reentrant=False), rule)
    plain = lambda x: block(torch.relu(x))
    assert_close(attr(x, target=1), rule_gradient(plain, x, 1, rule))


# Before torch 2.8 there is no torch.vmap over hooks of what autograd saves.
@pytest.mark.filterwarnings("ignore:the targets are explained one by one.*saved tensor hooks")
@pytest.mark.skipif(torch.__version__ < "2.1", reason="torch.vmap refuses saved-tensor hooks")
def test_checkpointed_pictures():
    from torch.utils.checkpoint import checkpoint

    model = tiny()
    attr = fa.guided_backprop(lambda x: checkpoint(model, torch.relu(x), use_reentrant=False))
    plain = fa.guided_backprop(lambda x: model(torch.relu(x)))
    assert_close(attr(X, target=1), plain(X, target=1))
    assert_close(fa.sweep(attr, X, targets=range(3)), fa.sweep(plain, X, targets=range(3)))


def checkpointed(block):
    from torch.utils.checkpoint import checkpoint

    return lambda x: checkpoint(block, x, use_reentrant=False)


def test_checkpoints_repeat_what_ran():
    conv, norm, relu = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU()
    model = nn.Sequential(conv, norm, relu, nn.Flatten()).double().eval()
    expected = fa.guided_backprop(model)(X, target=1)
    across = fa.guided_backprop(lambda x: checkpointed(norm)(conv(x)).relu().flatten(1))
    assert_close(across(X, target=1), expected)
    own = nn.Sequential(nn.Conv2d(2, 3, 1).double(), nn.ReLU())
    own.forward = lambda x: 2 * nn.Sequential.forward(own, x).relu()  # as libraries wrap modules
    whole = nn.Sequential(own, nn.Flatten())
    expected = fa.guided_backprop(whole)(X, target=1)
    forward = own.forward
    own.forward = lambda x: checkpointed(forward)(x)
    assert_close(fa.guided_backprop(whole)(X, target=1), expected)


class Odd(nn.Module):
    """Attributes that are tensors and arrays, sizes that are numpy's, statistics that are read."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, stride=np.int64(1), padding=np.int64(1)).double()
        self.norm = nn.BatchNorm2d(2, momentum=1.0).double()
        self.mean, self.scale = torch.zeros(2, dtype=torch.float64), np.ones(3)

    def forward(self, x):
        x = self.norm(self.conv(x) - self.mean[:, None, None])
        return torch.relu(x + self.norm.running_mean[:, None, None]).flatten(1) * self.scale.sum()


def test_odd_attributes_and_sizes():
    model = Odd().train()
    before = snapshot(model)
    ruled = fa.relu_rule(model)(X)
    assert_unchanged(model, before)
    assert torch.equal(ruled, Odd.forward(model, X))
    assert fa.guided_backprop(model)(X, target=0).shape == X.shape


class Marked(torch.Tensor):
    """A subclass that does nothing."""


def test_subclasses_and_what_is_done_to_them_in_place():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten())
    attr = fa.guided_backprop(nn.Sequential(model, nn.Hardtanh(0, 1, inplace=True)).double())
    marked = attr(X.as_subclass(Marked), target=0)
    assert_close(marked.as_subclass(torch.Tensor), attr(X, target=0))


def test_tensors_that_left_a_transform():
    def f(x):
        left = []
        torch.func.vjp(lambda x: left.append(x) or x.sum(), x)
        return torch.relu(left[0]) ** 2

    x = torch.ones(1, 3, dtype=torch.float64)
    assert fa.guided_backprop(f)(x, target=1).tolist() == [[0, 2, 0]]


def test_dropout_draws_from_the_generator_as_the_model_does():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5)).train()
    x = torch.randn(2, 8)
    torch.manual_seed(5)
    expected = model(x)
    torch.manual_seed(5)
    assert torch.equal(fa.relu_rule(model)(x), expected)


def test_explain_stays_what_it_is_when_the_input_changes():
    x = X.clone()
    for method in METHODS.values():
        _, explain = method(tiny()).linearize(x)
        before = explain(1)
        x.zero_()
        assert torch.equal(explain(1), before)
        x.copy_(X)


class Indirect(nn.Module):
    """Reaches its submodule in ways that a module tree does not know."""

    def __init__(self, how):
        super().__init__()
        self.lin = lin = nn.Linear(4, 4).double()
        self.also = {
            "closure": lambda x: lin(x),
            "ordered": OrderedDict(run=lin),
            "object": SimpleNamespace(run=lin),
            "queue": deque([lin], maxlen=1),
            "partial": functools.partial(F.linear, weight=lin.weight),
            "method": lin.forward,
        }[how]
        if how == "partial":
            self.lin.bias = None

    def forward(self, x):
        f = self.also
        f = f["run"] if isinstance(f, dict) else getattr(f, "run", f)
        return F.relu((f[0] if isinstance(f, deque) else f)(x))


@pytest.mark.parametrize("how", ["closure", "ordered", "object", "queue", "partial", "method"])
def test_parameters_reach_modules_that_are_referred_to_indirectly(how):
    model, other = Indirect(how), Indirect(how)
    f, params = fa.make_functional(model)
    theirs = {name: p.detach() for name, p in other.named_parameters()}
    x = torch.randn(2, 4, dtype=torch.float64)
    assert_close(f(theirs, x), other(x))
    slope = torch.func.grad(lambda p: f(p, x).sum())(params)["lin.weight"]
    bias = 0 if how == "partial" else params["lin.bias"]
    alive = (F.linear(x, params["lin.weight"]) + bias > 0).double()
    assert_close(slope, alive.T @ x)


def test_a_hook_that_is_a_method_of_the_model_sees_the_parameters():
    class Hooked(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 4).double()
            self.lin.register_forward_hook(self.twice)

        def twice(self, module, args, out):
            return out + self.lin.bias

        def forward(self, x):
            return F.relu(self.lin(x))

    model, other = Hooked(), Hooked()
    f, _ = fa.make_functional(model)
    x = torch.randn(2, 4, dtype=torch.float64)
    assert_close(f({n: p.detach() for n, p in other.named_parameters()}, x), other(x))


class Writing(nn.Module):
    """Writes to itself in every way, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4).double()
        self.register_buffer("count", torch.zeros(()))
        self.plain = torch.zeros(())
        self.queue, self.logs = deque(maxlen=3), defaultdict(list)

    def forward(self, x):
        self.count.add_(1)
        self.plain += 1
        self.queue.append(x)
        self.logs["x"].append(x)
        self.last = x
        return F.relu(self.lin(x))


def test_a_model_that_writes_to_itself():
    model = Writing().eval()
    f, params = fa.make_functional(model, buffers=True)
    x = torch.randn(2, 4, dtype=torch.float64)
    expected = rule_gradient(model, x, 1, "guided")
    before = snapshot(model)
    assert_close(fa.guided_backprop(model)(x, target=1), expected)
    f(params, x), fa.relu_rule(model)(x), fa.sites(model, x)
    assert_close(fa.guided_backprop(f, argnums=1)(params, x, target=1), expected)
    assert_unchanged(model, before)
    assert float(model.plain) == 0
    assert len(model.queue) == len(model.logs) == 0
    assert float(params["count"]) == 0


def test_no_activation_waits_for_the_collector():
    model, alive = Writing().eval(), []
    model.lin.register_forward_hook(lambda m, args, out: alive.append(weakref.ref(out)))
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            x = torch.randn(2, 4, dtype=torch.float64)
            fa.guided_backprop(model)(x, target=1)
            alive.append(weakref.ref(x))
            del x
        assert len(alive) == 6
        assert all(ref() is None for ref in alive)
    finally:
        gc.enable()


def test_a_lazy_model_is_refused_and_stays_as_it_was():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.LazyLinear(4), nn.ReLU())
    with pytest.raises(fa.ArgumentError, match="run the model once"):
        fa.guided_backprop(model)(torch.randn(2, 3), target=0)
    assert model(torch.randn(2, 3)).shape == (2, 4)
    assert fa.guided_backprop(model)(torch.randn(2, 3), target=0).shape == (2, 3)


def test_torchscript_parameters_cannot_be_replaced():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.script(nn.Linear(3, 2))
    f, params = fa.make_functional(model)
    with pytest.raises(fa.ArgumentError, match="TorchScript"):
        f(params, torch.ones(1, 3))


def test_an_old_style_function_and_a_tracked_input():
    f = lambda x: torch.sin(torch.relu(Square.apply(x)))
    x = torch.randn(2, 4, dtype=torch.float64).requires_grad_()
    attr = fa.guided_backprop(f)
    (slope,) = torch.autograd.grad(attr(x, target=1).sum(), x)
    eps = 1e-6 * torch.eye(4, dtype=torch.float64)[1]
    numeric = (attr(x + eps, target=1) - attr(x - eps, target=1)) / 2e-6
    assert_close(slope, numeric, 1e-6)


def test_an_old_style_function_draws_random_numbers_once():
    f = lambda x: torch.relu(Square.apply(F.dropout(x, 0.5)))
    x = torch.randn(2, 40)
    torch.manual_seed(3)
    expected = f(x)
    torch.manual_seed(3)
    assert torch.equal(fa.gradient(f).linearize(x)[0], expected)
