import pytest
import torch

torch.set_num_threads(1)

CAN_COMPILE = hasattr(getattr(torch, "compiler", None), "is_compiling")


def pytest_collection_modifyitems(items):
    skip = pytest.mark.skip(reason="this torch cannot compile funcattr")
    for item in items:
        if not CAN_COMPILE and item.get_closest_marker("compiled"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
