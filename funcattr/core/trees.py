"""Tensors in and out of whatever a model takes or returns."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


@dataclass(frozen=True)
class _Slot:
    index: int


def pack(value: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    """The tensors of ``value`` and the function that puts others in their place.

    Knows every pytree, and looks into mappings and objects with attributes as well (the output
    objects of model libraries), which torch.func does not.

    >>> import torch
    >>> tensors, unpack = pack({"logits": torch.zeros(2), "hidden": None})
    >>> len(tensors), unpack([torch.ones(2)])
    (1, {'logits': tensor([1., 1.]), 'hidden': None})
    """
    if isinstance(value, Tensor):
        return [value], _first
    tensors: list[Tensor] = []

    def strip(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors.append(value)
            return _Slot(len(tensors) - 1)
        return _rebuilt(value, strip)

    stripped = strip(value)

    def unpack(replaced: Sequence[Tensor]) -> Any:
        def fill(value: Any) -> Any:
            return replaced[value.index] if isinstance(value, _Slot) else _rebuilt(value, fill)

        return fill(stripped)

    return tensors, unpack


def leaves(values: Any) -> list[Any]:
    """The leaves of a pytree; what arguments mostly are, quickly."""
    if type(values) is tuple or type(values) is list:
        return [leaf for value in values for leaf in leaves(value)]
    if type(values) is dict:
        return [leaf for value in values.values() for leaf in leaves(value)]
    return [values] if isinstance(values, Tensor) else tree_flatten(values)[0]


def _first(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0]


def _rebuilt(value: Any, part: Callable[[Any], Any]) -> Any:
    """``value`` with ``part`` applied to each of its parts."""
    leaves, spec = tree_flatten(value)
    if len(leaves) != 1 or leaves[0] is not value:
        return tree_unflatten([part(leaf) for leaf in leaves], spec)
    if isinstance(value, MutableMapping):
        new = copy.copy(value)
        for key, item in value.items():
            new[key] = part(item)
        return new
    if isinstance(value, type) or callable(value):
        return value
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    else:
        names = list(getattr(value, "__dict__", ()))
    if not names:
        return value
    other = copy.copy(value)
    for name in names:
        object.__setattr__(other, name, part(getattr(value, name)))
    return other


def stacked(trees: Sequence[Any], join: Callable[[list[Tensor]], Tensor]) -> Any:
    """Pytrees of one structure as one, their tensors joined; what is None stays None."""
    leaves = [tree_flatten(tree)[0] for tree in trees]
    spec = tree_flatten(trees[0])[1]
    joined = [None if column[0] is None else join(list(column)) for column in zip(*leaves)]
    return tree_unflatten(joined, spec)
