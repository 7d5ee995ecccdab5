"""Runs a part of a case in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def child(module: str, arguments: Mapping[str, Any], environment: Mapping[str, str] = {}) -> Any:
    """What ``python -m module`` prints as its last line of JSON, given arguments as JSON."""
    command = [sys.executable, "-m", module, json.dumps(dict(arguments))]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{module} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
