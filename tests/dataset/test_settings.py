"""A store made with other settings, weights, targets or data is refused, with the difference."""

import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("zarr")
from dataset_cases import Pictures, attributions, contents, model, swept
from torch import nn
from torch.utils.data import DataLoader

import funcattr as fa
from funcattr.dataset import top_k
from funcattr.dataset.description import Description
from funcattr.dataset.storage.settings import differences

DATA = Pictures(6)


def changed():
    net = model()
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] += 1e-3
    return net


OTHER = {
    "weights is 'sha256": {"attr": fa.guided_backprop(changed())},
    "'funcattr.rules.elementwise.guided' there, 'funcattr.rules.elementwise.deconvnet' here": {
        "attr": fa.deconvnet(model())
    },
    "targets is [0, 1, 2, 3, 4] there, [0, 1, 2, 3] here": {"targets": range(4)},
    "targets is [0, 1, 2, 3, 4] there, {'type': 'funcattr.dataset": {"targets": top_k(5)},
    "dtype is 'float32' there, 'float16' here": {"dtype": torch.float16},
    "reduce is None there, 'funcattr.postprocess.channel_max_abs' here": {
        "reduce": fa.channel_max_abs
    },
    "batch_size is 2 there, 3 here": {"batch_size": 3},
    "block_size is 2 there, 4 here": {"block_size": 4},
    "chunk_size_asked is 'auto' there, 2 here": {"chunk_size": 2},
    "examples is 6 there, 5 here": {"length": 5},
    "first_example is": {"data": Pictures(6).xs.flip(0)},
    "seed is 0 there, 1 here": {"seed": 1},
    "func is 'Sequential": {"attr": fa.guided_backprop(model().train())},
}


@pytest.mark.parametrize("difference", OTHER)
def test_other_settings(tmp_path, difference):
    attr = fa.guided_backprop(model())
    swept(tmp_path, DATA, attr)
    before = contents(tmp_path)
    how = {"data": DATA, "attr": attr} | OTHER[difference]
    with pytest.raises(fa.ArgumentError, match="was made with other settings") as raised:
        swept(tmp_path, **how)
    assert difference in str(raised.value)
    assert contents(tmp_path) == before


def test_the_same_settings(tmp_path):
    """Of objects that are made again, also in another process."""
    done = swept(tmp_path, DATA)
    assert swept(tmp_path, Pictures(6), attributions()).computed == 0
    assert swept(tmp_path, DataLoader(DATA, batch_size=2), batch_size=None).computed == 0
    with pytest.raises(fa.ArgumentError, match="resume is False"):
        swept(tmp_path, DATA, resume=False)
    code = (
        "import sys; from dataset_cases import *\n"
        f"print(swept({str(tmp_path)!r}, Pictures(6)).computed)"
    )
    path = ":".join(p for p in sys.path if p)
    how = {"check": True, "capture_output": True, "text": True}
    ran = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, **how)
    assert ran.stdout == "0\n"
    assert done.computed == 6


def test_another_version_of_torch_is_not_mixed_in(tmp_path, monkeypatch):
    swept(tmp_path, DATA)
    monkeypatch.setattr(torch.version, "__version__", "9.9.9")
    with pytest.raises(fa.ArgumentError, match=r"versions.torch is .* there, '9.9.9' here"):
        swept(tmp_path, DATA)


def test_chunks_of_a_store_are_kept_to(tmp_path, monkeypatch):
    """However much memory there is when the sweep goes on."""
    from funcattr.dataset import explain

    data = Pictures(6)
    swept(tmp_path / "whole", data, chunk_size=2)
    monkeypatch.setattr(explain, "fitting", lambda *of: 2)
    swept(tmp_path / "store", data, length=6)
    for path in list((tmp_path / "store" / "status" / "c").iterdir())[1:]:
        path.unlink()
    monkeypatch.setattr(explain, "fitting", lambda *of: 5)
    seen = []
    chunks = explain.Explainer.chunks
    monkeypatch.setattr(
        explain.Explainer,
        "chunks",
        lambda self, batch, size: seen.append(size) or chunks(self, batch, size),
    )
    assert swept(tmp_path / "store", data).computed == 4
    assert set(seen) == {2}


def test_what_is_no_store(tmp_path):
    import zarr

    zarr.create_group(tmp_path / "other")
    with pytest.raises(fa.ArgumentError, match="is no store of funcattr"):
        swept(tmp_path / "other", DATA)


X = torch.ones(2, 3)


def scaled_by(factor):
    return lambda x, g: factor * g


def described(value):
    about = Description()
    return about.of(value), about.weights()


def test_descriptions():
    linear = nn.Linear(3, 2)
    weights = nn.Parameter(torch.ones(2, 3))
    pairs = [
        (scaled_by(2.0), scaled_by(3.0)),
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x: linear(x), lambda x: nn.Identity()(x)),
        (fa.rules.epsilon(0.1), fa.rules.epsilon(0.2)),
        (fa.Composite([("relu", scaled_by(2.0))]), fa.Composite([("relu", scaled_by(3.0))])),
        (nn.Dropout(0.1), nn.Dropout(0.2)),
        (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
        (np.ones(3), np.zeros(3)),
        (linear.forward, nn.Linear(3, 2).forward),
        (lambda x: x @ weights.T, lambda x: x @ (2 * weights).T),
        (fa.smooth_grad(fa.gradient(linear), samples=2, sigma=0.1),
         fa.smooth_grad(fa.gradient(linear), samples=3, sigma=0.1)),
        ({"a": float("nan")}, {"a": float("inf")}),
        (fa.gradient, fa.saliency),
    ]  # fmt: skip
    for one, two in pairs:
        assert described(one) == described(one)
        assert described(one) != described(two)
    circle = {}
    circle["itself"] = circle
    assert described(circle)[0] == {"itself": "(itself)"}


def test_weights_that_a_function_holds():
    linear = nn.Linear(3, 2)
    before = described(lambda x: linear(x))
    assert described(fa.gradient(lambda x: linear(x)))[1] == before[1]
    with torch.no_grad():
        linear.bias[0] += 1
    assert described(lambda x: linear(x))[1] != before[1]


def test_differences():
    assert list(differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]})) == [
        "a[1].b is 2 there, 3 here"
    ]
    assert list(differences({"a": 1}, {"a": 1, "c": "x" * 99})) == [
        f"c is None there, '{'x' * 56}... here"
    ]


FACTORS, TABLE = [1.0], {"k": 1.0}


def doubled(x):
    return 2 * x


def reads_globals(x):
    return sum([doubled(x) * FACTORS[0] * f for f in TABLE.values()]).mean((2, 3))


@pytest.mark.parametrize("name", ["FACTORS", "TABLE", "doubled"])
def test_another_global_that_a_function_reads(tmp_path, monkeypatch, name):
    swept(tmp_path, DATA, fa.gradient(reads_globals), targets=range(2))
    other = {"FACTORS": [3.0], "TABLE": {"k": 3.0}, "doubled": lambda x: 3 * x}[name]
    monkeypatch.setitem(globals(), name, other)
    with pytest.raises(fa.ArgumentError, match="was made with other settings: attributions"):
        swept(tmp_path, DATA, fa.gradient(reads_globals), targets=range(2))


@pytest.mark.parametrize("table", ["register_forward_hook", "register_forward_pre_hook"])
def test_another_hook(tmp_path, table):
    net = model()
    swept(tmp_path, DATA, fa.gradient(net))
    handle = getattr(net[0], table)(lambda module, args, *out: None)
    with pytest.raises(fa.ArgumentError, match="was made with other settings: attributions"):
        swept(tmp_path, DATA, fa.gradient(net))
    handle.remove()
    swept(tmp_path, DATA, fa.gradient(net))


def test_autocast(tmp_path):
    swept(tmp_path, DATA, fa.gradient(model()))
    difference = r"autocast is None there, 'torch\.bfloat16' here"
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(fa.ArgumentError, match=difference):
        swept(tmp_path, DATA, fa.gradient(model()))
