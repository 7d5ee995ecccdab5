"""The page of the zoo, from the stored records."""

from __future__ import annotations

from collections import Counter
from typing import Any

Record = dict[str, Any]
VERDICTS = ("right", "refused", "crashed", "wrong")

INTRO = """# The zoo

`make zoo` builds models of other people's libraries with random weights, in double precision and
eval mode, and asks of each: do `gradient`, `guided_backprop`, `deconvnet` and a sweep of three
targets give the right map, the forward pass the model's own numbers, and is the model left as it
was? The judge is plain autograd with every activation function replaced
(`benchmarks/zoo/oracle.py`), which shares nothing with how funcattr works; a map is right within
1e-6 of its largest number. Where the two differ, autograd's graph is asked, batch norms are
written out (torch 2.13's gradient of them is wrong for some strides), and of a plain gradient
finite differences. Models without a ReLU are asked with `sites=` the first activation that a
gradient passes, or for the plain gradient alone. Captum's `GuidedBackprop` is judged in the same
way, on the models with ReLUs.

*Refused* is an error that says why; *crashed* is any other error, a process that died, or more
than two minutes. A model that fails in plain torch, whose forward passes differ, or whose output
no gradient reaches is not counted.

The layers of torch_geometric are stacked with `F.relu` between them, as its examples do it; no hook
sees that. `make zoo` takes about half an hour on one core, `python -m benchmarks.zoo timm` one
library, and `--rest` what is not stored as right; `benchmarks/results/zoo.json` is what is stored.
"""


def verdict(record: Record) -> str | None:
    """The worst of a model's checks; None where it is not counted."""
    if "not_counted" in record:
        return None
    if "failed" in record:
        ours = record.get("doing") in ("gradient", "guided", "deconvnet", "sweep", "values")
        return "crashed" if ours or "doing" not in record else None
    return max(record["checks"].values(), key=VERDICTS.index)


def line(records: list[Record]) -> str:
    """Counts, in one line."""
    ours = Counter(filter(None, map(verdict, records)))
    captum = Counter(r["captum"] for r in records if r.get("captum"))
    shown = ", ".join(f"{ours[v]} {v}" for v in VERDICTS)
    peer = ", ".join(f"{captum[v]} {v}" for v in ("right", "refused", "wrong"))
    return f"{sum(ours.values())} models: {shown}; Captum on {sum(captum.values())}: {peer}"


def page(stored: dict[str, Any]) -> str:
    """The whole page."""
    packages = stored["environment"]["packages"]
    rows = [
        "| library | models | right | refused | crashed | wrong | with ReLU | Captum right "
        "| refused | wrong |",
        "| --- " + "| ---: " * 9 + "|",
    ]
    everything: list[Record] = []
    lists: dict[str, list[str]] = {"Not right": [], "Not counted": [], "Right, with a word": []}
    for library, found in stored["libraries"].items():
        records = found["records"]
        everything += records
        rows.append(row(named(library, packages), records))
        for record in records:
            kind, reason = reasons(record)
            if kind:
                lists[kind].append(f"- `{library}` `{record['name']}`: {reason}")
    rows.append(row("**all**", everything))
    seconds = sum(found["seconds"] for found in stored["libraries"].values())
    relu = [r for r in everything if r.get("site") == "relu" and verdict(r)]
    sites = Counter(r.get("site") or "none" for r in everything if verdict(r))
    facts = (
        f"{seconds / 60:.0f} minutes on one core; torch {packages.get('torch')}, Captum "
        f"{packages.get('captum')}. In {sum(r.get('differs', 0) > 1e-3 for r in relu)} of the "
        f"{len(relu)} models with a ReLU the guided map is another than the plain gradient. "
        f"Activations that were asked: {', '.join(f'{k} {v}' for k, v in sites.most_common())}."
    )
    parts = [INTRO, "\n".join(rows), facts]
    for title, lines in lists.items():
        parts.append(f"## {title}\n\n" + ("\n".join(lines) or "None."))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def named(library: str, packages: dict[str, str]) -> str:
    """A library with its version."""
    for name in (library, library.replace("_", "-"), f"{library}_torch"):
        if name in packages:
            return f"{name} {packages[name]}"
    return library


def row(name: str, records: list[Record]) -> str:
    """A line of the table."""
    ours = Counter(filter(None, map(verdict, records)))
    captum = Counter(r["captum"] for r in records if r.get("captum"))
    cells = [sum(ours.values()), *(ours[v] for v in VERDICTS), sum(captum.values())]
    cells += [captum[v] for v in ("right", "refused", "wrong")]
    return f"| {name} | " + " | ".join(map(str, cells)) + " |"


def reasons(record: Record) -> tuple[str, str]:
    """Under which title a model is listed, and what is said of it."""
    found = verdict(record)
    if found is None:
        return "Not counted", escaped(record.get("not_counted") or record["failed"])
    notes = {k: v for k, v in record["notes"].items() if k not in ("captum", "copy")}
    if found == "right":
        said = "; ".join(f"{k}: {v}" for k, v in notes.items())
        return ("Right, with a word", escaped(said)) if said else ("", "")
    if "failed" in record:
        return "Not right", f"{record['failed']} in {record.get('doing', 'it')}"
    bad = {k: v for k, v in sorted(record["checks"].items()) if v != "right"}
    said = dict.fromkeys(f"{v}, {escaped(notes.get(k, ''))}" for k, v in bad.items())
    return "Not right", f"{'/'.join(bad)} " + "; ".join(said)


def escaped(text: str) -> str:
    """Of an error's first line, what Markdown and doctest would take for their own."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">>>", "")
