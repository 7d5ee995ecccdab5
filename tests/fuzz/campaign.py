"""Many networks in several processes, what they found made small, and the tally written down."""

import json
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from random import Random

import torch

from .case import Tally
from .checks import CHECKS
from .compiled import COMPILED, compiled
from .judge import check
from .spec import draw, smaller

TALLY = Path(__file__).with_name("TALLY.json")
KEPT = 5  # seeds per cause


def work(seeds):
    """The tally of some seeds; each finding with the seed that made it."""
    torch.set_num_threads(1)
    tally = Tally()
    for seed in seeds:
        spec = draw(Random(seed))
        before = len(tally.wrong)
        only = (*CHECKS, compiled) if seed % COMPILED == 0 else CHECKS
        check(spec, tally, only)
        tally.wrong[before:] = [(*found, seed) for found in tally.wrong[before:]]
    return tally


def shrunk(spec, name, what, most=300):
    """A smaller spec for which the check of this name still finds what it found."""
    only = [c for c in (*CHECKS, compiled) if c.__name__ == name]
    tries, again = 0, True
    while again:
        again = False
        for less in smaller(spec):
            tries += 1
            tally = Tally()
            check(less, tally, only)
            if any(family(found[1]) == family(what) for found in tally.wrong):
                spec, again = less, True
                break
            if tries > most:
                return spec
    return spec


def family(what):
    """Findings of one cause: what went wrong, without the numbers."""
    return re.sub(r"\b(standard|guided_inclusive|guided|deconvnet|own)\b|\d[\d.e+-]*", "_", what)


def run(first, n, processes, out=print):
    """``n`` networks from seed ``first`` on."""
    parts = [range(at, min(at + 50, first + n)) for at in range(first, first + n, 50)]
    tally = Tally()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for i, part in enumerate(pool.map(work, parts), 1):
            tally.add(part)
            if i % 10 == 0:
                out(f"... {i * 50} seeds: {line(tally)}")
    return tally


def line(tally):
    """All of a tally in one line."""
    refused = ", ".join(f"{n} {why}" for why, n in by_type(tally.refused).items()) or "none"
    return (
        f"networks {tally.networks}, checks {tally.checks}: right {tally.right}, "
        f"nothing to say {sum(tally.skipped.values())}, "
        f"torch cannot {sum(tally.torch_cannot.values())}, "
        f"refused {sum(tally.refused.values())} ({refused}), wrong {len(tally.wrong)}"
    )


def by_type(refused):
    counts = Counter()
    for why, n in refused.items():
        counts[why.split(":")[0]] += n
    return counts


def written(tally, first, n, small=True):
    """The tally as plain values, with the smallest spec of each cause."""
    causes = {}
    for name, what, spec, seed in tally.wrong:
        entry = causes.setdefault(f"{name}: {family(what)}", {"count": 0, "seeds": []})
        entry["count"] += 1
        if len(entry["seeds"]) < KEPT:
            entry["seeds"].append(seed)
        if "what" not in entry:
            entry["what"] = what
            entry["spec"] = repr(shrunk(spec, name, what) if small else spec)
    return {
        "seeds": [first, first + n - 1],
        "torch": torch.__version__.split("+")[0],
        "networks": tally.networks,
        "not differentiable in torch": tally.discarded,
        "checks": tally.checks,
        "by check": dict(tally.by_check.most_common()),
        "right": tally.right,
        "nothing to say": dict(tally.skipped.most_common()),
        "torch cannot": dict(tally.torch_cannot.most_common()),
        "refused": {
            why: {"count": n, "check": tally.examples[why][0], "spec": repr(tally.examples[why][1])}
            for why, n in tally.refused.most_common()
        },
        "wrong": causes,
    }


def save(report, path=TALLY):
    path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
