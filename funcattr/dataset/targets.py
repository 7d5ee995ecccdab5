"""What is explained of each example: the same for all, or a function of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cotangents import check_range, check_single
from ..errors import ArgumentError, TargetError, short
from ..targets import as_tensor, encode_all

__all__ = ["Fixed", "PerExample", "label_and_runner_up", "top_k", "values_at"]

_KNOWN = ("x", "label", "out")


@dataclass(frozen=True)
class top_k:
    """Targets: the ``k`` classes of each example with the largest outputs, the largest first.

    Args:
        k: how many.

    >>> top_k(2)(torch.tensor([[0.1, 0.7, 0.2]]))
    tensor([[1, 2]])
    """

    k: int

    def __call__(self, out: Tensor) -> Tensor:
        return out.topk(self.k, 1).indices


@dataclass(frozen=True)
class label_and_runner_up:
    """Targets: the label of each example, and the largest output that is not the label's.

    >>> label_and_runner_up()(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([1]))
    tensor([[1, 2]])
    """

    def __call__(self, out: Tensor, label: Tensor) -> Tensor:
        label = label.long().reshape(-1, 1)
        others = out.scatter(1, label, -torch.inf)
        return torch.cat([label, others.argmax(1, keepdim=True)], 1)


class Fixed:
    """The same targets for every example: an index ``[T, k]``, or None for an output of one number.

    Raises:
        TargetError: they have no form that all examples can share.
    """

    def __init__(self, targets: Any) -> None:
        if targets is None:
            self.index = None
            return
        if isinstance(targets, np.ndarray):
            targets = as_tensor(targets)
        index = encode_all(targets)
        if index is None or (index.dim() == 3 and not isinstance(targets, Tensor)):
            raise TargetError(
                "targets are ints or tuples of ints, the same for every example, since they are "
                f"stored; got {short(targets)}. What differs between examples goes by a function, "
                "targets=lambda out: out.topk(5).indices."
            )
        if isinstance(targets, Tensor) and index.dim() == 3:
            index = index.squeeze(-1)
        if index.dim() != 2:
            raise TargetError(
                "targets are a tensor [T], or [T, k] of indices into k dims of the output; got "
                f"shape {tuple(targets.shape)}."
            )
        self.index = index.cpu()

    def of(self, x: Any, label: Any, out: Any) -> Any:
        """What `funcattr.stream` takes as targets of a batch."""
        if self.index is None:
            return [None]
        if self.index.shape[1] == 1:
            return self.index[:, 0]
        return self.index[:, None].expand(-1, len(out), -1)

    def shown(self) -> Any:
        """For the settings of a store."""
        return None if self.index is None else self.index.squeeze(-1).tolist()


class PerExample:
    """Targets by a function of some of ``x``, ``label`` and ``out``, which are batches.

    Raises:
        ArgumentError: its parameters have other names.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            parameters = {}.values()
        names = [p.name for p in parameters if p.default is p.empty]
        if not names or not set(names) <= set(_KNOWN):
            raise ArgumentError(
                "targets as a function has parameters out of x (the inputs), label and out (the "
                "model's output), which it is given by name, and returns integers [B, T]; got "
                f"{short(function)} with {', '.join(names) or 'none'}."
            )
        self.function, self.names = function, names

    def of(self, x: Any, label: Any, out: Any) -> Tensor:
        """The targets of a batch, ``[T, B, k]``.

        Raises:
            TargetError: the function returns something else.
        """
        if "label" in self.names and label is None:
            raise ArgumentError(
                "targets is a function of the label, and the data has none: its examples are "
                "(input, label) pairs, or dicts with 'label'."
            )
        given = {"x": x, "label": label, "out": out}
        with torch.no_grad():
            found = self.function(**{name: given[name] for name in self.names})
        found = found if isinstance(found, Tensor) else torch.as_tensor(np.asarray(found))
        index = found[..., None] if found.dim() == 2 else found
        whole = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
        if not whole or index.dim() != 3 or len(index) != len(out) or not index.shape[1]:
            raise TargetError(
                f"targets as a function returns integers [B, T] (or [B, T, k]), B = {len(out)} "
                f"here; got {found.dtype} of shape {tuple(found.shape)}."
            )
        return index.long().transpose(0, 1)


def values_at(out: Any, targets: Any) -> Tensor | None:
    """The numbers that are explained, ``[B, T]``; None where the output is no tensor of examples.

    Raises:
        TargetError: a target lies outside of it, or is missing.
    """
    if not isinstance(out, Tensor) or not out.dim():
        return None
    if not isinstance(targets, Tensor):
        check_single(out)
        return out.reshape(len(out), 1)
    index = targets.to(out.device)
    index = index[:, None, None].expand(-1, len(out), 1) if index.dim() == 1 else index
    if out.dim() <= index.shape[-1]:
        return None  # `explain` says why that cannot be
    check_range(out, index)
    each = torch.arange(len(out), device=out.device)
    places = (each, *index.unbind(-1))
    found = out[places]
    return found.reshape(*found.shape[:2], -1).sum(2).T
