"""Autograd's graph: its nodes, and where in it a tensor is."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import FuncattrError
from .levels import compiling
from .private import is_batched, transforms_active, unbatched

_get_gradient_edge = getattr(torch.autograd.graph, "get_gradient_edge", None)
EDGES = _get_gradient_edge is not None


def requires_grad(t: Tensor, must_know: bool = True) -> bool:
    """Whether ``t`` does; under ``torch.vmap`` it does not say so of itself.

    Raises:
        FuncattrError: nobody can tell, as in traced code under ``torch.vmap``, and one must know.
    """
    if not compiling():
        return t.requires_grad or (transforms_active() and unbatched(t).requires_grad)
    if must_know and is_batched(t):
        raise FuncattrError(
            "the model runs a part under torch.vmap, where compiled code cannot tell what depends "
            "on the input, which the rules go by. Call the attribution without torch.compile."
        )
    # What is made here of a tensor of a level further out does not.
    return t.requires_grad and t.view_as(t).requires_grad


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
        if not t.view_as(t).requires_grad:
            return None
        # A view that was made under no_grad requires grad where its base does, and has no node.
        return None if t.is_leaf and root_of(t) == (None, 0) else _get_gradient_edge(t)


def root_of(t: Tensor) -> tuple[Any, int] | None:
    """The node that made ``t``, or that takes its gradient, and which of its outputs ``t`` is.

    At the innermost level; None where ``t`` does not depend on what is differentiated there.
    """
    if not transforms_active() and t.grad_fn is not None:
        return t.grad_fn, t.output_nr
    with torch.enable_grad():
        node = unbatched(t.view_as(t)).grad_fn
    return None if node is None else node.next_functions[0]


def depends_on(
    t: Tensor, roots: Container[tuple[Any, int]], known: dict[Any, bool] | None = None
) -> bool:
    """Whether ``t`` is one of these roots, or was made of one; ``known`` as for `reaches`."""
    root = root_of(t)
    return root is not None and (root in roots or reaches(root[0], roots, known))


def reaches(
    node: Any, roots: Container[tuple[Any, int]], known: dict[Any, bool] | None = None
) -> bool:
    """Whether a node's gradient goes on to one of the roots.

    ``known`` is what was found of nodes before, and is added to.
    """
    if node is None:
        return False
    known = {} if known is None else known
    if node in known:
        return known[node]
    todo = [node]
    while todo:
        here = todo[-1]
        edges = [edge for edge in here.next_functions if edge[0] is not None]
        direct = any([edge in roots for edge in edges])
        ahead = [] if direct else [parent for parent, _ in edges if parent not in known]
        if here in known or not ahead:
            known.setdefault(here, direct or any([known[parent] for parent, _ in edges]))
            todo.pop()
        todo += ahead if here not in known else ()
    return known[node]


def nodes_behind(
    tensors: Iterable[Tensor],
    followed: Callable[[Any], Iterable[Any]] | None = None,
    roots: Container[tuple[Any, int]] = (),
) -> dict[Any, None]:
    """All nodes of the graph behind some tensors, at the innermost level, the last first.

    ``followed`` gives the edges of a node that count, all of them without it; what is behind the
    ``roots`` does not.
    """
    starts = [unbatched(t) for t in tensors]
    todo = [(t.grad_fn, t.output_nr) for t in starts]
    done: dict[Any, None] = {}
    while todo:
        edge = todo.pop()
        node = edge[0]
        if node is not None and node not in done and edge not in roots:
            done[node] = None
            todo += node.next_functions if followed is None else followed(node)
    return done
