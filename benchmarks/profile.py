"""Where the time of a sweep goes, with the sites of linear operations and without.

    python -m benchmarks.profile resnet18

Prints a table of docs/speed.md: self times by kind of operation, of a guided sweep.
"""

from __future__ import annotations

import argparse
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

import funcattr as fa

from .harness import prepare
from .networks import inputs, model_of

KINDS = {
    "convolutions": ("conv",),
    "batch norm": ("batch_norm", "aten::mul", "aten::rsqrt"),
    "ReLUs": ("threshold", "hardtanh", "relu", "clamp"),
    "max pooling": ("max_pool",),
    "sums of branches, zeros": ("aten::add", "aten::fill_", "aten::zero_"),
    "copies, padding": ("copy_", "pad"),
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("network", nargs="?", default="resnet18")
    name = parser.parse_args().network
    prepare(2)
    model, x = model_of(name, "cpu"), inputs(name)
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


def kinds(run) -> Counter[str]:
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
