"""A few random networks with every run of the tests; ``make fuzz`` has thousands."""

import inspect
from random import Random

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import funcattr as fa
from fuzz import (
    activations,
    checks,
    holders,
    networks,
    oracles,
    pieces,
    relevance_check,
    writing_pieces,
)
from fuzz.campaign import shrunk
from fuzz.case import RULES, Case, Tally
from fuzz.compiled import compiled
from fuzz.judge import check
from fuzz.linear_oracle import STEADY
from fuzz.relevance_check import LINEAR_RULES
from fuzz.spec import Block, Spec, draw

pytestmark = pytest.mark.skipif(
    "early_stop" not in inspect.signature(checkpoint).parameters,
    reason="checkpoints of the networks ask for what came later",
)
FIRST, NETWORKS = 10001, 60


def put_through(number, only=checks.CHECKS):
    """The tally of networks by seeds; hypothesis draws others with every module that is loaded."""
    tally = Tally()
    for seed in range(FIRST, FIRST + number):
        check(draw(Random(seed)), tally, only)
    return tally


def test_networks():
    tally = put_through(NETWORKS)
    found = [
        f"{name}: {what}\n{shrunk(spec, name, what)!r}" for name, what, spec in tally.wrong[:3]
    ]
    assert not found, "\n\n".join(found)
    assert tally.networks > 0.6 * NETWORKS
    assert tally.right > 0.7 * tally.checks
    refused = sum(tally.refused.values())
    assert refused <= 0.1 * tally.checks, tally.refused  # a library that refuses is no use


def test_what_is_drawn():
    """All kinds of pieces, all spellings, all places to hold a module."""
    drawn = repr([draw(Random(seed)) for seed in range(3000)])
    for table in (pieces.KINDS, activations.RELUS, activations.OTHERS, writing_pieces.PATTERNS):
        assert not [name for name in table if repr(name) not in drawn]
    for name in (*holders.HOLDERS, *holders.FORWARDS):
        assert repr(name) in drawn


@pytest.mark.parametrize("name", activations.RELUS)
def test_a_wrong_rule_is_found(name, monkeypatch):
    """For each spelling: the checks find a library whose guided rule is another."""
    block = Block("Mix", {"relu": name})
    spec = Spec(seed=4, dims=1, blocks=(block, block))
    tally = Tally()
    check(spec, tally, [checks.rules])
    assert (tally.right, tally.wrong) == (1, [])
    monkeypatch.setitem(RULES, "guided", lambda x, g: 0.99 * fa.rules.guided(x, g))
    check(spec, tally, [checks.rules])
    assert [found[:1] for found in tally.wrong] == [("rules",)]


@pytest.mark.parametrize("name", LINEAR_RULES)
def test_a_wrong_relevance_rule_is_found(name, monkeypatch):
    spec = Spec(seed=4, dims=0, blocks=(Block("Mix", {"relu": "F.relu"}),))
    monkeypatch.setattr(Case, "rule", lambda case: "standard")
    monkeypatch.setattr(relevance_check, "FORMULAS", {name: relevance_check.FORMULAS[name]})
    tally = Tally()
    check(spec, tally, [checks.relevance])
    assert (tally.right, tally.wrong) == (1, [])
    other = fa.rules.epsilon(STEADY) if name != "epsilon" else fa.rules.z_plus(eps=STEADY)
    monkeypatch.setitem(LINEAR_RULES, name, other)
    check(spec, tally, [checks.relevance])
    assert [found[:1] for found in tally.wrong] == [("relevance",)]


def test_what_changes_is_found(monkeypatch):
    spec = Spec(seed=3, dims=0, blocks=(Block("Mix", {"relu": "F.relu"}),))

    def writes(case):
        case.model.head.weight.data.add_(1)

    def hooks(case):
        case.model.register_forward_hook(lambda *args: None)

    tally = Tally()
    check(spec, tally, [writes, hooks])
    assert [name for name, _, _ in tally.wrong] == ["writes", "hooks"]


def test_the_oracle_leaves_out_what_torch_refuses_in_a_checkpoint():
    """Its own network has by hand what the other asks of torch.func, and must not run it."""
    for how in ("grad", "vjp", "jvp", "vmap"):
        inside = Block("Inside", {"relu": "F.relu", "how": how})
        block = Block("Checkpoint", {"inner": (inside,), "early": True})
        spec = Spec(seed=1, dims=0, blocks=(block,))
        ours, theirs = networks.build(spec), oracles.Oracle(spec).net
        assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
        assert ours.left_out == theirs.left_out == (how in ("grad", "vjp"))


def test_no_second_derivative_is_asked_where_torch_has_none():
    """The numbers after a ReLU that are exactly 0, in a PReLU."""
    blocks = (Block("Relu", {"relu": "Tensor.relu"}), Block("Other", {"name": "nn.PReLU"}))
    tally = Tally()
    check(Spec(seed=694713, dims=2, blocks=blocks), tally, [checks.params])
    assert (tally.right, tally.wrong) == (1, [])


def test_the_oracle_survives_a_view_written_to_through_another():
    """Torch dies of a hook on it; this was the end of the process."""
    options = {"own": True, "relu": "F.relu", "in place": "F.relu_", "reuse": False}
    patterns = ("rectify_transposed", "assign_a_view")
    blocks = [Block("Write", {"pattern": pattern, **options}) for pattern in patterns]
    spec = Spec(seed=1, dims=0, blocks=(Block("ToSequence", {"token": False}), *blocks))
    oracles.Oracle(spec).at_layer("body.2.own", 0, 0, True)


@pytest.mark.parametrize("at_input", [False, True])
def test_the_oracle_at_a_layer_by_hand(at_input):
    """In place, read by a skip path: the tap of the oracle against numbers split by hand."""
    options = {"pattern": "skip_reads_the_rectified", "own": True, "reuse": False}
    options |= {"relu": "F.relu", "in place": "nn.ReLU(inplace)"}
    block = Block("Write", options)
    spec = Spec(seed=5, dims=0, blocks=(block,), squared=False)
    oracle = oracles.Oracle(spec)
    ((g, a),) = oracle.at_layer("body.0.act_", 0, 1, at_input)
    net = oracle.net
    before = net.body[0].own(networks.inputs(spec)[0][0]).detach().requires_grad_()
    after = before.clamp(min=0)
    net.head(after + net.body[0].lin(after))[:, 1].sum().backward()
    if at_input:
        torch.testing.assert_close((g, a), (before.grad, before.detach()))
    else:
        later = after.detach().requires_grad_()
        net.head(later + net.body[0].lin(later))[:, 1].sum().backward()
        torch.testing.assert_close((g, a), (later.grad, later.detach()))


@pytest.mark.compiled
def test_a_network_that_breaks_the_compilers_graph():
    """Its forward pass was compiled in pieces, and pulled by Python: an AssertionError."""
    tally = Tally()
    check(draw(Random(20009)), tally, [compiled])
    assert (tally.right, tally.wrong) == (1, [])
