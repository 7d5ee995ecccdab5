"""The tables of the docs, made of stored results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

Results = Mapping[str, Any]


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
    records = group(results, "sweep/").values()
    found = {way for r in records for way in r["seconds"]}
    ours = [way for way in ("ours", "ours compiled", "ours in CUDA graphs") if way in found]
    ways = ("limit", *ours, "by hand", "Captum repeated", "Captum loop")
    names = [f"{way} / limit" for way in ours]
    names += ["by hand / ours", "Captum repeated / ours", "Captum loop / ours"]
    most = "Captum loop / limit"  # what there is to gain at all
    head = ["sweep", *ways, *names, most]
    rows = [
        [
            f"{r['network']}, K = {r['targets']}, B = {r['batch']}",
            *(time(r, way, rounds=False) for way in ways),
            *(ratio(r, name) for name in names),
            f"{r['seconds']['Captum loop']['median'] / r['seconds']['limit']['median']:.2f}",
        ]
        for r in records
    ]
    return grid(head, rows)


def headline(results: Results) -> str:
    """The ratios of each group of cases, as a range over its cases, and how to measure them."""
    head = ["ratio of times", "least", "median", "most", "`.venv/bin/python -m benchmarks ...`"]
    rows = []
    for prefix, what in HEADLINES.items():
        found: dict[str, list[float]] = {}
        for case, record in group(results, prefix).items():
            for name, value in record["ratios"].items() if not case.startswith("floor") else ():
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
    "one/": "one map",
    "everyday/": "every day",
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
            if name == ending
        ]
        figures = (
            [f"{x:.3g}" for x in (min(found), median(found), max(found))] if found else [""] * 3
        )
        rows.append([what, *figures, f"`'{prefix}*'`"])
    for record in group(results, "memory/").values():
        ours, theirs = (record["bytes"][way] for way in ("ours reduced", "Captum repeated"))
        shares = sorted(ours[k] / theirs[k] for k in ours)
        figures = [f"{x:.2g}" for x in (shares[0], median(shares), shares[-1])]
        rows.append([f"{MEMORY} (8 to 100 maps)", *figures, "`'memory/*'`"])
    return grid(["", "least", "median", "most", "`.venv/bin/python -m benchmarks ...`"], rows)


MEMORY = "a sweep's peak of memory is this much of that of Captum's repeated input"
FOUR = (
    ("one guided map takes this much of Captum's time", "one/", "guided / Captum guided"),
    ("Captum's loop takes this much of our sweep", "sweep/", "Captum loop / ours"),
    ("1000 Grad-CAM maps take this many forward passes", "late/gradcam", "ours / forward pass"),
)


def maps_of(prefix: str) -> Any:
    """A table of the group ``prefix``: one map, ours as a share of the others' time."""

    def table(results: Results) -> str:
        records = group(results, prefix)
        whole = {name: r for name, r in records.items() if name.endswith(("B1", "B8"))}
        whole = {name: r for name, r in whole.items() if not name.startswith("compiled")}
        names = list(next(iter(whole.values()))["ratios"])
        rows = [
            [
                f"{r['network']}, B = {r['batch']}",
                *(time(r, way, rounds=False) for way in ("guided", "Captum guided")),
                *(ratio(r, name) for name in names),
            ]
            for r in whole.values()
        ]
        return grid(["one map", "guided", "Captum guided", *names], rows)

    return table


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
    "one": ("one/", maps_of("one/")),
    "two": ("two/", maps_of("two/")),
    "compiled": ("one/compiled", cases_of("one/compiled-")),
    "floor": ("one/floor", cases_of("one/floor-")),
    "everyday": ("everyday/", cases_of("everyday/")),
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
