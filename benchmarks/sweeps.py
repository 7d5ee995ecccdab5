"""Sweeps: ours, compiled, Captum, zennit and TorchRay, against the dense limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import product

import torch
from torch import Tensor, nn

import funcattr as fa

from . import rivals
from .harness import (
    Case,
    Record,
    Seconds,
    Setting,
    check,
    interleaved,
    ratios,
    seconds,
    statistics,
)
from .limit import dense_limit
from .networks import inputs, model_of
from .rivals import Maps

TOLERANCE = 5e-3  # of the norm; a rule missed at a single ReLU makes 1e-2 at the least
CHECKED = 4  # targets
LOOPED = 2  # targets over which a loop is timed
# Images over which a sweep is timed on a CPU; what it takes for more is extrapolated.
IMAGES = {"vgg11": 16, "vgg16": 16}
MOST_IMAGES = 64
CURVE = (1, 4, 16, 32, 100)
OURS = ("ours", "ours compiled", "ours in CUDA graphs")
ONE_FORWARD = (*OURS, "by hand")
MISSED = "Captum sees no ReLU6: its maps are the plain gradient, another answer."


@dataclass(frozen=True)
class Bench:
    """One network at one batch size: all that its cases share."""

    name: str
    model: nn.Module
    x: Tensor
    maps: dict[str, Maps]
    forward: Callable[[], object]
    checked: dict[str, float]
    note: str


@lru_cache(maxsize=1)  # cases of one network and batch follow each other, and share a compilation
def bench(name: str, batch: int, device: str, others: bool, compiled: bool) -> Bench:
    """Builds all ways to a network's maps and checks them; ``others``: zennit and TorchRay too."""
    torch.compiler.reset()
    model, x = model_of(name, device), inputs(name, batch).to(device)
    attr = fa.guided_backprop(model)
    fast, how = _best(name, device)
    maps: dict[str, Maps] = {"ours": rivals.ours(attr, x)}
    if compiled:
        maps["ours compiled"] = rivals.ours_compiled(attr, x)
    if compiled and device != "cpu":
        maps["ours in CUDA graphs"] = rivals.ours_compiled(attr, x, "reduce-overhead")
    maps["by hand"] = partial(rivals.gradients, rivals.surgery(model), x)
    maps["Captum repeated"] = fast(x)
    maps["Captum loop"] = rivals.loop(rivals.captum(model), x)
    if others:
        for label, make in {"zennit": rivals.zennit, "TorchRay": rivals.torchray}.items():
            maps[label] = rivals.repeated(make(model), x, 8, torch.contiguous_format)
    targets = range(CHECKED)
    answers = {label: way(targets) for label, way in maps.items()}
    expected = rivals.reference(model, x, targets)
    note = f"Captum repeated: {how}."
    if name == "efficientnet_lite0":
        theirs = {label: answers.pop(label) for label in list(answers) if "Captum" in label}
        checked = check(theirs, rivals.gradients(model, x, targets), TOLERANCE)
        note = f"{note} {MISSED}"
    else:
        checked = {}
    checked |= check(answers, expected, TOLERANCE)
    return Bench(name, model, x, maps, partial(attr.linearize, x), checked, note)


@cache
def _best(name: str, device: str) -> tuple[Callable[[Tensor], Maps], str]:
    """Captum's fastest repeated input, chosen at batch 1 for a network."""
    return rivals.best_repeated(rivals.captum, model_of(name, device), inputs(name).to(device))


def sweep(
    name: str,
    targets: int,
    batch: int,
    setting: Setting,
    *,
    compiled: bool = True,
    others: bool = False,
    allowed: float = 10.0,
) -> Record:
    """Times each way to ``targets`` maps of one batch."""
    at = bench(name, batch, setting.device, others, compiled)
    per_way = {
        **dict.fromkeys(OURS, timed_targets(name, targets, batch, setting)),
        "by hand": min(targets, CHECKED),
        "Captum repeated": min(targets, max(1, max(rivals.REPEATED_IMAGES) // batch)),
        "Captum loop": min(targets, LOOPED),
        "zennit": min(targets, 8),
        "TorchRay": min(targets, 8),
    }
    ways: dict[str, Seconds] = {"limit": dense_limit(at.model, at.x, targets)}
    for label, maps in at.maps.items():
        if label in per_way:
            shared = at.forward if label in ONE_FORWARD else None
            ways[label] = sweep_seconds(maps, targets, per_way[label], shared)
    samples = interleaved(ways, setting, allowed)
    return {
        "network": name,
        "targets": targets,
        "batch": batch,
        "checked": at.checked,
        "timed_targets": {label: per_way[label] for label in ways if label in per_way},
        "note": at.note,
        "seconds": statistics(samples, setting),
        "ratios": ratios(
            samples,
            [
                *((way, "limit") for way in OURS),
                ("by hand", "ours"),
                *product(("Captum repeated", "Captum loop"), OURS),
            ],
        ),
    }


def timed_targets(name: str, targets: int, batch: int, setting: Setting) -> int:
    """How many targets our sweep is timed over: all, or on a CPU what a case has time for."""
    if setting.device != "cpu":
        return targets
    return min(targets, IMAGES.get(name, MOST_IMAGES) // batch)


def sweep_seconds(
    maps: Maps, targets: int, timed: int, shared: Callable[[], object] | None = None
) -> Seconds:
    """The time of ``maps`` for all targets, from that of the first ``timed`` of them.

    What is left is extrapolated in proportion, but for what all targets share, which counts once.
    """

    def way() -> float:
        time = seconds(partial(maps, range(timed)))
        if timed == targets:
            return time
        once = 0.0 if shared is None else seconds(shared)
        return once + (time - once) * targets / timed

    return way


def curve(setting: Setting) -> Record:
    """Time against the number of targets, of all libraries."""
    # On a GPU each of these numbers is a chunk, and is compiled by itself.
    how = {"others": True, "allowed": 10.0, "compiled": setting.device == "cpu"}
    points = {
        str(k): sweep("resnet18", k, 1, setting, **how)
        for k in (CURVE if not setting.quick else CURVE[:3])
    }
    first = next(iter(points.values()))
    return {
        "network": "resnet18",
        "batch": 1,
        "checked": first["checked"],
        "note": first["note"],
        "points": {k: point["seconds"] for k, point in points.items()},
    }


def cases() -> dict[str, Case]:
    """By name; those of one network and batch next to each other."""
    found: dict[str, Case] = {}
    for name in ("resnet18", "resnet50", "vgg16", "efficientnet_lite0"):
        for batch in 1, 4:
            for targets in 32, 100:
                run = partial(sweep, name, targets, batch)
                quick = (name, targets, batch) == ("resnet18", 32, 1)
                gpu = (targets, batch) == (32, 1) and name.startswith("resnet")
                found[f"sweep/{name}-K{targets}-B{batch}"] = Case(run, quick, gpu)
    few = partial(sweep, "efficientnet_lite0", 8, 1, compiled=False)
    found["sweep/efficientnet_lite0-K8-B1"] = Case(few, quick=True, gpu=True)
    found["curve/resnet18"] = Case(curve, gpu=True)
    return found
