"""``python -m benchmarks.zoo [LIBRARY ...]``: all of them without names."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from . import page

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "zoo.json"
PAGE = HERE.parents[1] / "docs" / "zoo.md"
SILENCE = 240  # seconds without a word from a child, whose own limit for a model is half of that


def main() -> None:
    """Runs libraries one after the other, stores what they found, and writes the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("libraries", nargs="*", help="names of files in benchmarks/zoo/libraries")
    parser.add_argument("--only", help="models whose name has this in it; nothing is stored")
    parser.add_argument("--rest", action="store_true", help="models that are not stored as right")
    parser.add_argument("--page", action="store_true", help="the page again, from what is stored")
    options = parser.parse_args()
    stored = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {"libraries": {}}
    known = sorted(p.stem for p in (HERE / "libraries").glob("*.py") if p.stem[0] != "_")
    unknown = sorted(set(options.libraries) - set(known))
    if unknown:
        parser.error(f"no library {', '.join(unknown)}; there are {', '.join(known)}")
    begin = time.perf_counter()
    for library in [] if options.page else options.libraries or known:
        start = time.perf_counter()
        known_right = stored["libraries"].get(library, {}).get("records", [])
        known_right = [r for r in known_right if options.rest and page.verdict(r) == "right"]
        records = run(library, options.only, known_right)
        found = {"records": records, "seconds": round(sum(r.get("seconds", 0) for r in records))}
        took = time.perf_counter() - start
        print(f"{library:28} {took:5.0f} s  {page.line(records)}", flush=True)
        if options.only:
            print(json.dumps(records, indent=1))
            continue
        stored["libraries"][library] = found
        stored["environment"] = environment()
        RESULTS.write_text(lines(stored), "utf-8")
        PAGE.write_text(page.page(stored), "utf-8")
    if options.only:
        return
    stored["libraries"] = {k: v for k, v in sorted(stored["libraries"].items()) if k in known}
    PAGE.write_text(page.page(stored), "utf-8")
    everything = [r for found in stored["libraries"].values() for r in found["records"]]
    took = time.perf_counter() - begin
    print(f"zoo: {len(stored['libraries'])} libraries, {page.line(everything)} ({took:.0f} s)")


def run(library: str, only: str | None, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of a library; its process is started again behind a model that ended it."""
    done = [record["name"] for record in records]
    order: list[str] = []
    while True:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            out.touch()
            code, lines, errors = watch(library, out, done, only)
        begun, doing = None, "build"
        for line in lines:
            order = line.get("models", order)
            begun, doing = line.get("begins", begun), line.get("doing", doing)
            if "record" in line:
                records.append(clean(line["record"]))
                done.append(line["record"]["name"])
        if code == 0:
            records = [record for record in records if record["name"] in order]
            return sorted(records, key=lambda record: order.index(record["name"]))
        if begun is None or begun in done:  # it ended between models, or before the first
            last = errors.strip().splitlines()[-1:] or [f"exit code {code}"]
            records.append({"name": library, "not_counted": f"cannot be run: {last[0][:200]}"})
            return records
        failed = f"the process ended with {code}"
        records.append({"name": begun, "failed": failed, "doing": doing, "notes": {}})
        done.append(begun)


def watch(library: str, out: Path, done: list[str], only: str | None) -> tuple[int, Any, str]:
    """A child from beginning to end; one that says nothing for long is ended."""
    command = [sys.executable, "-m", "benchmarks.zoo.child", library, str(out), json.dumps(done)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ZOO_ONLY": only or ""}
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=errors)
        while child.poll() is None:
            time.sleep(0.2)
            if time.time() - out.stat().st_mtime > SILENCE:
                child.kill()
        errors.seek(0)
        lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
        return child.returncode, lines, errors.read()


def clean(record: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from run to run, and with numbers that are short."""
    for key in ("off", "differs", "plain", "ours"):
        if key in record:
            finite = record[key] if record[key] < 1e300 else 1e300  # JSON has no more
            record[key] = float(f"{finite:.2g}")
    return record


def lines(stored: dict[str, Any]) -> str:
    """JSON with a line per model."""
    text = json.dumps(stored, sort_keys=True, allow_nan=False)
    return re.sub(r', (?=\{"(activations|failed|name|not_counted|captum)")', ",\n", text) + "\n"


def environment() -> dict[str, Any]:
    """The versions of what was run; nothing that names a machine."""
    found = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    return {"python": platform.python_version(), "packages": dict(sorted(found.items()))}


if __name__ == "__main__":
    main()
