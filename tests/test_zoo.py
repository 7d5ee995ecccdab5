"""The zoo's page says what is stored, nothing stored is wrong, and its judge knows a wrong map."""

import json
from pathlib import Path

import pytest
import torch
from oracle import rule_gradient
from torch import nn

from benchmarks.zoo import oracle, page

ROOT = Path(__file__).parents[1]
STORED = json.loads((ROOT / "benchmarks" / "results" / "zoo.json").read_text("utf-8"))


def test_the_page_is_that_of_the_stored_records():
    assert (ROOT / "docs" / "zoo.md").read_text("utf-8") == page.page(STORED)


def test_no_stored_map_is_wrong():
    records = [r for found in STORED["libraries"].values() for r in found["records"]]
    verdicts = [page.verdict(r) for r in records]
    assert "wrong" not in verdicts
    assert verdicts.count("right") >= 250
    assert len(STORED["libraries"]) >= 12


@pytest.mark.parametrize("rule", ["standard", "guided", "deconvnet"])
def test_the_judges_agree(rule):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU6(), nn.Flatten()
    ).double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    expected = rule_gradient(model, x, 3, rule)
    judge, leaf = oracle.Judge(), x.clone().requires_grad_()
    with oracle.judged(judge, model):
        chosen = model(leaf)[:, 3].sum()
        judge.rule = rule
        (patched,) = torch.autograd.grad(chosen, leaf)
    assert judge.passed["relu"] == 2
    torch.testing.assert_close(patched, expected)
    chosen = model(leaf)[:, 3].sum()
    if rule != "standard":
        torch.testing.assert_close(oracle.by_graph(chosen, leaf, rule, "relu"), expected)
    assert torch.relu(x).min() >= 0 and not hasattr(torch.relu, "__code__")  # all is put back
