import os
import sys

import pytest
import torch

from funcattr.core.graph import CAN_COMPILE

torch.set_num_threads(1)
os.environ.setdefault("MPLBACKEND", "agg")  # no window opens

# What torch 2.0 to 2.2 lack that is no matter of funcattr is skipped by this.
SINCE_2_3 = hasattr(getattr(torch, "compiler", None), "is_compiling")
needs_edges = pytest.mark.skipif(
    not hasattr(torch.autograd.graph, "get_gradient_edge"),
    reason="torch 2.0 has no edges of graphs; an input that is written to is refused there",
)
VERSION = tuple(map(int, torch.__version__.split(".")[:2]))
SINCE_2_1 = VERSION >= (2, 1)
needs_hooks = pytest.mark.skipif(
    not SINCE_2_1, reason="torch 2.0 does not show what hooks return; such a layer is refused there"
)


def skip_without_halves():
    """Skips a test of numbers that an old torch cannot compute with on a CPU."""
    if not SINCE_2_3:
        pytest.skip("torch itself has no float16 on the CPU")


def pytest_collection_modifyitems(items):
    skip = pytest.mark.skip(reason="this torch cannot compile funcattr")
    for item in items:
        if not CAN_COMPILE and item.get_closest_marker("compiled"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _figures_closed():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
