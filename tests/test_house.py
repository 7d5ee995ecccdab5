"""The house stays tidy. Which way imports run is checked by the linter (pyproject.toml)."""

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "funcattr"
FILES = sorted(PACKAGE.rglob("*.py"))
PRIVATE = re.compile(
    r"torch\._(?!dynamo\b|pytree)\w+|_functorch\b|_execution_engine|_current_level|_orig_mod"
)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_no_room_is_crowded(path):
    text = path.read_text("utf-8")
    assert text.count("\n") <= 300
    found = [] if path.name == "private.py" else PRIVATE.findall(text)
    assert not found, "private torch goes into funcattr/core/private.py, with what happens without"


def test_a_dozen_rooms_on_a_floor():
    assert len(FILES) > 40
    for floor in {path.parent for path in FILES}:
        rooms = [p for p in floor.glob("*.py") if p.name != "__init__.py"]
        assert len(rooms) <= 12, f"{floor.name} has {len(rooms)} rooms"


def test_no_hooks():
    hook = re.compile(r"register_(full_)?(forward|backward)(_pre)?_hook|\.register_hook\(")
    users = [p.name for p in FILES if hook.search(p.read_text("utf-8"))]
    assert users == ["_torchray_tools.py"]  # TorchRay's Probe is two hooks, and says so
