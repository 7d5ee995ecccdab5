"""Runs cases by name and stores what they found, with the environment."""

from __future__ import annotations

import argparse
import json
import platform
import time
import traceback
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path

import torch

import funcattr as fa

from . import (
    compilation,
    datasets,
    everyday,
    late,
    memory,
    parts,
    precision,
    relevance,
    single,
    small,
    sweeps,
    tokens,
)
from .harness import RESULTS, Record, Setting, prepare
from .report import draw

GROUPS = (
    single,
    sweeps,
    parts,
    late,
    precision,
    memory,
    small,
    compilation,
    relevance,
    datasets,
    everyday,
    tokens,
)
CASES = {name: case for group in GROUPS for name, case in group.cases().items()}
LIBRARIES = ("torch", "numpy", "captum", "zennit", "torchray", "pytorchcv", "zarr")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="names or globs, such as 'sweep/resnet18*'")
    parser.add_argument("--quick", action="store_true", help="few cases, fewer targets")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="instead of as many as fit a case's time")
    parser.add_argument(
        "--out", type=Path, help="a folder for JSON and plots (single cases: build/benchmarks)"
    )
    parser.add_argument("--list", action="store_true", help="print the names and do nothing")
    options = parser.parse_args()
    names = chosen(options.names, options.quick, options.device)
    if not names:
        parser.error(f"no such case; there are {', '.join(CASES)}")
    if options.list:
        print("\n".join(names))
        return
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {options.device} needs a GPU, and torch sees none here")
    prepare(options.threads)
    setting = Setting(options.device, options.threads, options.rounds, options.quick)
    part = options.quick or options.names
    folder = options.out or (RESULTS.parents[1] / "build" / "benchmarks" if part else RESULTS)
    out = folder / f"{setting.device}.json"
    try:
        run(names, setting, out)
    finally:
        if options.out and out.exists():
            draw(json.loads(out.read_text("utf-8")), folder)


def chosen(globs: list[str], quick: bool, device: str = "cpu") -> list[str]:
    """The names of the cases that match any of the globs.

    Without, all, or the quick ones, or those of the table of a GPU, which fit in 9 minutes.
    """
    if not globs:
        gpu = device != "cpu"
        kept = {n: c for n, c in CASES.items() if (c.quick or not quick) and (c.gpu or not gpu)}
        return list(kept)
    return [name for name in CASES if any(fnmatchcase(name, glob) for glob in globs)]


def run(names: list[str], setting: Setting, out: Path) -> None:
    """Runs cases one after the other; the file is whole after each.

    Raises:
        SystemExit: a case failed; the others were run.
    """
    stored = json.loads(out.read_text("utf-8")) if out.exists() else {"cases": {}}
    stored["environment"] = environment(setting)
    out.parent.mkdir(parents=True, exist_ok=True)
    begin, failed = time.perf_counter(), []
    for name in names:
        start = time.perf_counter()
        try:
            record = CASES[name].run(setting)
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        took = time.perf_counter() - start
        stored["cases"][name] = record | {"took": took}
        out.write_text(json.dumps(stored, indent=1, allow_nan=False) + "\n", "utf-8")
        print(f"{name:32} {took:5.0f} s  {line(record)}", flush=True)
    print(f"{len(names)} cases in {time.perf_counter() - begin:.0f} s: {out}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def line(record: Record) -> str:
    """The ratios of a case; its memory where it has none."""
    if "ratios" in record:
        return ", ".join(f"{name} {ratio:.2f}" for name, ratio in record["ratios"].items())
    points = record.get("bytes", {}).items()
    return ", ".join(f"{way} {max(at.values()) / 2**20:.0f} MiB" for way, at in points)


def environment(setting: Setting) -> Record:
    """What the figures depend on; nothing that names a machine."""
    cuda = setting.device.startswith("cuda")
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "funcattr": fa.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "device": setting.device,
        "processor": torch.cuda.get_device_name() if cuda else processor(),
        "cuda": torch.version.cuda if cuda else None,
        "tf32": torch.backends.cudnn.allow_tf32 if cuda else None,
        "threads": setting.threads,
        **{name: version(name) for name in LIBRARIES},
    }


def version(name: str) -> str | None:
    """Of an installed package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The model of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
