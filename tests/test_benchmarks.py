"""The benchmarks check answers, store what they find, and the docs say what is stored."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

if not all(map(find_spec, ("captum", "zennit", "torchray"))):
    pytest.skip("the rivals are not installed", allow_module_level=True)

import funcattr as fa
from benchmarks import harness, limit, replay, report, run, tables

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("file", ["README.md", "docs/benchmarks.md", "docs/speed.md"])
def test_the_tables_are_those_of_the_stored_results(file):
    text = (ROOT / file).read_text("utf-8")
    assert "<!-- bench:" in text
    assert report.filled(text, run.RESULTS) == text


def test_the_stored_results_are_of_every_case():
    stored = json.loads((run.RESULTS / "cpu.json").read_text("utf-8"))
    assert set(stored["cases"]) == set(run.CASES)
    assert {"torch", "threads", "processor", "date"} <= set(stored["environment"])


@pytest.mark.compiled
def test_a_case_is_run_and_stored(tmp_path):
    out = tmp_path / "some.json"
    run.run(["small/perceptron"], harness.Setting(threads=1, rounds=1), out)
    record = json.loads(out.read_text("utf-8"))["cases"]["small/perceptron"]
    assert record["ratios"] and record["seconds"]
    assert "perceptron" in tables.cases_of("small/")(json.loads(out.read_text("utf-8")))


def test_a_folder_of_ones_own_gets_the_figures_and_the_plots(tmp_path, monkeypatch):
    points = {k: {"ours": {"median": 1.0}, "limit": {"median": 0.5}} for k in ("1", "4")}
    case = harness.Case(lambda setting: {"points": points, "ratios": {"ours / limit": 2.0}})
    monkeypatch.setattr(run, "CASES", {"curve/resnet18": case})
    monkeypatch.setattr("sys.argv", ["benchmarks", "curve/*", "--rounds=1", f"--out={tmp_path}"])
    run.main()
    assert {path.name for path in tmp_path.iterdir()} == {"cpu.json", "time_per_target.svg"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_no_table_of_one(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "--device=cuda"])
    with pytest.raises(SystemExit):
        run.main()
    assert "needs a GPU" in capsys.readouterr().err


def test_the_table_of_a_gpu_is_of_sweeps_and_lower_precision():
    names = run.chosen([], quick=False, device="cuda")
    assert "sweep/resnet50-K32-B1" in names and "precision/bf16-resnet18" in names
    assert len(names) < 12  # in 9 minutes
    assert run.chosen(["one/*"], quick=False, device="cuda")  # others where they are named


def test_a_wrong_answer_is_not_timed():
    right = torch.ones(3)
    assert harness.check({"right": right}, right, 1e-3) == {"right": 0.0}
    with pytest.raises(harness.Disagreement, match="other"):
        harness.check({"other": 2 * right}, right, 1e-3)


def test_the_kernels_of_a_sweep_make_its_maps():
    conv = nn.Conv2d(3, 4, 3, stride=2)
    model = nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU6(True), nn.Flatten(), nn.Linear(16, 5))
    attr, x = fa.guided_backprop(model.eval()), torch.randn(1, 3, 5, 5)
    run = lambda: fa.sweep(attr, x, targets=range(5), chunk_size=2)
    again = replay.replayed(run)
    assert torch.equal(again(), run()) and torch.equal(again(), run())


def test_the_limit_counts_convolutions_and_products():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU(), conv, nn.Flatten(), nn.Linear(48, 5))
    counted = limit.dense_layers(model, torch.ones(2, 3, 4, 4))
    assert sorted(counted.values()) == [1, 2]
    assert limit.dense_limit(model, torch.ones(2, 3, 4, 4), targets=3)() > 0
