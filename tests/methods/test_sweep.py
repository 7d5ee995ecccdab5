"""A sweep is the loop, for any targets and chunks; one forward pass; memory of a chunk."""

import re
import weakref

import numpy as np
import pytest
import torch
from helpers import METHODS, assert_close, tiny, tiny_input
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import funcattr as fa
from funcattr.core import memory
from funcattr.core.memory import Largest
from funcattr.methods import chunks

X = tiny_input()
ATTRS = {name: method(tiny()) for name, method in METHODS.items()}
TARGETS = {
    "range": range(4),
    "list": [3, 0, -1],
    "tuple": (1, 2),
    "tensor": torch.tensor([1, 3, 0]),
    "array": np.array([1, 3])[::-1],
    "small integers": torch.tensor([1, 3], dtype=torch.uint8),
    "tuples": [(0,), (3,)],
    "per example": [[0, 1], [2, 3], [1, 1]],
    "per example tensor": torch.tensor([[0, 1], [2, 3]]),
    "tensor of one each": torch.tensor([[0], [3]]),
    "list of tensors": [torch.tensor(1), torch.tensor([2])],
    "callables": [lambda o: o[:, 0], lambda o: o.prod(1)],
    "mixed": [1, (2,), [0, 1], lambda o: o[:, 3]],
}


def loop(attr, targets):
    return torch.stack([attr(X, target=t) for t in targets])


@pytest.mark.parametrize("chunk_size", [None, 1, 2, np.int64(100), "auto"])
@pytest.mark.parametrize("targets", TARGETS)
def test_equals_the_loop(targets, chunk_size):
    attr, targets = ATTRS["guided_backprop"], TARGETS[targets]
    maps = fa.sweep(attr, X, targets=targets, chunk_size=chunk_size)
    assert_close(maps, loop(attr, targets), 1e-12)


@given(
    name=st.sampled_from(sorted(METHODS)),
    targets=st.lists(st.integers(-4, 3), min_size=1, max_size=9),
    chunk_size=st.integers(1, 10),
)
@settings(deadline=None, max_examples=40)
def test_any_method_targets_and_chunks(name, targets, chunk_size):
    attr = ATTRS[name]
    expected = loop(attr, targets)
    assert_close(fa.sweep(attr, X, targets=targets, chunk_size=chunk_size), expected, 1e-12)
    chunks = list(fa.stream(attr, X, targets=targets, chunk_size=chunk_size))
    assert [t for chunk, _ in chunks for t in chunk] == targets
    assert all(len(chunk) == len(maps) <= chunk_size for chunk, maps in chunks)
    assert_close(torch.cat([maps for _, maps in chunks]), expected, 1e-12)


def test_one_forward_pass_for_all_chunks():
    model, calls = tiny(), []
    model.register_forward_hook(lambda *args: calls.append(1))
    attr = fa.guided_backprop(model)
    fa.sweep(attr, X, targets=range(4), chunk_size=1)
    list(fa.stream(attr, X, targets=range(4), chunk_size=3))
    torch.vmap(attr.linearize(X)[1])(torch.arange(4))
    assert len(calls) == 3
    torch.vmap(lambda t: attr(X, target=t))(torch.arange(4))
    assert len(calls) == 4


def test_reduce():
    attr = ATTRS["guided_backprop"]
    expected = loop(attr, range(4)).abs().amax((1, 2))
    for chunk_size in (None, 3):
        come = fa.sweep(
            attr, X, targets=range(4), chunk_size=chunk_size, reduce=lambda m: m.abs().amax((0, 1))
        )
        assert_close(come, expected, 1e-12)
    both = fa.sweep(attr, X, targets=range(4), reduce=lambda m: {"sum": m.sum(), "m": m})
    assert both["sum"].shape == (4,)
    looped = fa.sweep(attr, X, targets=TARGETS["mixed"], reduce=lambda m: m.sum())
    assert_close(looped, loop(attr, TARGETS["mixed"]).flatten(1).sum(1), 1e-12)


def test_trees_of_maps():
    attr = fa.gradient(lambda d, y: torch.sin(d["x"] * y), argnums=(0, 1))
    first, second = fa.sweep(
        attr, {"x": X[:, 0, 0], "n": 3}, X[:, 0, 1], targets=range(3), chunk_size=2
    )
    assert first["n"] is None
    assert first["x"].shape == second.shape == (3, 2, 3)


def test_a_sweep_inside_of_a_transform():
    attr = ATTRS["guided_backprop"]
    f = lambda x: (fa.sweep(attr, x, targets=range(4), chunk_size=3) ** 2).sum()
    g = lambda x: sum((attr(x, target=t) ** 2).sum() for t in range(4))
    assert_close(torch.func.grad(f)(X), torch.func.grad(g)(X), 1e-10)


WRONG = {
    "empty": (dict(targets=[]), fa.TargetError, "empty"),
    "a single int": (dict(targets=3), fa.TargetError, "call the attribution itself"),
    "float": (dict(targets=[1.5]), fa.TargetError, "got 1.5"),
    "float tensor": (dict(targets=torch.tensor([1.0])), fa.TargetError, "integers"),
    "4-d tensor": (dict(targets=torch.zeros(1, 1, 1, 1).long()), fa.TargetError, r"\[T, B\]"),
    "out of range": (dict(targets=range(5)), fa.TargetError, r"lies in -4\.\.3"),
    "chunk_size 0": (dict(targets=[0], chunk_size=0), fa.ArgumentError, "positive int"),
    "chunk_size -1": (dict(targets=[0], chunk_size=-1), fa.ArgumentError, "got -1"),
    "chunk_size word": (dict(targets=[0], chunk_size="big"), fa.ArgumentError, "'auto'"),
    "chunk_size float": (dict(targets=[0], chunk_size=2.0), fa.ArgumentError, "got 2.0"),
    "words": (dict(targets=np.array(["a"])), fa.TargetError, "holds integers"),
    "a word": (dict(targets="ab"), fa.TargetError, "got str"),
    "a dict": (dict(targets={1: 2}), fa.TargetError, "got dict"),
    "reduce by name": (dict(targets=[0], reduce="sum"), fa.ArgumentError, "function of one map"),
    "reduce of a loop": (
        dict(targets=[lambda o: o[:, 0]], reduce=lambda m: m.sum().item()),
        fa.ArgumentError,
        "item",
    ),
    "reduce": (dict(targets=[0], reduce=lambda m: 1.0), fa.ArgumentError, "tensor"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("function", [fa.sweep, fa.stream])
def test_wrong_calls(name, function):
    kwargs, error, message = WRONG[name]
    kwargs.setdefault("chunk_size", None)
    with pytest.raises(error, match=message):
        list(function(ATTRS["gradient"], X, **kwargs))


def test_stream_complains_before_its_first_chunk():
    with pytest.raises(fa.ArgumentError):
        fa.stream(ATTRS["gradient"], X, targets=[0], chunk_size=0)


def test_no_attribution():
    with pytest.raises(fa.ArgumentError, match="is an Attribution"):
        fa.sweep(nn.ReLU(), X, targets=[0])


def test_progress_is_quiet_when_not_on_a_terminal(capsys):
    pytest.importorskip("tqdm")
    fa.sweep(ATTRS["gradient"], X, targets=range(4), chunk_size=1, progress=True)
    assert capsys.readouterr() == ("", "")


def test_progress_without_tqdm(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(fa.ArgumentError, match=r"funcattr\[progress\]"):
        fa.sweep(ATTRS["gradient"], X, targets=range(4), progress=True)


def test_auto_fits_the_memory_that_is_there(monkeypatch):
    sizes = []
    for free in (10**3, 10**5, 10**12):
        monkeypatch.setattr(memory, "_free_memory", lambda device, free=free: free)
        chunks = fa.stream(ATTRS["gradient"], X, targets=[0] * 600, chunk_size="auto")
        sizes.append(len(next(iter(chunks))[0]))
    assert sizes[0] == 1
    assert 1 < sizes[1] < sizes[2] == 200  # three alike, of no more than 256


def test_auto_sees_what_sites_return():
    """The largest tensor that is differentiated is the padded one, of 10 x 42 x 42 doubles."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 10, 1), torch.nn.ZeroPad2d(20), torch.nn.ReLU(), torch.nn.AvgPool2d(40)
    )
    attr, x = fa.guided_backprop(model.double()), torch.randn(1, 3, 2, 2, dtype=torch.float64)
    with Largest() as largest:
        attr.linearize(x)
    assert largest.nbytes == 10 * 42 * 42 * 8


class Alive(TorchDispatchMode):
    """The most bytes that tensors made within it hold at once."""

    def __init__(self):
        super().__init__()
        self.refs, self.peak = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.refs += [weakref.ref(t) for t in tree_flatten(out)[0] if isinstance(t, torch.Tensor)]
        self.refs = [ref for ref in self.refs if ref() is not None]
        held = {t.untyped_storage().data_ptr(): t for t in (ref() for ref in self.refs)}
        self.peak = max(self.peak, sum(t.untyped_storage().nbytes() for t in held.values()))
        return out


@pytest.mark.parametrize("how", ["reduced", "streamed"])
def test_what_a_sweep_holds_does_not_grow_with_the_targets(how):
    attr, peaks = ATTRS["guided_backprop"], []
    for count in (8, 64):
        targets = [0, 1, 2, 3] * (count // 4)
        with Alive() as alive:
            if how == "reduced":
                fa.sweep(attr, X, targets=targets, chunk_size=4, reduce=torch.sum)
            else:
                for _ in fa.stream(attr, X, targets=targets, chunk_size=4):
                    pass
        peaks.append(alive.peak)
    map_bytes = X.numel() * X.element_size()
    assert peaks[1] - peaks[0] < 8 * map_bytes  # of the targets themselves; not of 56 more maps


def test_auto_counts_what_is_differentiated_alone():
    early, late = torch.nn.Conv2d(3, 50, 3, padding=1), torch.nn.Conv2d(50, 4, 8)
    model = torch.nn.Sequential(early, torch.nn.ReLU(), late, torch.nn.ReLU(), torch.nn.Flatten())
    sizes = []
    for attr in (fa.guided_backprop(model), fa.grad_cam(model, "2")):
        with Largest() as largest:
            attr.linearize(torch.randn(1, 3, 8, 8))
        sizes.append(largest.nbytes)
    assert sizes[0] >= 50 * 64 * 4 > 100 * sizes[1] > 0


def test_what_the_compiler_says_comes_second():
    of_torch = type("Failed", (Exception,), {"__module__": "torch._dynamo.exc"})
    told = chunks._cause(of_torch("Cannot access storage of TensorWrapper\nand more"))
    assert isinstance(told, fa.FuncattrError)
    assert re.search("compile=False.*It said: .*Cannot access storage", str(told))
    own = ValueError("of the model")
    assert chunks._cause(own) is own
