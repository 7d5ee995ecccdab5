"""The suite on every row of .ci/matrix.txt, and the table of docs/versions.md.

python3 .ci/matrix.py [TORCH ...] runs the rows of these torches, all of them without arguments.
The Pythons of the rows are found by their names (python3.10); rows of one that is not there are
left as they are. An environment goes when the next one is made: torch may take 5 GB.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "build" / "matrix"
PYTHON = str(PLACE / "bin" / "python")
PAGE = ROOT / "docs" / "versions.md"
BEGIN, END = "<!-- matrix -->\n", "<!-- /matrix -->\n"
HEAD = ("asked for", "torch", "numpy", "Python", "passed", "skipped", "failed")
NEWEST = "newest"


class Row(NamedTuple):
    """One line of .ci/matrix.txt."""

    torch: str
    numpy: str
    python: str

    @property
    def asked(self) -> str:
        """The first cell of its line in the table, by which it is found."""
        return f"torch {self.torch}, numpy {self.numpy}, Python {self.python}"


def rows() -> Iterator[Row]:
    """Those of .ci/matrix.txt."""
    for line in (ROOT / ".ci" / "matrix.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            yield Row(*line.split())


def call(*command: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """A command, which must not fail."""
    print("+", *command, flush=True)
    return subprocess.run(command, check=True, text=True, **how)


def install(row: Row, before: Row | None) -> None:
    """What a row asks for, into the environment, which is made anew for another torch or Python."""
    if before is None or (row.torch, row.python) != (before.torch, before.python):
        shutil.rmtree(PLACE, ignore_errors=True)
        call(f"python{row.python}", "-m", "venv", str(PLACE))
    pins = PLACE / "constraints.txt"
    exact = [] if row.torch == NEWEST else [f"torch=={row.torch}"]
    pins.write_text("\n".join([f"numpy<{int(row.numpy) + 1}", *exact]))
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--no-cache-dir")
    # First by themselves, so that nothing else chooses which they are.
    call(*pip, "--upgrade", "-c", str(pins), "torch", f"numpy>={row.numpy}")
    call(*pip, "-c", str(pins), "-e", f"{ROOT}[demo,test]")
    call(*pip, "--no-deps", "-r", str(ROOT / ".ci" / "no-deps.txt"))


def versions() -> list[str]:
    """Torch's and numpy's."""
    code = "import torch, numpy; print(torch.__version__.split('+')[0], numpy.__version__)"
    return call(PYTHON, "-c", code, stdout=subprocess.PIPE).stdout.split()


def tested() -> tuple[list[int], list[str]]:
    """How many tests passed, were skipped and failed, and which failed.

    What compiles is skipped by tests/conftest.py where torch cannot.
    """
    report = PLACE / "report.xml"
    report.unlink(missing_ok=True)
    test = [PYTHON, "-m", "pytest", "-n", "2", "-q", f"--junitxml={report}"]
    subprocess.run(test, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = [c for c in cases if c.find("skipped") is not None and c not in failed]
    counts = [len(cases) - len(failed) - len(skipped), len(skipped), len(failed)]
    return counts, [f"{c.get('classname')}.{c.get('name')}" for c in failed]


def write(lines: dict[str, str]) -> None:
    """The table, its lines in the order of .ci/matrix.txt."""
    head = [f"| {' | '.join(HEAD)} |", f"|{' --- |' * 4}{' ---: |' * 3}"]
    body = [lines[row.asked] for row in rows() if row.asked in lines]
    before, _, after = PAGE.read_text("utf-8").partition(BEGIN)
    table = "\n".join(["", *head, *body, "", ""])
    PAGE.write_text(before + BEGIN + table + END + after.partition(END)[2], "utf-8")


def main(wanted: Sequence[str]) -> int:
    """Runs what is asked for; whether a test failed decides how it ends."""
    lines = {
        line.split(" | ")[0].removeprefix("| "): line
        for line in PAGE.read_text("utf-8").splitlines()
        if line.startswith("| torch ")
    }
    failed: list[str] = []
    before = None
    for row in rows():
        if wanted and row.torch not in wanted:
            continue
        if subprocess.run([f"python{row.python}", "-c", ""], capture_output=True).returncode:
            print(f"{row.asked}: no such Python here", flush=True)
            continue
        try:
            install(row, before)
        except subprocess.CalledProcessError:
            failed.append(f"{row.asked}: cannot be installed")
            before = None
            continue
        before = row
        found = versions()
        counts, names = tested()
        lines[row.asked] = f"| {' | '.join([row.asked, *found, row.python, *map(str, counts)])} |"
        write(lines)
        failed += [f"{row.asked}: {name}" for name in names]
    shutil.rmtree(PLACE, ignore_errors=True)
    print("\n".join(failed))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
