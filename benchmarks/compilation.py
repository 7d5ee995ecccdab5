"""What compiling costs: the first call, and that of a second process with a filled cache."""

from __future__ import annotations

import json
import sys
import tempfile

import funcattr as fa

from . import rivals
from .child import child
from .harness import Case, Record, Setting, check, prepare, ratios, seconds, statistics
from .networks import inputs, network
from .sweeps import TOLERANCE

NETWORK, TARGETS = "resnet50", 8
CHECKED = 4


def measured(device: str, threads: int) -> Record:
    """The first compiled sweep in this process, a later one, and an eager one."""
    prepare(threads)
    model, x = network(NETWORK).to(device), inputs(NETWORK).to(device)
    attr = fa.guided_backprop(model)
    expected = rivals.reference(model, x, range(CHECKED))
    compiled, eager = rivals.ours_compiled(attr, x), rivals.ours(attr, x)
    first = seconds(lambda: compiled(range(TARGETS)))
    answers = {way: f(range(TARGETS))[:CHECKED] for way, f in [("c", compiled), ("e", eager)]}
    return {
        "checked": max(check(answers, expected, TOLERANCE).values()),
        "first": first,
        "later": seconds(lambda: compiled(range(TARGETS))),
        "eager": seconds(lambda: eager(range(TARGETS))),
    }


def compilation(setting: Setting) -> Record:
    """Two processes after each other, that share a cache which is empty at first."""
    where = {"device": setting.device, "threads": setting.threads}
    with tempfile.TemporaryDirectory() as folder:
        caches = {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": f"{folder}/triton"}
        one, two = (child("benchmarks.compilation", where, caches) for _ in range(2))
    samples = {
        "first call": [one["first"]],
        "second process": [two["first"]],
        "later call": [two["later"]],
        "eager call": [two["eager"]],
    }
    return {
        "network": NETWORK,
        "targets": TARGETS,
        "batch": 1,
        "checked": {"ours": max(one["checked"], two["checked"])},
        "seconds": statistics(samples, setting),
        "ratios": ratios(samples, [("first call", "second process")]),
    }


def cases() -> dict[str, Case]:
    """By name."""
    return {f"compile/{NETWORK}": Case(compilation)}


if __name__ == "__main__":
    print(json.dumps(measured(**json.loads(sys.argv[1]))))
