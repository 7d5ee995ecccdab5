"""Puts the stored results into the docs: tables between markers, and plots.

    python -m benchmarks.report README.md docs/benchmarks.md docs/speed.md

Replaces what stands between ``<!-- bench:cpu/sweep -->`` and ``<!-- /bench -->`` by the table
``sweep`` of ``results/cpu.json``, and so on, and draws the plots of the CPU into docs/img.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .run import RESULTS

Results = Mapping[str, Any]
MARKED = re.compile(
    r"(<!-- bench:(?P<device>\w+)/(?P<table>\w+) -->\n).*?(?P<end><!-- /bench -->)", re.DOTALL
)
IMAGES = Path(__file__).parents[1] / "docs" / "img"
COLORS = {
    "limit": "#000000",
    "ours": "#0072b2",
    "ours compiled": "#56b4e9",
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


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def time(record: Results, way: str, rounds: bool = True) -> str:
    """The median of a way and, in brackets, the range of its rounds, and how many there were."""
    if way not in record["seconds"]:
        return ""
    found = record["seconds"][way]
    unit, scale = next((u, s) for u, s in UNITS if found["median"] >= s or u == "µs")
    median, least, most = (f"{found[k] / scale:.3g}" for k in ("median", "min", "max"))
    if found["rounds"] == 1:
        return f"{median} {unit}"
    many = f", {found['rounds']} rounds" if rounds else ""
    return f"{median} {unit} ({least}-{most}{many})"


UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))


def ratio(record: Results, name: str) -> str:
    """A stored ratio of two ways."""
    return f"{record['ratios'][name]:.2f}" if name in record["ratios"] else ""


def group(results: Results, prefix: str) -> dict[str, Results]:
    """The cases whose names begin so, by what follows."""
    cases = results["cases"].items()
    return {name.removeprefix(prefix): r for name, r in cases if name.startswith(prefix)}


def environment(results: Results) -> str:
    """Where the figures come from, in a sentence."""
    at = results["environment"]
    versions = ", ".join(
        f"{name} {at[name]}" for name in ("torch", "captum", "zennit", "torchray") if at.get(name)
    )
    where = f"{at['processor']}, {at['threads']} threads"
    return f"funcattr {at['funcattr']}, {versions}, Python {at['python']}; {where}; {at['date']}."


def sweep(results: Results) -> str:
    """Every sweep: the limit, and ours and Captum's as multiples."""
    ways = ("limit", "ours", "ours compiled", "by hand", "Captum repeated", "Captum loop")
    names = ("ours / limit", "ours compiled / limit")
    names += ("by hand / ours", "Captum repeated / ours", "Captum loop / ours")
    most = "Captum loop / limit"  # what there is to gain at all
    head = ["sweep", *ways, *names, most]
    rows = [
        [
            f"{r['network']}, K = {r['targets']}, B = {r['batch']}",
            *(time(r, way, rounds=False) for way in ways),
            *(ratio(r, name) for name in names),
            f"{r['seconds']['Captum loop']['median'] / r['seconds']['limit']['median']:.2f}",
        ]
        for r in group(results, "sweep/").values()
    ]
    return grid(head, rows)


def headline(results: Results) -> str:
    """The ratios of each group of cases, as a range over its cases, and how to measure them."""
    head = ["ratio of times", "least", "median", "most", "`.venv/bin/python -m benchmarks ...`"]
    rows = []
    for prefix, what in HEADLINES.items():
        found: dict[str, list[float]] = {}
        for record in group(results, prefix).values():
            for name, value in record["ratios"].items():
                found.setdefault(name, []).append(value)
        for name, v in found.items():
            figures = (f"{x:.3g}" for x in (min(v), median(v), max(v)))
            rows.append([f"{what}: {name}", *figures, f"`'{prefix}*'`"])
    return grid(head, rows)


HEADLINES = {
    "sweep/": "sweep",
    "late/gradcam": "1000 Grad-CAM maps",
    "late/layer_gxa": "1000 maps of layer gradient x activation",
    "rules/": "four methods",
    "small/perceptron": "a map of a perceptron",
}


def four(results: Results) -> str:
    """The four ratios of the README, as a range over the cases."""
    rows = []
    for what, prefix, ending in FOUR:
        found = [
            value
            for record in group(results, prefix).values()
            for name, value in record.get("ratios", {}).items()
            if name.endswith(ending)
        ]
        figures = (
            [f"{x:.3g}" for x in (min(found), median(found), max(found))] if found else [""] * 3
        )
        rows.append([what, *figures, f"`'{prefix}*'`"])
    return grid(["", "least", "median", "most", "`.venv/bin/python -m benchmarks ...`"], rows)


FOUR = (
    ("our sweep takes this much of the dense limit", "sweep/", "ours / limit"),
    ("Captum's loop takes this much of our sweep", "sweep/", "Captum loop / ours"),
    (
        "zennit's loop takes this much of our sweep of relevance",
        "relevance/",
        "zennit loop / epsilon-plus",
    ),
    ("1000 Grad-CAM maps take this many forward passes", "late/gradcam", "ours / forward pass"),
)


def cases_of(prefix: str) -> Any:
    """A table of the group ``prefix``: a line per case and way, then its ratios."""

    def table(results: Results) -> str:
        rows = []
        for name, record in group(results, prefix).items():
            if "seconds" not in record:
                continue
            rows += [[f"{name}: {way}", time(record, way)] for way in record["seconds"]]
            rows += [[f"{name}: {pair}", f"{v:.3g}"] for pair, v in record["ratios"].items()]
        return grid(["case", "time or ratio"], rows)

    return table


def precision(results: Results) -> str:
    """Speed of bfloat16 beside the agreement of its maps."""
    head = ["sweep", "time", "float32's time over it", "rank correlation", "equal signs"]
    rows = []
    for record in group(results, "precision/").values():
        for way in record["seconds"]:
            agreement = record["agreement"].get(way, {})
            values = [f"{v:.4f}" for v in agreement.values()] or ["", ""]
            speed = ratio(record, f"float32 / {way}")
            rows.append([f"{record['network']}, {way}", time(record, way), speed, *values])
    return grid(head, rows)


def memory(results: Results) -> str:
    """Peak memory against the number of targets."""
    (record,) = group(results, "memory/").values()
    points = record["bytes"]
    targets = list(next(iter(points.values())))
    rows = [[way, *(f"{at[k] / 2**20:.0f} MiB" for k in targets)] for way, at in points.items()]
    return grid(["peak", *(f"K = {k}" for k in targets)], rows)


def dataset(results: Results) -> str:
    """Times and ratios, and the peak of a process beside what it stored."""
    record = group(results, "dataset/")["memory"]
    peaks, stored = record["bytes"]["sweep_dataset"], record["on_disk"]
    rows = [
        f"| memory: {count} examples, {stored[count] / 2**20:.0f} MiB stored | "
        f"{peaks[count] / 2**20:.0f} MiB |"
        for count in peaks
    ]
    return "\n".join([cases_of("dataset/")(results), *rows])


def curve(results: Results) -> str:
    """Time per target against the number of targets."""
    points = group(results, "curve/")["resnet18"]["points"]
    ways = dict.fromkeys(way for point in points.values() for way in point)

    def cell(way: str, k: str) -> str:
        return f"{points[k][way]['median'] / int(k) * 1e3:.1f}" if way in points[k] else ""

    rows = [[way, *(cell(way, k) for k in points)] for way in ways]
    return grid(["ms per target", *(f"K = {k}" for k in points)], rows)


TABLES = {  # name -> the cases that it needs, and how it is made of them
    "environment": ("", environment),
    "headline": ("sweep/", headline),
    "four": ("sweep/", four),
    "sweep": ("sweep/", sweep),
    "parts": ("parts/", cases_of("parts/")),
    "late": ("late/", cases_of("late/")),
    "rules": ("rules/", cases_of("rules/")),
    "small": ("small/", cases_of("small/")),
    "compile": ("compile/", cases_of("compile/")),
    "precision": ("precision/", precision),
    "relevance": ("relevance/", cases_of("relevance/")),
    "memory": ("memory/", memory),
    "dataset": ("dataset/", dataset),
    "curve": ("curve/", curve),
}


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
