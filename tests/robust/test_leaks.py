"""Thousands of calls, and a thousand attributions: nothing is kept."""

import functools
import gc
import importlib
import pkgutil
import threading
import weakref

import pytest
import torch
from helpers import METHODS, tiny, tiny_input
from torch import nn

import funcattr as fa

X = tiny_input()
NOT_IMPORTED = {"funcattr.core.compiler"}  # imports the compiler


@pytest.fixture(autouse=True)
def _only_what_is_new():
    """What is there before a test is not looked at again, which is a lot."""
    kept()  # imports what is not yet
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def modules():
    names = [m.name for m in pkgutil.walk_packages(fa.__path__, "funcattr.")]
    return [fa, *(importlib.import_module(n) for n in names if n not in NOT_IMPORTED)]


def kept():
    """How much each thing holds that lives as long as the process: containers and caches of
    modules, of their classes, and of their threads."""
    found = {}
    for module in modules():
        spaces = {"": vars(module)}
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if (isinstance(value, type) and own) or isinstance(value, threading.local):
                spaces[f"{name}."] = vars(value)
        for prefix, space in spaces.items():
            for name, value in space.items():
                if name.startswith("__"):
                    continue
                where = f"{module.__name__}.{prefix}{name}"
                if hasattr(value, "cache_info"):
                    found[where] = value.cache_info().currsize
                elif hasattr(type(value), "__len__") and not isinstance(value, torch.Tensor):
                    found[where] = len(value)
                elif isinstance(value, (int, float)):
                    found[where] = value
    return found


def test_what_is_kept_is_found():
    names = kept()
    assert "funcattr.core.graph._named" in names
    assert "funcattr.engine.hidden._nodes" in names
    assert "funcattr.operations.kinds.table.CALLS" in names


def alive():
    """The tensors, and all the objects, that the collector knows."""
    gc.collect()
    gc.collect()
    objects = gc.get_objects()
    return sum(issubclass(type(o), torch.Tensor) for o in objects), len(objects)


def resident():
    """The memory of this process in MiB, 0 where that is not told."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4096 / 2**20
    except OSError:
        return 0


def small():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def check_flat(work, count, *, warm=50):
    """``work()``, ``count`` times, makes nothing that stays."""
    for _ in range(warm):
        work()
    tables, memory, before = kept(), resident(), alive()
    for _ in range(count):
        work()
    after = alive()
    assert after[0] <= before[0]
    assert after[1] <= before[1] + 60  # of others: what pytest and torch note once
    assert kept() == tables
    assert resident() <= memory + 64


def test_a_leak_is_found():
    held, numbers = [], []
    with pytest.raises(AssertionError):
        check_flat(lambda: held.append(torch.ones(1)), 10, warm=1)
    with pytest.raises(AssertionError):
        check_flat(lambda: numbers.append([]), 100, warm=1)


def test_ten_thousand_calls():
    attr, x = fa.guided_backprop(small()), torch.randn(2, 4)
    check_flat(lambda: attr(x, target=1), 10_000)


@pytest.mark.parametrize("name", METHODS)
def test_many_calls_of_every_method(name):
    attr = METHODS[name](tiny())
    check_flat(lambda: attr(X, target=1), 40, warm=5)


def fails(attr):
    with pytest.raises(fa.TargetError):
        attr(X, target=7)


HOW = {
    "sweep": lambda attr: fa.sweep(attr, X, targets=range(4), chunk_size=3),
    "automatic sweep": lambda attr: fa.sweep(attr, X, targets=range(4), chunk_size="auto"),
    "half of a stream": lambda attr: next(fa.stream(attr, X, targets=range(4), chunk_size=1)),
    "linearize": lambda attr: [attr.linearize(X)[1](t) for t in (0, 1)],
    "vmap": lambda attr: torch.vmap(lambda t: attr(X, target=t))(torch.arange(4)),
    "grad": lambda attr: torch.func.grad(lambda x: attr(x, target=1).sum())(X),
    "jvp": lambda attr: torch.func.jvp(lambda x: attr(x, target=1), (X,), (X,)),
    "backward": lambda attr: attr(X.clone().requires_grad_(), target=1).sum().backward(),
    "an error": fails,
    "sites": lambda attr: str(fa.sites(attr.method.ruled, X)),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["guided_grad_cam", "epsilon"])
def test_many_calls_of_every_kind(name, how):
    attr = METHODS[name](tiny())
    check_flat(lambda: HOW[how](attr), 20, warm=5)


def test_a_thousand_attributions():
    """Four a round, of models of their own, with rules, targets and predicates of their own."""
    x = torch.randn(2, 4)

    def work():
        model, scale = small(), torch.rand(())
        rule = lambda x, g: scale * g
        fa.rule_backprop(model, rule)(x, target=lambda out: out[:, 1])
        fa.guided_backprop(model, sites=lambda path: path == "1")(x, target=0)
        fa.gradient(fa.relu_rule(model, sites={torch.relu: rule}))(x, target=[0, 1])
        fa.grad_cam(model, model[1])(x, target=0)

    check_flat(work, 250)


def test_rules_at_other_functions():
    """Rules at elementwise functions that are no activations, which get a name."""
    x = torch.randn(2, 4)

    def work():
        weight = torch.randn(4, 4)
        rule = lambda x, g: weight.sum() * g
        f = fa.relu_rule(lambda x: torch.sin(x @ weight), sites={torch.sin: rule})
        fa.gradient(f)(x, target=1)

    check_flat(work, 300)


def test_threads_take_what_is_theirs_along():
    attr, x = fa.guided_backprop(small()), torch.randn(2, 4)

    def work():
        thread = threading.Thread(target=lambda: attr(x, target=1))
        thread.start()
        thread.join()

    check_flat(work, 200)


def uses(attr):
    """All that can be done with an attribution, and to it."""
    yield attr(X, target=1)
    yield fa.sweep(attr, X, targets=range(4), chunk_size=3)
    yield attr.linearize(X)
    yield torch.vmap(lambda t: attr(X, target=t))(torch.arange(2))
    yield torch.func.grad(lambda x: attr(x, target=1).sum())(X)
    yield fa.bundle(attr, attr)(X, target=1)
    yield fails(attr)


@pytest.mark.parametrize("name", METHODS)
def test_a_model_goes_with_its_attribution(name):
    model = tiny()
    attr = METHODS[name](model)
    last = list(uses(attr))
    gone = [weakref.ref(model), *(weakref.ref(t) for t in model.parameters()), weakref.ref(attr)]
    del model, attr
    last.clear()
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)


def test_a_map_does_not_hold_the_model():
    model = tiny()
    map_, gone = fa.guided_backprop(model)(X, target=1), weakref.ref(model)
    swept = fa.sweep(fa.grad_cam(model, "norm"), X, targets=range(2))
    del model
    gc.collect()
    assert gone() is None and map_.shape == X.shape and len(swept) == 2


@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet", "grad_cam", "rule_backprop"])
def test_a_call_leaves_nothing_for_the_collector(name):
    """So that memory is free at once, and not when the collector comes."""
    attr = METHODS[name](tiny())
    for _ in range(3):
        attr(X, target=1)
    gc.collect()
    gc.disable()
    try:
        before = sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())
        for _ in range(20):
            attr(X, target=1)
        assert sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()) <= before
    finally:
        gc.enable()


@pytest.mark.compiled
def test_compiled_sweeps_of_many_attributions(monkeypatch):
    """What the compiler keeps is its own, and goes with its reset."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    gone, x = [], torch.randn(2, 4)
    for _ in range(3):
        model = small()
        attr = fa.guided_backprop(model)
        fa.sweep(attr, x, targets=range(3), compile=True)
        gone += [weakref.ref(model), weakref.ref(attr)]
    before = kept()
    del model, attr
    torch.compiler.reset()
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)
    assert kept().keys() == before.keys()
