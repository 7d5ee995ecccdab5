"""Where the time of a guided sweep goes, or of a single map.

    python -m benchmarks.profile resnet18
    python -m benchmarks.profile --one resnet18

Prints a table of docs/speed.md: self times by kind of operation. That of a sweep has it with the
sites of linear operations and without, that of a map has Captum beside it, on one thread.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import signal
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from captum.attr import GuidedBackprop
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import funcattr as fa
from funcattr.cotangents import cotangents
from funcattr.engine.backward import Backward
from funcattr.engine.linearize import linearize
from funcattr.models.copies import Copy
from funcattr.operations.intercept import Intercept
from funcattr.operations.site import Site, site

from .harness import cpu_seconds, prepare
from .networks import inputs, model_of

KINDS = {
    "convolutions": ("conv",),
    "batch norm": ("batch_norm", "aten::mul", "aten::rsqrt"),
    "ReLUs": ("threshold", "hardtanh", "relu", "clamp"),
    "max pooling": ("max_pool",),
    "sums of branches, zeros": ("aten::add", "aten::fill_", "aten::zero_"),
    "copies, padding": ("copy_", "pad"),
}


#: What a single map is made of, by the code that runs.
PARTS = {
    Copy.__init__.__code__: "a copy of the modules",
    Intercept.around.__code__: "the model, and the mode that sees its calls",
    site.__code__: "sites, forward",
    inspect.unwrap(Backward.__call__).__code__: "autograd",
    Site.backward.__code__: "sites, backward",
    inspect.unwrap(cotangents).__code__: "the cotangent of the target",
    inspect.unwrap(linearize).__code__: "arguments, layers, checks of the graph",
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("network", nargs="?", default="resnet18")
    parser.add_argument("--one", action="store_true", help="a single map, on one thread")
    given = parser.parse_args()
    prepare(1 if given.one else 2)
    model, x = model_of(given.network, "cpu"), inputs(given.network)
    (one if given.one else sweep)(model, x)


def one(model: nn.Module, x: Tensor) -> None:
    """The tables of a single map: by kind of operation, and by what part of ours is running."""
    attr, theirs = fa.guided_backprop(model), copy.deepcopy(model)
    warnings.simplefilter("ignore")  # Captum's, on every call
    ours = _milliseconds(lambda: attr(x, target=3))
    captum = _milliseconds(lambda: GuidedBackprop(theirs).attribute(x, target=3))
    print("| milliseconds | Captum | ours |\n| --- | ---: | ---: |")
    for kind in ours:
        print(f"| {kind} | {captum[kind]:.2f} | {ours[kind]:.2f} |")
    print("\n| part | share |\n| --- | ---: |")
    for part, share in _parts(lambda: attr(x, target=3)).items():
        print(f"| {part} | {share:.2f} |")


def _milliseconds(run: Callable[[], Any], rounds: int = 15) -> dict[str, float]:
    """Medians by kind of operation; the profiler is off while the whole call is timed."""
    found = [kinds(run) for _ in range(rounds)]
    times = {kind: 1e3 * statistics.median(some[kind] for some in found) for kind in KINDS}
    whole = 1e3 * statistics.median(cpu_seconds(run, 5) for _ in range(rounds))
    return {**times, "all else, Python": whole - sum(times.values()), "all": whole}


def _parts(run: Callable[[], Any], seconds: float = 20.0) -> Counter[str]:
    """The share of CPU time of each of `PARTS`, without others that it calls: stacks, sampled."""
    found: Counter[str] = Counter(dict.fromkeys((*PARTS.values(), "all else"), 0))

    def sample(_: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code not in PARTS:
            frame = frame.f_back
        found["all else" if frame is None else PARTS[frame.f_code]] += 1

    signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    end = time.process_time() + seconds
    while time.process_time() < end:
        run()
    signal.setitimer(signal.ITIMER_PROF, 0)
    number = found.total()
    return Counter({part: count / number for part, count in found.items()})


def sweep(model: nn.Module, x: Tensor) -> None:
    """The table of a sweep: seconds."""
    attr = fa.guided_backprop(model)

    def naive() -> None:
        _, pull = torch.func.vjp(fa.relu_rule(model), x)
        for chunk in torch.eye(1000)[:32].split(8):
            torch.vmap(pull)(chunk[:, None])

    def ours() -> None:
        fa.sweep(attr, x, targets=range(32), chunk_size=8)

    before, after = kinds(naive), kinds(ours)
    print("| | before | after |\n| --- | ---: | ---: |")
    for kind in before:
        print(f"| {kind} | {before[kind]:.2f} | {after[kind]:.2f} |")
    print(f"| all | {before.total():.2f} | {after.total():.2f} |")


def kinds(run: Callable[[], Any]) -> Counter[str]:
    """Seconds by kind of operation, of the second of two runs."""
    run()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run()
    times: Counter[str] = Counter(dict.fromkeys((*KINDS, "all else"), 0.0))
    for event in found.key_averages():
        kind = next((k for k, parts in KINDS.items() if any(p in event.key for p in parts)), "")
        times[kind or "all else"] += event.self_cpu_time_total / 1e6
    return times


if __name__ == "__main__":
    main()
