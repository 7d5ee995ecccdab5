"""A store of a model whose code is another is refused: what a class does, not only its name."""

import functools
import json
import subprocess
import sys
import types

import pytest
import torch

pytest.importorskip("zarr")
import dataset_code
from dataset_cases import Pictures, swept
from dataset_code import described, whole
from torch import nn

import funcattr as fa

DATA = Pictures(4)


class Scale(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def body(number):
    code = f"def forward(self, x):\n    return x.mean((2, 3)) * {number}"
    exec(code, globals(), space := {})
    return type("Net", (Scale,), space)()


def attribute(number):
    return type("Net", (Scale,), {"scale": number})()


def weight(number):
    return type("Net", (Scale,), {"scale": torch.tensor(number)})()


def closed_over(number):
    class Net(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) * number

    return Net()


def patched(number):
    net = Scale()
    net.forward = types.MethodType(lambda self, x: x.mean((2, 3)) * number, net)
    return net


def part_patched(number):
    net = nn.Sequential(patched(number), nn.ReLU())
    net.add_module("back", net[0])
    return net


def decorated(decorator):
    def make(number):
        class Net(Scale):
            @decorator
            def scaled(self):
                return number

        return Net()

    return make


def parent(number):
    class Net(type(closed_over(number))):
        def forward(self, x):
            return super().forward(x)

    return Net()


def nested(number):
    class Net(Scale):
        class Inner:
            def scaled(self, x):
                return x * number

    return Net()


def function(number):
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * number

        @staticmethod
        def backward(ctx, g):
            return g * number

    return lambda x: Double.apply(x.mean((2, 3)))


def called(number):
    class Times:
        def __call__(self, x):
            return x.mean((2, 3)) * number

    times = Times()
    return lambda x: times(x)


def held(number):
    class Kept:
        def __init__(self):
            self.much = 1.0

        def __call__(self, x):
            return x.mean((2, 3)) * number

    net = Scale()
    net.kept = Kept()
    return net


def wrapped(number):
    @functools.wraps(torch.nn.functional.relu)
    def relu(x):
        return x * number

    return relu


def of_torch(number):
    return type("Net", (Scale,), {"acts": torch.relu if number == 1 else torch.tanh})()


MADE = {
    "the body of forward": body,
    "a class attribute": attribute,
    "a tensor of a class": weight,
    "a forward that closes over a number": closed_over,
    "a patched forward": patched,
    "a patched forward of a part": part_patched,
    "a property": decorated(property),
    "a cached property": decorated(functools.cached_property),
    "a static method": decorated(staticmethod),
    "a class method": decorated(classmethod),
    "a cached method": decorated(functools.lru_cache),
    "a method without gradients": decorated(torch.no_grad()),
    "a parent's forward": parent,
    "a class of a class": nested,
    "an autograd.Function": function,
    "a callable object": called,
    "a callable object of a model": held,
    "a wrapper of torch's function": wrapped,
    "torch's function of a class": of_torch,
}


@pytest.mark.parametrize("name", MADE)
def test_other_code_of_the_same_name(name):
    make = MADE[name]
    assert described(make(1.0)) == described(make(1.0))
    assert described(make(1.0)) != described(make(2.0))
    for wrap in (lambda made: [made, made], lambda made: nn.Sequential(made, nn.ReLU())):
        if isinstance(make(1.0), nn.Module):
            assert described(wrap(make(1.0))) == described(wrap(make(1.0)))
            assert described(wrap(make(1.0))) != described(wrap(make(2.0)))


@pytest.mark.parametrize(
    "name", ["the body of forward", "a class attribute", "a patched forward", "a callable object"]
)
def test_a_store_of_other_code(tmp_path, name):
    make, how = MADE[name], {"targets": range(2)}
    swept(tmp_path, DATA, fa.gradient(make(1.0)), **how)
    assert swept(tmp_path, DATA, fa.gradient(make(1.0)), **how).computed == 0
    with pytest.raises(fa.ArgumentError, match=r"with other settings: attributions\.maps"):
        swept(tmp_path, DATA, fa.gradient(make(2.0)), **how)


def test_a_changed_class(tmp_path, monkeypatch):
    """Of the very model that the store was made with."""
    net = attribute(1.0)
    swept(tmp_path, DATA, fa.gradient(net), targets=range(2))
    monkeypatch.setattr(type(net), "scale", 2.0)
    with pytest.raises(fa.ArgumentError, match=r"its code is '\w+' there, '\w+' here"):
        swept(tmp_path, DATA, fa.gradient(net), targets=range(2))


@pytest.mark.parametrize("seed", ["1", "2"])
def test_another_process_describes_it_the_same(seed):
    code = "import json, dataset_code; print(json.dumps(dataset_code.whole()))"
    path = ":".join(p for p in sys.path if p)
    environment = {"PYTHONPATH": path, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
    how = {"check": True, "capture_output": True, "text": True}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, **how)
    assert ran.stdout.strip() == json.dumps(whole())


def test_what_is_called_a_circle_away(monkeypatch):
    before = whole()
    assert whole() == before
    monkeypatch.setattr(dataset_code, "FACTOR", 2.0)
    assert whole() != before


def test_code_of_many_calls():
    """Deeper than the stack of Python, and by more ways than can be gone one by one."""
    lines = [f"def f{i}(x): return f{i + 1}(x) + f{i + 2}(x)" for i in range(2000)]
    space = {"__name__": "many", "f2000": lambda x: x, "f2001": lambda x: x}
    exec("\n".join(lines), space)
    before = described(space["f0"])
    space["f2000"] = lambda x: 2 * x
    assert described(space["f0"]) != before


def test_a_class_is_described_once(monkeypatch):
    from funcattr.dataset import description

    seen = []
    held_by = description._held_by
    monkeypatch.setattr(description, "_held_by", lambda kind: seen.append(kind) or held_by(kind))
    described(nn.Sequential(*[Scale() for _ in range(500)]))
    assert seen == [Scale]


def test_models_of_torch_alone_are_described_as_before():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert isinstance(described(net)[0], str)
