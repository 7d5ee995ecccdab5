"""Autograd's graph: its nodes, and where in it a tensor is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .levels import compiling
from .private import unbatched

_get_gradient_edge = getattr(torch.autograd.graph, "get_gradient_edge", None)
EDGES = _get_gradient_edge is not None


def edge_of(t: Tensor) -> Any:
    """Where ``torch.autograd.grad`` finds the derivative by ``t`` as it is now.

    It stays that, whatever is written to ``t`` later. None where ``t`` does not depend on what is
    differentiated at the innermost level, in traced code, and before torch 2.1.
    """
    if _get_gradient_edge is None or compiling():
        return None
    # A tensor of a level further out says of itself that it requires grad; what is made of it here
    # does not.
    with torch.enable_grad():
        return _get_gradient_edge(t) if t.view_as(t).requires_grad else None


def nodes_behind(
    tensors: Iterable[Tensor], cut: Callable[[Any], bool] | None = None
) -> dict[Any, None]:
    """All nodes of the graph behind some tensors, at the innermost level, the last first.

    Of nodes where ``cut`` holds only the first input is followed.
    """
    todo = [unbatched(t).grad_fn for t in tensors]
    done: dict[Any, None] = {}
    while todo:
        node = todo.pop()
        if node is not None and node not in done:
            done[node] = None
            inputs = node.next_functions
            todo += [parent for parent, _ in (inputs[:1] if cut and cut(node) else inputs)]
    return done
