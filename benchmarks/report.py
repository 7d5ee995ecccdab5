"""Puts the stored results into the docs: tables between markers, and plots.

    python -m benchmarks.report README.md docs/benchmarks.md docs/speed.md

Replaces what stands between ``<!-- bench:cpu/sweep -->`` and ``<!-- /bench -->`` by the table
``sweep`` of ``results/cpu.json``, and so on, and draws the plots of the CPU into docs/img.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from .harness import RESULTS
from .tables import TABLES, Results, group

MARKED = re.compile(
    r"(<!-- bench:(?P<device>\w+)/(?P<table>\w+) -->\n).*?(?P<end><!-- /bench -->)", re.DOTALL
)
IMAGES = Path(__file__).parents[1] / "docs" / "img"
COLORS = {
    "limit": "#000000",
    "ours": "#0072b2",
    "ours compiled": "#56b4e9",
    "ours in CUDA graphs": "#004d80",
    "ours reduced": "#0072b2",
    "ours streamed": "#56b4e9",
    "by hand": "#999999",
    "Captum repeated": "#d55e00",
    "Captum loop": "#e69f00",
    "zennit": "#009e73",
    "TorchRay": "#cc79a7",
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="markdown files with markers")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the JSON")
    parser.add_argument("--images", type=Path, default=IMAGES, help="where the plots go")
    options = parser.parse_args()
    for file in options.files:
        file.write_text(filled(file.read_text("utf-8"), options.results), "utf-8")
    draw(read(options.results, "cpu"), options.images)


def read(folder: Path, device: str) -> Results:
    """The stored results of a device."""
    return json.loads((folder / f"{device}.json").read_text("utf-8"))


def filled(text: str, folder: Path) -> str:
    """``text`` with a fresh table between each pair of markers."""

    def fresh(match: re.Match[str]) -> str:
        results = read(folder, match["device"])
        prefix, table = TABLES[match["table"]]
        text = table(results) if group(results, prefix) else "Not measured yet."
        return f"{match[1]}\n{text}\n\n{match['end']}"

    return MARKED.sub(fresh, text)


def draw(results: Results, folder: Path) -> None:
    """The plots for which there are results: time per target and memory against K."""
    if times := group(results, "curve/"):
        points = times["resnet18"]["points"]
        lines: dict[str, list[tuple[int, float]]] = {}
        for k, point in points.items():
            for way, seconds in point.items():
                lines.setdefault(way, []).append((int(k), seconds["median"] / int(k) * 1e3))
        plot(lines, "ms per target, ResNet-18, one image", folder / "time_per_target.svg")
    if peaks := group(results, "memory/"):
        (record,) = peaks.values()
        lines = {
            way: [(int(k), size / 2**20) for k, size in at.items()]
            for way, at in record["bytes"].items()
        }
        plot(lines, "peak memory in MiB, ResNet-18, one image", folder / "memory.svg")


def plot(lines: Mapping[str, Sequence[tuple[int, float]]], label: str, path: Path) -> None:
    """One line per way, on logarithmic axes; the same bytes for the same numbers."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "funcattr"
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for way, points in lines.items():
        style = "--" if way == "limit" else "-"
        axes.plot(*zip(*points, strict=True), style, marker="o", color=COLORS[way], label=way)
    targets = sorted({k for points in lines.values() for k, _ in points})
    axes.set(xscale="log", yscale="log", xlabel="targets K", ylabel=label)
    axes.set_xticks(targets, labels=[str(k) for k in targets], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
