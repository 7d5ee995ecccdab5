"""Every example in a docstring, in the README and in docs/ runs, and shows what it says."""

import doctest
import importlib
import importlib.util
import pkgutil
from pathlib import Path

import pytest
from conftest import CAN_COMPILE

import funcattr

ROOT = Path(__file__).parents[1]
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
COMPILER = "funcattr.core.compiler"
STORED = ("funcattr.dataset.run", "docs/datasets.md")
MODULES = sorted(m.name for m in pkgutil.walk_packages(funcattr.__path__, "funcattr."))
PAGES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("name", ["funcattr", *MODULES])
def test_docstrings(name):
    if name == COMPILER and not CAN_COMPILE:
        pytest.skip("this torch cannot compile funcattr")
    needs_zarr(name)
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
    assert not failed


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_pages(page):
    needs_zarr(page)
    failed, _ = doctest.testfile(str(ROOT / page), False, optionflags=OPTIONS)
    assert not failed


def needs_zarr(name):
    if name in STORED and not importlib.util.find_spec("zarr"):
        pytest.skip("no zarr")


def test_there_are_examples():
    """What would be found missing if the collection above found nothing."""
    parser = doctest.DocTestFinder()
    count = sum(
        bool(test.examples)
        for name in MODULES
        if name != COMPILER or CAN_COMPILE
        for test in parser.find(importlib.import_module(name))
    )
    assert count > 30
    assert len(PAGES) > 5
