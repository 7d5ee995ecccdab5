"""What is asked once in a process may be asked for the first time inside of another pass."""

import contextlib

import pytest
import torch
from conftest import VERSION
from torch import nn

import funcattr as fa
from funcattr.engine import hidden
from funcattr.errors import HiddenSiteError

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
NET = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
ATTR = fa.guided_backprop(NET)


def nested():
    fa.guided_backprop(lambda x: torch.relu(ATTR(x, target=2) * x))(X, target=1)


def in_a_hook():
    outer = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    outer[0].register_forward_hook(lambda m, args, out: (ATTR(out.detach(), target=0), None)[1])
    fa.guided_backprop(outer)(X, target=1)


SEEN = pytest.mark.skipif(VERSION < (2, 1), reason="refused in other words there")


@SEEN
@pytest.mark.parametrize("first", [nested, in_a_hook])
def test_a_refused_call_leaves_the_next_ones_alone(first):
    expected = ATTR(X, target=1)
    hidden._nodes.cache_clear()
    with contextlib.suppress(HiddenSiteError):  # older torches see no harm in the hook's
        first()
    torch.testing.assert_close(ATTR(X, target=1), expected, rtol=0, atol=0)
    assert "ReluBackward0" in hidden._nodes(frozenset(("relu",)))


@SEEN
def test_a_sweep_of_a_function_that_has_an_attribution_in_it():
    outer = lambda x: torch.relu(ATTR(x, target=2) * x)
    loop = [fa.gradient(outer)(X, target=target) for target in (1, 0)]
    torch.testing.assert_close(fa.sweep(fa.gradient(outer), X, targets=[1, 0]), torch.stack(loop))
    with pytest.raises(HiddenSiteError, match=r"gradients of its own|no Python call made"):
        fa.sweep(fa.guided_backprop(outer), X, targets=[1, 0])
