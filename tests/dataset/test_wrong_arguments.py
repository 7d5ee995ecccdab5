"""Arguments of `sweep_dataset` that cannot be: what was expected, what came, what to do."""

import importlib
import subprocess
import sys

import pytest
import torch

pytest.importorskip("zarr")
from dataset_cases import Pictures, Stream, attributions, model, swept
from torch.utils.data import DataLoader

import funcattr as fa

DATA = Pictures(6)
WRONG = {
    "attr is an Attribution": {"attr": model()},
    "attr is an Attribution .* or a dict": {"attr": {"a": model()}},
    "attr is a dict of attributions by name; got an empty": {"attr": dict},
    "the names of attributions become those of arrays.*'status'": {
        "attr": {"status": fa.gradient(model())}
    },
    "dtype is one of 'float16'.*got 'int8'": {"dtype": "int8"},
    "dtype is one of .*bfloat16": {"dtype": torch.bfloat16},
    "keeps the order of its data set": {"data": DataLoader(DATA, shuffle=True)},
    "data is a torch.utils.data.Dataset or DataLoader": {"data": 3},
    "data is a .*got a generator. What can only be iterated goes into a list": {
        "data": (x for x in DATA.xs), "length": 3,
    },
    "data is a .*got a set": {"data": {1.0, 2.0}},
    "reduce returns .*got no tensor": {"reduce": lambda m: ()},
    "data has no length": {"data": Stream(DATA)},
    "data is empty": {"data": []},
    "length is 9, and data has 6": {"length": 9},
    "block_size is a multiple of batch_size, 2; got 3": {"block_size": 3},
    "batch_size is a positive int; got 0": {"batch_size": 0},
    "block_size is a positive int; got -2": {"block_size": -2},
    "length is a positive int; got 0": {"length": 0},
    "chunk_size is a positive int, None or 'auto'; got 'big'": {"chunk_size": "big"},
    "compile is True, False or a mode of torch.compile.*got 'fast'": {"compile": "fast"},
    "compressor is 'auto', None, or a codec": {"compressor": "zip"},
    "store is a directory, a URL": {"store": 3},
    "a map, reduced, keeps its first dim": {"reduce": lambda m: m.abs().sum()},
    "reduce is a function of one map": {"reduce": 3},
    "progress is True or False": {"progress": "yes"},
    "the examples of data are inputs, .input, label. pairs": {"data": [(torch.ones(2),) * 3] * 4},
    "output names the part": {"output": 1.5},
    "output='logits' names a part of a dict": {"output": "logits"},
    "in one of your own, let linearize": {
        "attr": fa.Attribution(lambda x: (x, lambda target: x)), "output": "logits",
    },
}  # fmt: skip
TARGETS = {
    "targets is empty": [],
    "targets are ints or tuples of ints": [[0, 1], [1, 2]],
    "a target is None .*, an int .*got 0.5": [0.5],
    "targets are a tensor .T., or .T, k.": torch.zeros(2, 2, 2, dtype=torch.long),
    "lies in -5..4": [7],
    "^the output has shape .2, 5., several numbers per example: a target says which": None,
    "has parameters out of x": lambda logits: logits.argmax(1),
    "returns integers .B, T.": lambda out: out,
    "returns integers .B, T. .*got torch.int64 of shape .2,.": lambda out: out.argmax(1),
    "targets is a function of the label, and the data has none": lambda label: label[:, None],
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments(tmp_path, message):
    how = {"store": tmp_path / "store", "data": DATA, "attr": attributions()} | WRONG[message]
    if how["attr"] is dict:
        with pytest.raises(fa.ArgumentError, match=message):
            fa.sweep_dataset({}, DATA, targets=[0], store=tmp_path)
        return
    with pytest.raises(fa.ArgumentError, match=message):
        swept(**how)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("message", TARGETS)
def test_wrong_targets(tmp_path, message):
    data = DATA.xs if "label" in message else DATA
    with pytest.raises((fa.TargetError, fa.ArgumentError), match=message):
        swept(tmp_path / "store", data, targets=TARGETS[message])
    assert not (tmp_path / "store").exists()


def test_without_zarr(tmp_path, monkeypatch):
    real = importlib.import_module

    def missing(name, *rest):
        if name.startswith("zarr"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(fa.ArgumentError, match=r"pip install 'funcattr\[store\]'"):
        swept(tmp_path, DATA)


def test_an_old_zarr(tmp_path, monkeypatch):
    import zarr

    monkeypatch.setattr(zarr, "__version__", "3.0.8")
    with pytest.raises(fa.ArgumentError, match=r"zarr 3\.0\.8 is too old"):
        swept(tmp_path, DATA)


def test_importing_leaves_zarr_alone():
    code = "import sys, funcattr; assert not {'zarr', 'numcodecs', 'fsspec'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
