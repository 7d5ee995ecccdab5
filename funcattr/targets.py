"""What is explained: the forms of a target, and targets as integer tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import TargetError, short

__all__ = ["Index", "Target", "encode"]

Target = (
    int | tuple[int, ...] | Tensor | Sequence[int] | Sequence[tuple[int, ...]] | Callable[..., Any]
) | None


@dataclass(frozen=True)
class Index:
    """A target that is encoded already (see `encode`)."""

    value: Tensor


@dataclass(frozen=True)
class OneOf:
    """One of several functions of the output, by its number, a tensor of no dims."""

    functions: Sequence[Callable[..., Any]]
    number: Tensor


FORMS = (
    "None (one number per example), an int (column of dim 1), a tuple of ints (index into the dims "
    "after the batch), an integer tensor (one element, or one per example), a list of ints or of "
    "tuples (one per example), or a callable of the output"
)


def encode(target: Target, device: torch.device | None = None) -> Tensor | None:
    """A target as an integer tensor, or None where it needs none (None itself, a callable).

    Returns:
        ``[k]`` for one index of ``k`` dims, or ``[B, k]`` for one per example.

    Raises:
        TargetError: ``target`` has none of the forms.

    >>> encode(3), encode((1, 2)), encode([4, 5]), encode([(1, 2), (3, 4)])
    (tensor([3]), tensor([1, 2]), tensor([[4],
            [5]]), tensor([[1, 2],
            [3, 4]]))
    """
    if target is None or (callable(target) and not isinstance(target, Tensor)):
        return None
    if isinstance(target, np.ndarray):
        target = as_tensor(target)
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            raise TargetError(
                f"a target tensor holds integers; got dtype {target.dtype}. "
                "Pass target.long() if its values are class numbers."
            )
        if target.dim() > 1:
            raise TargetError(
                "a target tensor has one element, or one per example in one dimension; got shape "
                f"{tuple(target.shape)}. For an index of several dims pass a tuple, or a list of "
                "tuples with one per example."
            )
        target = target.to(device, torch.long)
        return target.reshape(1) if target.numel() == 1 else target.unsqueeze(-1)
    if isinstance(target, tuple):
        return _stack([_integer(t, target) for t in target], device, target)
    if isinstance(target, list):
        if not target:
            return torch.empty(0, 1, dtype=torch.long, device=device)  # for an empty batch
        rows = [t if isinstance(t, tuple) else (t,) for t in target]
        if len({len(row) for row in rows}) > 1:
            raise TargetError(f"the tuples of a target list have one length; got {short(target)}.")
        integers = [_stack([_integer(t, target) for t in row], device, target) for row in rows]
        return torch.stack(integers)
    return _stack([_integer(target, target)], device, target)


def encode_all(targets: Any) -> Tensor | None:
    """All targets as one tensor, or None where they are callables or of several shapes."""
    if not isinstance(targets, (Tensor, Sequence)) or isinstance(targets, (str, bytes)):
        raise TargetError(
            f"targets is a sequence, a range or an integer tensor; got {type(targets).__name__}. "
            "For a single target call the attribution itself."
        )
    if isinstance(targets, Tensor) and targets.dim() not in (1, 2, 3):
        raise TargetError(
            "targets is a tensor [T] (an int each), [T, B] (one per example), [T, k] or [T, B, k] "
            f"(indices of k dims); got shape {tuple(targets.shape)}."
        )
    if not len(targets):
        raise TargetError("targets is empty; expected at least one target.")
    if isinstance(targets, (range, Tensor)):
        tensor = torch.as_tensor(targets)
        encode(tensor.flatten()[:1])  # its dtype
        rows = tensor.long()
        # One int for all examples, or one per example, until `settled` knows the output.
        return rows.reshape(len(rows), 1) if rows[0].numel() == 1 else _at_least(rows, 3)
    encoded = [encode(target) for target in targets]
    there = [e for e in encoded if e is not None]
    alike = len({e.shape for e in there}) == 1 and len(there) == len(encoded)
    return torch.stack(there) if alike else None


def _at_least(rows: Tensor, dims: int) -> Tensor:
    return rows if rows.dim() >= dims else rows.unsqueeze(-1)


def settled(targets: Any, index: Tensor, out: Any) -> Tensor:
    """What `encode_all` made of ``targets``, for this output.

    Of a tensor ``[T, n]`` only the output says whether ``n`` is the number of examples or of dims.

    Raises:
        TargetError: it can be both.
    """
    if not (isinstance(targets, Tensor) and targets.dim() == 2 and index.dim() == 3):
        return index
    n, dims = targets.shape[1], out.dim() - 1 if isinstance(out, Tensor) else 1
    if dims < 2 or n != dims:
        return index
    if n == len(out):
        raise TargetError(
            f"targets of shape {tuple(targets.shape)} are one int for each of {n} examples, or "
            f"indices into {n} dims of the output, of shape {tuple(out.shape)}. Pass [T, B, 1], or "
            "a list of tuples."
        )
    return index.squeeze(-1)


def as_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """An array of integers as a tensor."""
    if array.dtype.kind not in "iu":
        raise TargetError(f"an array of targets holds integers; got dtype {array.dtype}.")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))


def _stack(values: list[int | Tensor], device: torch.device | None, target: Any) -> Tensor:
    if not values:
        raise TargetError(f"a target tuple has at least one index; got {target!r}.")
    if any(isinstance(v, Tensor) for v in values):
        return torch.stack([torch.as_tensor(v, device=device).reshape(()).long() for v in values])
    return torch.tensor(values, device=device)


def _integer(value: Any, target: Any) -> int | Tensor:
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_floating_point():
        return value
    if type(value) is int:  # first, so that a compiler need not know which int
        return value
    try:
        if isinstance(value, (bool, np.bool_, Tensor)):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TargetError(
            f"a target is {FORMS}; got {short(target)} of type {type(target).__name__}."
        ) from None
