"""The maps of several targets at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ..core.levels import compiling
from ..core.trees import stacked
from ..errors import MISUSED, ArgumentError, first_line
from ..targets import Index

Explain = Callable[..., Any]
Reduce = Callable[[Any], Any]


def mapped(
    explain: Explain, reduce: Reduce | None, index: Tensor, target: Callable[[Tensor], Any] = Index
) -> Any:
    """The maps of targets that ``target`` makes of ``index``, ``[n, ...]``, all at once.

    Encoded targets are explained one by one where ``torch.vmap`` fails.
    """
    specs: list[tuple[list[Any], TreeSpec]] = []

    def one(index: Tensor) -> list[Tensor]:
        leaves, spec = tree_flatten(reduced(explain(target(index)), reduce))
        specs.append((leaves, spec))
        return [leaf for leaf in leaves if leaf is not None]

    try:
        tensors = iter(torch.vmap(one, randomness="different")(index))
    except RuntimeError as error:
        if compiling() or target is not Index:
            raise
        return _one_by_one(explain, reduce, index, error)
    leaves, spec = specs[-1]
    return tree_unflatten([leaf if leaf is None else next(tensors) for leaf in leaves], spec)


def _one_by_one(explain: Explain, reduce: Reduce | None, index: Tensor, error: RuntimeError) -> Any:
    """`mapped` where a part of the model fails under ``torch.vmap``, and only there."""
    try:
        maps = [reduced(explain(Index(one)), reduce) for one in index]
    except Exception:
        raise error from None
    warnings.warn(
        "the targets are explained one by one, since a part of the model does not run under "
        f"torch.vmap ({first_line(error)}).",
        stacklevel=6,
    )
    return stacked(maps, torch.stack)


def reduced(maps: Any, reduce: Reduce | None) -> Any:
    """What is kept of a map."""
    if reduce is None:
        return maps
    try:
        kept = reduce(maps)
    except MISUSED as error:
        raise ArgumentError(
            f"reduce raised {first_line(error)}. It is a function of one map (of a bundle, the "
            "tuple of them), and runs under torch.vmap: without .item(), numpy, or an if on values "
            "(torch.where)."
        ) from error
    leaves = tree_flatten(kept)[0]
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        came = ", ".join(type(leaf).__name__ for leaf in leaves) or f"no tensor, {kept!r}"
        raise ArgumentError(
            f"reduce returns a tensor, or a pytree of tensors; got {came}. Leave out .item()."
        )
    return kept
