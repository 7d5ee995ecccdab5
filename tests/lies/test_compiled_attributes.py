"""Compiled sweeps of models that write to their attributes: each chunk begins as the first."""

import copy
from collections import deque
from types import SimpleNamespace

import pytest
import torch
from helpers import assert_close
from torch import nn

import funcattr as fa
from funcattr.models.unwritten import Undo, models_in

X = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Inside(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class State:
    calls = 0


class Net(nn.Module):
    """The value of each forward pass is another, as long as the model may remember the last."""

    def __init__(self, way):
        super().__init__()
        self.way, self.calls, self.history, self.table = way, 0, [], {"calls": 0}
        self.state = State()
        self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 6)
        self.inside = Inside()

    def times(self, x):
        if self.way == "inside":
            return self.inside(x)
        if self.way == "number":
            self.calls += 1
            return x * self.calls
        if self.way == "list":
            self.history.append(1)
            return x * len(self.history)
        if self.way == "dict":
            self.table["calls"] += 1
            return x * self.table["calls"]
        if self.way == "object":
            self.state.calls += 1
            return x * self.state.calls
        self.added = getattr(self, "added", 0) + 1
        return x * self.added

    def forward(self, x):
        return self.two(self.times(torch.relu(self.one(x))))


def what_it_holds(model):
    own = {m: {k: v for k, v in vars(m).items() if k[0] != "_"} for m in model.modules()}
    own[model]["state"] = dict(vars(model.state))
    return copy.deepcopy(list(own.values()))


@pytest.mark.compiled
@pytest.mark.parametrize("way", ["number", "list", "dict", "object", "added", "inside"])
def test_chunks_of_a_compiled_sweep_are_of_one_forward_pass(way):
    torch.compiler.reset()
    torch.manual_seed(0)
    model = Net(way).double()
    before = what_it_holds(model)
    attr = fa.guided_backprop(model)
    expected = fa.sweep(fa.guided_backprop(copy.deepcopy(model)), X, targets=range(6), chunk_size=2)
    assert_close(fa.sweep(attr, X, targets=range(6), chunk_size=2, compile=True), expected, 1e-12)
    assert what_it_holds(model) == before


@pytest.mark.compiled
def test_of_a_function_around_the_model():
    torch.compiler.reset()
    model = Net("number").double()
    attr = fa.gradient(lambda x: model(x))
    maps = fa.sweep(attr, X, targets=range(6), chunk_size=2, compile=True)
    assert model.calls == 0
    assert_close(maps, fa.sweep(fa.gradient(model), X, targets=range(6)), 1e-12)


@pytest.mark.compiled
@pytest.mark.parametrize("several", ["smooth_grad", "deep_lift", "bundle"])
def test_several_forward_passes_of_one_map_are_refused(several):
    torch.compiler.reset()
    model = Net("number").double()
    one = fa.gradient(model)
    attr = {
        "smooth_grad": lambda: fa.smooth_grad(one, samples=2, sigma=0.1),
        "deep_lift": lambda: fa.deep_lift(model),
        "bundle": lambda: fa.bundle(one, fa.guided_backprop(model)),
    }[several]()
    with pytest.raises(fa.FuncattrError, match=r"writes to attributes of its own.*compile=False"):
        fa.sweep(attr, X, targets=range(6), chunk_size=2, compile=True)
    assert model.calls == 0
    fa.sweep(attr, X, targets=range(6), chunk_size=2)


def holder():
    model = Net("number")
    model.kept = torch.zeros(2)
    model.nested = {"a": [deque([1, 2]), {3}], "b": ([4], SimpleNamespace(n=[5]))}
    return model


def test_all_that_is_written_is_put_back():
    model = holder()
    before, nested, kept = what_it_holds(model), model.nested, model.kept
    undo = Undo([model])
    model.calls, model.new = 7, 8
    del model.way
    model.kept.add_(1)
    model.state.calls = 5
    model.nested["a"][0].append(9)
    model.nested["a"][1].add(9)
    model.nested["b"][0].clear()
    model.nested["b"][1].n = None
    model.nested["c"] = 1
    model.nested = None
    model.inside.calls = 3
    model.train(False)
    assert undo()
    after = what_it_holds(model)
    assert bool((after[0].pop("kept") == before[0].pop("kept")).all())
    assert after == before and model.nested is nested and model.kept is kept


def test_what_was_not_written_is_left_alone():
    model = holder()
    seen = []

    class Watched(list):
        def clear(self):
            seen.append("cleared")

    model.watched = Watched([1])
    version = model.kept._version
    assert not Undo([model])()
    assert not seen and model.kept._version == version


def test_models_are_found_in_attributions_and_functions():
    model, other = Net("number"), Net("list")
    f, _ = fa.make_functional(model)
    for attr in (fa.gradient(model), fa.grad_cam(model, "one"), fa.gradient(f, argnums=1)):
        assert models_in(attr) == [model]
    assert models_in(fa.gradient(lambda x: model(x))) == [model]
    assert models_in(fa.smooth_grad(fa.guided_backprop(model), samples=2, sigma=0.1)) == [model]
    both = fa.bundle(fa.gradient(model), fa.gradient(other))
    assert {id(m) for m in models_in(both)} == {id(model), id(other)}
    assert models_in(fa.gradient(torch.sin)) == []
