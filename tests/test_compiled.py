"""torch.compile: no graph break, as few compilations as promised, code equal to eager."""

import os
import subprocess
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from helpers import METHODS, assert_close, doubled, tiny, tiny_input

import funcattr as fa

pytestmark = pytest.mark.compiled
X = tiny_input()


@pytest.fixture(autouse=True)
def _reset():
    torch.compiler.reset()


def counting(f):
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    return torch.compile(f, fullgraph=True, backend=counter), counter


@pytest.mark.parametrize("method", METHODS)
def test_one_compilation_for_all_targets_and_values(method):
    compiled, counter = counting(METHODS[method](tiny()))
    for t in range(4):
        compiled(X + t, target=torch.tensor(t))
    assert counter.frame_count == 1


def test_two_compilations_for_all_targets_as_ints():
    attr = fa.guided_backprop(tiny())
    compiled, counter = counting(attr)
    for t in range(4):
        assert_close(compiled(X, target=t), attr(X, target=t), 1e-12)
    assert counter.frame_count <= 2


def test_it_sees_what_the_model_is_now():
    model = tiny()
    attr = fa.guided_backprop(model)
    compiled = torch.compile(attr, fullgraph=True, backend="aot_eager")
    compiled(X, target=torch.tensor(1))
    with torch.no_grad():
        model.head.weight.mul_(-1.5)
    assert_close(compiled(X, target=torch.tensor(1)), attr(X, target=1), 1e-10)
    model.train()
    assert_close(compiled(X, target=torch.tensor(1)), attr(X, target=1), 1e-10)
    assert int(model.norm.num_batches_tracked) == 0


@pytest.mark.parametrize(
    "method", ["guided_backprop", "guided_grad_cam", "layer_input", "epsilon", "rule_backprop"]
)
def test_one_compilation_for_a_whole_sweep(monkeypatch, method):
    from torch._dynamo.testing import CompileCounter

    counter, real = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **kwargs: real(f, backend=counter, **kwargs))
    attr = METHODS[method](tiny())
    expected = torch.stack([attr(X, target=t) for t in (0, 1, 2, 3, 1)])
    for x in (X, X + 1, X):
        maps = fa.sweep(attr, x, targets=[0, 1, 2, 3, 1], chunk_size=2, compile=True)
    assert_close(maps, expected, 1e-10)
    assert counter.frame_count == 1


def test_functions_that_act_in_place_are_seen():
    def f(x):
        a, b, c = torch.relu_(x + 1), F.relu_(x - 1), F.hardtanh_(x * 2, 0.0, 1.0)
        return torch.relu(a.sin() + b.cos() + c.exp())

    x = torch.randn(2, 4, dtype=torch.float64)
    attr = fa.guided_backprop(f)
    compiled = torch.compile(lambda x, t: attr(x, target=t), backend="eager", fullgraph=True)
    for t in range(4):
        assert_close(compiled(x, torch.tensor(t)), attr(x, target=t))


def test_what_a_model_overwrites_after_it_was_saved():
    def f(x):
        y = 1 * x
        z = torch.relu(y)
        y.neg_()
        return z * 3 + y.mean() * 0

    x = torch.randn(2, 4, dtype=torch.float64)
    swept = fa.sweep(fa.guided_backprop(f), x, targets=range(4), compile=True)
    expected = torch.diag_embed(3.0 * (x > 0)).transpose(0, 1)
    assert_close(swept, expected.double())


def test_the_code_of_a_sweep():
    """With the default backend, which writes code."""
    attr = fa.guided_backprop(tiny())
    expected = torch.stack([attr(X, target=t) for t in range(4)])
    assert_close(fa.sweep(attr, X, targets=range(4), chunk_size=3, compile=True), expected, 1e-10)
    with pytest.raises(fa.TargetError, match=r"lies in -4\.\.3; got 7"):
        fa.sweep(attr, X, targets=[0, 1, 7], chunk_size=3, compile=True)
    with pytest.raises(fa.ArgumentError, match="callables"):
        fa.sweep(attr, X, targets=[lambda o: o[:, 0]], compile=True)


def test_rules_made_inside_of_the_compiled_function():
    model = tiny()
    f = lambda x: fa.deconvnet(model)(x, target=1) - fa.guided_backprop(model)(x, target=1)
    assert_close(torch.compile(f, fullgraph=True, backend="aot_eager")(X), f(X), 1e-10)
    own = lambda x: fa.rule_backprop(model, doubled)(x, target=1)
    assert_close(torch.compile(own, fullgraph=True, backend="aot_eager")(X), own(X), 1e-10)


def test_a_predicate_on_paths():
    attr = fa.guided_backprop(tiny(), sites=lambda path: path == "relu")
    compiled = torch.compile(attr, fullgraph=True, backend="aot_eager")
    assert_close(compiled(X, target=torch.tensor(1)), attr(X, target=1), 1e-10)


def test_two_rules_do_not_share_code():
    """Rules go into a graph by number; graphs that differ in nothing else must stay apart."""
    model = tiny()
    for rule in (fa.rules.guided, fa.rules.deconvnet, doubled, lambda x, g: 3 * g):
        attr = fa.rule_backprop(model, rule)
        compiled = torch.compile(attr, fullgraph=True, backend="aot_eager")
        assert_close(compiled(X, target=torch.tensor(1)), attr(X, target=1), 1e-10)


def test_a_forward_of_the_instance_stays():
    model = tiny()
    model.head.forward = types.MethodType(
        lambda self, x: x.new_ones(len(x), 4) * x.sum(), model.head
    )
    before = model(X)
    attr = fa.guided_backprop(model, sites=lambda path: path == "relu")
    expected = attr(X, target=1)
    compiled = torch.compile(attr, fullgraph=True, backend="aot_eager")
    assert_close(compiled(X, target=torch.tensor(1)), expected, 1e-10)
    assert torch.equal(model(X), before)


def test_a_compiled_sweep_has_no_forward_pass_in_its_graph(monkeypatch):
    from torch._dynamo.backends.common import aot_autograd

    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(inplace=True),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(4, 4, 3, padding=1),
        torch.nn.ReLU6(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 10),
    ).eval()
    graphs, calls, real = [], [], torch.compile

    def keep(graph, inputs):
        graphs.append([node.target for node in graph.graph.nodes])
        return graph

    backend = aot_autograd(fw_compiler=keep)
    monkeypatch.setattr(torch, "compile", lambda f, **kwargs: real(f, backend=backend, **kwargs))
    attr, x = fa.guided_backprop(model), torch.randn(2, 3, 13, 13)
    expected = fa.sweep(attr, x, targets=range(10))
    model[0].register_forward_hook(lambda *_: calls.append(torch.compiler.is_compiling()))
    for chunk_size in 4, "auto":
        calls.clear()
        maps = fa.sweep(attr, x, targets=range(10), chunk_size=chunk_size, compile=True)
        assert_close(maps, expected, 1e-6)
        assert calls.count(False) == 1
    (graph, *_) = graphs
    assert graph.count(torch.ops.aten.convolution.default) == 2  # those of the backward pass
    assert not any("batch_norm" in str(target) for target in graph)


def test_a_mode_of_the_compiler_s_has_code_of_its_own(monkeypatch):
    made, real = [], torch.compile

    def noted(f, **kwargs):
        made.append(kwargs["mode"])
        return real(f, backend="aot_eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", noted)
    attr = fa.guided_backprop(torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU()))
    x, expected = torch.randn(2, 4), None
    for compile in False, True, "reduce-overhead", True, "reduce-overhead":
        maps = fa.sweep(attr, x, targets=range(6), chunk_size=4, compile=compile)
        expected = maps if expected is None else expected
        assert_close(maps, expected, 1e-6)
    assert made == [None, "reduce-overhead"]


def test_a_model_that_draws_numbers_is_compiled_whole():
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Dropout(0.5))
    attr, x = fa.guided_backprop(model.train()), torch.randn(2, 3)
    maps = fa.sweep(attr, x, targets=range(8), chunk_size=3, compile=True)
    weight = model[0].weight.detach()[:, None].expand_as(maps)
    assert_close(maps.where(maps == 0, maps / 2 / weight), (maps != 0).float(), 1e-6)


def test_a_model_that_is_another_one_when_compiled():
    def f(x):
        x = torch.relu(x)
        return torch.relu(x - 1) if torch.compiler.is_compiling() else x

    with pytest.raises(Exception, match="the same operations"):
        fa.sweep(fa.guided_backprop(f), X.flatten(1), targets=range(3), compile=True)


def test_batch_sizes_are_compiled_a_few_times_not_each(monkeypatch):
    from torch._dynamo.testing import CompileCounterWithBackend

    counter, real = CompileCounterWithBackend("aot_eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **kwargs: real(f, backend=counter, **kwargs))
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 6),
    )
    attr = fa.guided_backprop(model.eval())
    counts = []
    for batch in range(2, 9):
        x = torch.randn(batch, 3, 17, 17)
        maps = fa.sweep(attr, x, targets=range(6), chunk_size=4, compile=True)
        assert_close(maps, fa.sweep(attr, x, targets=range(6)), 1e-5)
        counts.append(counter.frame_count)
    assert counts[-1] == counts[2] <= 3


SECOND = """
import torch, funcattr as fa
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
fa.sweep(fa.guided_backprop(model), torch.ones(2, 4), targets=range(3), compile=True)
found = torch._dynamo.utils.counters["inductor"]
print(found["fxgraph_cache_hit"], found["fxgraph_cache_miss"])
"""


def test_a_second_process_starts_from_the_cache(tmp_path):
    where = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    run = lambda: subprocess.run(
        [sys.executable, "-c", SECOND], env=where, capture_output=True, text=True, check=True
    ).stdout.split()
    (_, misses), (hits, none) = run(), run()
    assert int(misses) > 0 and int(hits) == int(misses) and int(none) == 0
