"""What every case is made of: interleaved timing, its statistics, and the check of the answers.

Clock and statistics are those of ``torch.utils.benchmark`` (its ``timer`` waits for the GPU). Its
``Timer.timeit`` is not used: that runs a statement three times to time it once, which the long
sweeps here cannot afford; they are warmed up once, by the check.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils import benchmark

Record = dict[str, Any]
Seconds = Callable[[], float]
Samples = dict[str, list[float]]
RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Setting:
    """How a case is run; ``rounds`` is None for as many as its time allows."""

    device: str = "cpu"
    threads: int = 2
    rounds: int | None = None
    quick: bool = False


@dataclass(frozen=True)
class Case:
    """A named case: ``run(setting)`` makes its record; ``gpu`` ones are the table of a GPU."""

    run: Callable[[Setting], Record]
    quick: bool = False
    gpu: bool = False


class Disagreement(AssertionError):
    """Two ways to the same maps do not agree, so that their times mean nothing."""


def prepare(threads: int) -> None:
    """Sets up a process: its threads, and convolutions in float32 on a GPU, too, to compare them.

    With TF32 the maps would differ by as much as if a rule were missed at a ReLU.
    """
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False


def seconds(run: Callable[[], object], number: int = 1, scale: float = 1.0) -> float:
    """The time of one ``run()``, the mean of ``number``, times ``scale``."""
    start = benchmark.timer()
    for _ in range(number):
        run()
    return (benchmark.timer() - start) / number * scale


def cpu_seconds(run: Callable[[], object], number: int = 1) -> float:
    """`seconds` of CPU time, all threads together: others on the machine count for less."""
    start = time.process_time()
    for _ in range(number):
        run()
    return (time.process_time() - start) / number


def clock(setting: Setting) -> Callable[..., float]:
    """CPU seconds, where there is no GPU."""
    return cpu_seconds if setting.device == "cpu" else seconds


def interleaved(
    ways: Mapping[str, Seconds], setting: Setting, allowed: float, least: int = 2, most: int = 7
) -> Samples:
    """Rounds of all ways in turn, while another round fits in the ``allowed`` seconds."""
    samples: Samples = {name: [] for name in ways}
    start = time.perf_counter()
    for done in range(1, (setting.rounds or most) + 1):
        for name, way in ways.items():
            samples[name].append(way())
        spent = time.perf_counter() - start
        if not setting.rounds and done >= least and spent * (done + 1) / done > allowed:
            break
    return samples


def statistics(samples: Samples, setting: Setting) -> Record:
    """Median and range of each way, in seconds."""
    spec = benchmark.TaskSpec(stmt="", setup="", num_threads=setting.threads)
    summary = {}
    for name, times in samples.items():
        measured = benchmark.Measurement(number_per_run=1, raw_times=times, task_spec=spec)
        summary[name] = {
            "median": measured.median,
            "min": min(times),
            "max": max(times),
            "rounds": len(times),
        }
    return summary


def ratios(samples: Samples, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """``{"a / b": ...}``, the median over rounds of a's time over b's; absent ways are left out."""
    return {
        f"{a} / {b}": median(x / y for x, y in zip(samples[a], samples[b], strict=True))
        for a, b in pairs
        if a in samples and b in samples
    }


def check(maps: Mapping[str, Tensor], expected: Tensor, tolerance: float) -> dict[str, float]:
    """How far each way is from what is expected: the norm of the difference over the norm.

    Not the largest entry: a ReLU whose input is a rounding error away from 0 opens in one way and
    not in the other, which shows at single pixels, in every float32 computation.

    Raises:
        Disagreement: a way is further off than the tolerance, or has another shape.
    """
    errors = {}
    for name, got in maps.items():
        if got.shape != expected.shape:
            raise Disagreement(f"{name}: shape {tuple(got.shape)}, not {tuple(expected.shape)}")
        size = expected.norm().clamp(min=torch.finfo(expected.dtype).tiny)  # a map may be all zeros
        errors[name] = ((got.detach() - expected).norm() / size).item()
        if not errors[name] <= tolerance:
            raise Disagreement(f"{name} differs by {errors[name]:.1e} of the norm")
    return errors


def chunks(targets: Sequence[int], size: int) -> list[Sequence[int]]:
    """``targets`` in pieces of at most ``size``."""
    return [targets[start : start + size] for start in range(0, len(targets), size)]
