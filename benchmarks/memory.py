"""Peak memory against the number of targets; each point in a process of its own."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import funcattr as fa

from . import rivals
from .child import child
from .harness import Case, Record, Setting, check, prepare
from .networks import inputs, network

NETWORK, CHUNK = "resnet18", 8
TARGETS, QUICK_TARGETS = (8, 32, 100), (32,)


def total(map: Tensor) -> Tensor:
    """What is kept of a map: a number per example."""
    return map.abs().sum((1, 2, 3))


def ours_reduced(attr: fa.Attribution, x: Tensor, targets: range) -> Tensor:
    """A sweep that keeps what `total` returns."""
    return fa.sweep(attr, x, targets=targets, chunk_size=CHUNK, reduce=total)


def ours_streamed(attr: fa.Attribution, x: Tensor, targets: range) -> Tensor:
    """Chunks of whole maps, one after the other."""
    chunks = fa.stream(attr, x, targets=targets, chunk_size=CHUNK)
    return torch.cat([torch.vmap(total)(maps) for _, maps in chunks])


def captum_repeated(method: rivals.Method, x: Tensor, targets: range) -> Tensor:
    """The input repeated once per target, all at once."""
    many = rivals.repeated(method, x, len(targets) * len(x), torch.contiguous_format)
    return torch.vmap(total)(many(targets))


def captum_loop(method: rivals.Method, x: Tensor, targets: range) -> Tensor:
    """One call per target, of which `total` is kept."""
    one = rivals.loop(method, x)
    return torch.cat([torch.vmap(total)(one([t])) for t in targets])


def epsilon_plus(model: torch.nn.Module) -> fa.Attribution:
    """Relevance by a composite."""
    return fa.lrp(model, fa.composites.epsilon_plus())


def zennit_loop(model: torch.nn.Module, x: Tensor, targets: range) -> Tensor:
    """Zennit's epsilon-plus, a forward and a backward pass per target."""
    from .relevance import zennit

    one = zennit(model, x, "epsilon-plus", False)
    return torch.cat([torch.vmap(total)(one([t])) for t in targets])


GUIDED = ("ours reduced", "ours streamed", "Captum repeated", "Captum loop")
WAYS: dict[str, tuple[Callable[..., Any], Callable[..., Tensor]]] = {
    "relevance reduced": (epsilon_plus, ours_reduced),
    "relevance streamed": (epsilon_plus, ours_streamed),
    "zennit loop": (lambda model: model, zennit_loop),
    "ours reduced": (fa.guided_backprop, ours_reduced),
    "ours streamed": (fa.guided_backprop, ours_streamed),
    "Captum repeated": (rivals.captum, captum_repeated),
    "Captum loop": (rivals.captum, captum_loop),
}


def measured(way: str, targets: int, model: str, device: str, threads: int) -> Record:
    """The peak in bytes above what a forward pass of the stored ``model`` leaves; the answer."""
    prepare(threads)
    network, x = torch.load(model, device, weights_only=False), inputs(NETWORK).to(device)
    build, run = WAYS[way]
    explained = build(network)
    with torch.no_grad():
        network(x)
    peak = growth(device)
    totals = run(explained, x, range(targets))
    return {"bytes": peak(), "totals": totals.flatten().tolist()}


def growth(device: str) -> Callable[[], int]:
    """A function of the peak since now, above what is held now."""
    if device == "cpu":
        with suppress(OSError):  # Linux forgets the peak that loading the model had
            Path("/proc/self/clear_refs").write_text("5")
        before = _high_water()
        return lambda: _high_water() - before
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    return lambda: torch.cuda.max_memory_allocated() - held


def _high_water() -> int:
    """The largest resident size so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss starts from the peak of the process that forked this
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory(ways: Sequence[str], setting: Setting) -> Record:
    """The peaks of some ways, the last of which is what the others' answers are checked against."""
    points: dict[str, dict[str, int]] = {way: {} for way in ways}
    checked: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        # Stored, for making it, in train mode, leaves memory that is free for what comes.
        where = {"model": f"{folder}/model.pt", "device": setting.device}
        torch.save(network(NETWORK), where["model"])
        for targets in QUICK_TARGETS if setting.quick else TARGETS:
            found = {}
            for way in ways:
                point = {"way": way, "targets": targets, "threads": setting.threads}
                result = child("benchmarks.memory", where | point)
                points[way][str(targets)] = result["bytes"]
                found[way] = torch.tensor(result["totals"])
            errors = check(found, found[ways[-1]], tolerance=1e-3)
            checked = {way: max(error, checked.get(way, 0.0)) for way, error in errors.items()}
    return {
        "network": NETWORK,
        "batch": 1,
        "chunk_size": CHUNK,
        "checked": checked,
        "bytes": points,
    }


def cases() -> dict[str, Case]:
    """By name."""
    return {f"memory/{NETWORK}": Case(partial(memory, GUIDED), quick=True)}


if __name__ == "__main__":
    print(json.dumps(measured(**json.loads(sys.argv[1]))))
