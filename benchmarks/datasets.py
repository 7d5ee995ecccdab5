"""Data sets into a store, against the bare sweeps; two processes against one; memory over time.

Times are CPU seconds of all threads of a process: writing has a thread of its own, which costs no
wall time where a core is free, and is counted here all the same.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import funcattr as fa

from .child import ROOT, child
from .harness import Case, Record, Seconds, Setting, check, interleaved, prepare, ratios, statistics
from .memory import growth
from .networks import inputs, model_of

BATCH, IMAGES, TARGETS, CHUNK = 2, 8, 32, 4
REDUCES: dict[str, Callable[[Tensor], Tensor] | None] = {
    "whole maps": None,
    "reduced": fa.channel_max_abs,
}
SIZES = (100, 200, 400, 800)


def overhead(name: str, setting: Setting) -> Record:
    """The same batches swept and left, or stored; loading costs nothing here."""
    model, xs = model_of(name, setting.device), inputs(name, IMAGES)
    attr = fa.guided_backprop(model)
    checked: dict[str, float] = {}
    ways: dict[str, Seconds] = {}
    with tempfile.TemporaryDirectory() as folder:
        for label, reduce in REDUCES.items():
            place = f"{folder}/{len(ways)}"
            stored(attr, xs, reduce, place)
            swept = torch.cat(bare(attr, xs, reduce))
            checked |= check({label: read(place)}, swept, 1e-6)
            ways[f"bare, {label}"] = partial(cpu_seconds, partial(bare, attr, xs, reduce))
            ways[f"stored, {label}"] = partial(
                cpu_seconds, partial(stored, attr, xs, reduce, place)
            )
        samples = interleaved(ways, setting, allowed=90.0, least=3)
    return {
        "network": name,
        "targets": TARGETS,
        "batch": BATCH,
        "examples": IMAGES,
        "threads_of_each": setting.threads,
        "checked": checked,
        "seconds": statistics(samples, setting),
        "ratios": ratios(samples, [(f"stored, {what}", f"bare, {what}") for what in REDUCES]),
    }


def cpu_seconds(run: Callable[[], object]) -> float:
    """Of all threads of this process."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def bare(attr: fa.Attribution, xs: Tensor, reduce: Any) -> list[Tensor]:
    """The sweeps, and nothing else."""
    how: dict[str, Any] = {"targets": range(TARGETS), "chunk_size": CHUNK, "reduce": reduce}
    starts = range(0, len(xs), BATCH)
    return [fa.sweep(attr, xs[i : i + BATCH], **how).transpose(0, 1) for i in starts]


def stored(attr: fa.Attribution, xs: Tensor, reduce: Any, place: str) -> None:
    """The same into a store that is made anew."""
    shutil.rmtree(place, ignore_errors=True)
    into(attr, xs, reduce, place)


def into(attr: fa.Attribution, xs: Tensor, reduce: Any, place: str) -> None:
    """The same into a store."""
    fa.sweep_dataset(
        attr, xs, targets=range(TARGETS), store=place, batch_size=BATCH, chunk_size=CHUNK,
        reduce=reduce, progress=False,
    )  # fmt: skip


def read(place: str) -> Tensor:
    """The maps of a store."""
    import zarr

    return torch.from_numpy(zarr.open_array(f"{place}/maps", mode="r")[:])


def processes(name: str, setting: Setting) -> Record:
    """One process of one thread, and two that share the work; the same with bare sweeps.

    What two bare sweeps at once lose is the processor's, whose cores share caches and memory. The
    time of two processes is that of the one which takes longer.
    """
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Seconds] = {
            f"{word}, {kind}": partial(_slowest, count, name, kind, f"{folder}/store")
            for kind in ("stored", "bare")
            for word, count in {"one process": 1, "two processes": 2}.items()
        }
        samples = interleaved(ways, setting, allowed=180.0, least=3)
    pairs = [(f"one process, {kind}", f"two processes, {kind}") for kind in ("stored", "bare")]
    return {
        "network": name,
        "targets": TARGETS,
        "batch": BATCH,
        "examples": IMAGES,
        "threads_of_each": 1,
        "seconds": statistics(samples, setting),
        "ratios": ratios(samples, pairs),
    }


def _slowest(count: int, name: str, kind: str, place: str) -> float:
    """The time of the last of so many processes, from when all of them are ready."""
    shutil.rmtree(place, ignore_errors=True)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    argument = json.dumps({"kind": kind, "name": name, "place": place})
    command = [sys.executable, "-m", "benchmarks.datasets", argument]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    begun = [
        subprocess.Popen(
            command, cwd=ROOT, env=os.environ | shared | {"RANK": str(rank)},
            stdout=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    said = [process.communicate()[0] for process in begun]
    if any(process.returncode for process in begun):
        raise RuntimeError("a process of the benchmark failed")
    return max(json.loads(text.splitlines()[-1]) for text in said)


def one_of(kind: str, name: str, place: str) -> float:
    """What one process does: its share, timed."""
    prepare(1)
    torch.distributed.init_process_group("gloo")
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    attr, xs = fa.guided_backprop(model_of(name, "cpu")), inputs(name, IMAGES)
    bare(attr, xs[:BATCH], None)
    torch.distributed.barrier()
    if kind == "stored":
        return cpu_seconds(partial(into, attr, xs, None, place))
    mine = xs.unflatten(0, (-1, BATCH))[rank::size].flatten(0, 1)
    return cpu_seconds(partial(bare, attr, mine, None))


def memory(setting: Setting) -> Record:
    """The peak of a process, by the number of examples that it stores the maps of."""
    sizes: Sequence[int] = SIZES[:2] if setting.quick else SIZES
    found = {str(size): child("benchmarks.datasets", {"count": size}) for size in sizes}
    return {
        "network": "two convolutions",
        "targets": 20,
        "batch": 8,
        "bytes": {"sweep_dataset": {size: peak for size, (peak, _) in found.items()}},
        "on_disk": {size: disk for size, (_, disk) in found.items()},
    }


def peak_of(count: int) -> tuple[int, int]:
    """The peak in bytes above what a first sweep leaves, and the bytes that are stored."""
    prepare(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 20, 3), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )  # fmt: skip
    attr = fa.guided_backprop(model)
    how: dict[str, Any] = {"targets": range(20), "batch_size": 8, "progress": False}
    xs = [torch.randn(3, 64, 64) for _ in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        fa.sweep_dataset(attr, xs[:8], store=f"{folder}/first", **how)
        peak = growth("cpu")
        fa.sweep_dataset(attr, xs, store=f"{folder}/all", **how)
        files = [path for path in Path(folder, "all").rglob("*") if path.is_file()]
        return peak(), sum(path.stat().st_size for path in files)


def cases() -> dict[str, Case]:
    """By name."""
    found = {
        f"dataset/overhead-{name}": Case(partial(overhead, name))
        for name in ("resnet18", "efficientnet_lite0")
    }
    found["dataset/processes"] = Case(partial(processes, "efficientnet_lite0"))
    return found | {"dataset/memory": Case(memory, quick=True)}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(peak_of(**given) if "count" in given else one_of(**given)))
