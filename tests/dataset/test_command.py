"""``python -m funcattr``, and what torchrun makes of it."""

import runpy
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("zarr")
import zarr
from dataset_cases import CLASSES, Pictures, attributions, contents, free_port, swept

from funcattr.dataset.command import main

PARTS = ["--model", "dataset_parts:network", "--batch-size", "2", "--targets", f"0:{CLASSES}"]


def sweep(store, *more, data="good", method="guided_backprop"):
    return main(
        ["sweep", *PARTS, "--data", f"dataset_parts:{data}", "--method", method,
         "--store", str(store), *more]
    )  # fmt: skip


def test_a_sweep_and_its_status(tmp_path, capsys):
    assert sweep(tmp_path / "store") == 0
    assert "12 of 12 examples done; 0 failed, 0 missing; 12 tried here" in capsys.readouterr().out
    swept(tmp_path / "same", Pictures(12), attributions()["guided"])
    same, found = (zarr.open_group(tmp_path / n, mode="r")["maps"][:] for n in ("same", "store"))
    assert np.array_equal(same, found)
    assert sweep(tmp_path / "store") == 0
    assert main(["status", str(tmp_path / "store")]) == 0
    text = capsys.readouterr().out
    assert "maps: ByGradient, Composite(relu: guided)" in text and "KB on disk" in text
    (tmp_path / "store" / "maps" / "0.abc.partial").write_text("half")
    main(["status", str(tmp_path / "store")])
    assert "1 files of writers that were killed" in capsys.readouterr().out
    assert sweep(tmp_path / "store", "--no-resume") == 2
    assert "resume is False" in capsys.readouterr().err


def test_failures_show_in_the_exit_status(tmp_path, capsys):
    assert sweep(tmp_path, data="broken") == 1
    assert main(["status", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("example 4: OSError: picture 4 is broken") == 2


def test_a_file_of_settings(tmp_path, capsys):
    file = tmp_path / "sweep.toml"
    file.write_text(
        f"""
        model = "dataset_parts:model"
        data = "dataset_parts:good"
        targets = [0, 3]
        store = {str(tmp_path / "store")!r}
        reduce = "channel_max_abs"
        chunk_size = 2
        [method.guided]
        name = "guided_backprop"
        [method.relevance]
        name = "lrp"
        composite = "epsilon_plus"
        [method.cam]
        name = "grad_cam"
        layer = "1"
        """
    )
    assert main(["sweep", str(file), "--dtype", "float16"]) == 0
    root = zarr.open_group(tmp_path / "store", mode="r")
    assert root["guided"].shape == root["relevance"].shape == (12, 2, 1, 5, 5)
    assert root["cam"].dtype == np.float16
    file.write_text("colour = 'red'")
    assert main(["sweep", str(file)]) == 2
    assert "the file has colour; known: attr, model" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    assert sweep(tmp_path / "store", "--dry-run") == 0
    text = capsys.readouterr().out
    assert "maps       12x5x2x5x5 " in text and "12 KB" in text
    assert "6 batches in 6 blocks of 2 examples, 5 targets at once" in text
    assert "for one process" in text
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("targets", ["0:5", "1,3", "top:2", "label", "dataset_parts:last"])
def test_targets(tmp_path, targets, capsys):
    status = sweep(tmp_path, "--targets", targets)
    if "last" in targets:
        assert status == 2 and "cannot be imported" in capsys.readouterr().err
        return
    assert status == 0
    counts = {"0:5": 5, "1,3": 2, "top:2": 2, "label": 2}
    assert zarr.open_group(tmp_path, mode="r")["maps"].shape[1] == counts[targets]


def test_a_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    swept(tmp_path / "store", Pictures(6, broken=[2]), targets=[1, 4])
    args = ["show", str(tmp_path / "store"), "--out", str(tmp_path / "map.png")]
    assert main([*args, "--example", "3", "--target", "4"]) == 0
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    for more, text in {
        ("--example", "2", "--target", "4"): "example 2 is failed: OSError: picture 2",
        ("--example", "9", "--target", "4"): "the store has 6 examples; got 9",
        ("--example", "3", "--target", "0"): "target 0 is not in the store, whose 2 targets lie in",
        ("--example", "3", "--target", "4", "--array", "x"): "no maps 'x'; it has guided, cam",
    }.items():
        assert main([*args, *more]) == 2
        assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["sweep", "--data", "a:b", "--targets", "0:2"], "a sweep needs --store"),
        (["sweep", "--data", "a:b", "--targets", "0:2", "--store", "x"], "needs --attr, or --mod"),
        (["sweep", "none.toml"], "none.toml cannot be read as TOML"),
        (["status", "nowhere"], "there is no store at nowhere"),
        (
            [*["sweep", "--attr", "a", "--data", "b", "--targets", "0:2", "--store", "x"]],
            "'a' is no import path",
        ),
    ],
)
def test_mistakes(arguments, text, capsys):
    assert main(arguments) == 2
    assert text in capsys.readouterr().err


def test_a_method_that_there_is_not(tmp_path, capsys):
    assert sweep(tmp_path, method="guided_backpropagation") == 2
    assert "no method 'guided_backpropagation'" in capsys.readouterr().err


def test_the_module(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "funcattr.__main__", raising=False)  # which runpy warns of
    monkeypatch.setattr(sys, "argv", ["funcattr", "status", "nowhere"])
    with pytest.raises(SystemExit) as raised:
        runpy.run_module("funcattr", run_name="__main__")
    assert raised.value.code == 2


def test_torchrun(tmp_path):
    """Two processes that torchrun starts share the work, and the result is that of one."""
    path = ":".join(p for p in sys.path if p)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
        *("--master-port", str(free_port()), "-m", "funcattr", "sweep", *PARTS),
        *("--attr", "dataset_parts:attributions", "--data", "dataset_parts:good"),
        *("--store", str(tmp_path / "store")),
    ]
    environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PATH": ""}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("; 6 tried here") == 2 and "rank 1 of 2: " in ran.stdout
    swept(tmp_path / "one", Pictures(12))
    assert contents(tmp_path / "store") == contents(tmp_path / "one")
