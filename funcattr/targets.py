"""What is explained: from a target to the cotangent of a model's output."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .core.levels import compiling
from .errors import TargetError

__all__ = ["Index", "Target", "cotangents", "encode", "one_hot"]

Target = (
    int | tuple[int, ...] | Tensor | Sequence[int] | Sequence[tuple[int, ...]] | Callable[..., Any]
) | None


@dataclass(frozen=True)
class Index:
    """A target that is encoded already (see `encode`)."""

    value: Tensor


_FORMS = (
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
            raise TargetError(f"the tuples of a target list have one length; got {target!r}.")
        integers = [_stack([_integer(t, target) for t in row], device, target) for row in rows]
        return torch.stack(integers)
    return _stack([_integer(target, target)], device, target)


def encode_all(targets: Any) -> Tensor | None:
    """All targets as one tensor, or None where they are callables or of several shapes."""
    if not isinstance(targets, (Tensor, Sequence)) or isinstance(targets, str):
        raise TargetError(
            f"targets is a sequence, a range or an integer tensor; got {type(targets).__name__}. "
            "For a single target call the attribution itself."
        )
    if isinstance(targets, Tensor) and targets.dim() not in (1, 2):
        raise TargetError(
            f"targets is a tensor [T] or [T, B]; got shape {tuple(targets.shape)}. "
            "For indices of several dims pass a list of tuples."
        )
    if not len(targets):
        raise TargetError("targets is empty; expected at least one target.")
    if isinstance(targets, (range, Tensor)):
        tensor = torch.as_tensor(targets)
        encode(tensor[0])  # its dtype
        rows = tensor.long().reshape(len(tensor), -1)
        # A row is one int for all examples, or one per example.
        return rows if rows.shape[1] == 1 else rows.unsqueeze(-1)
    encoded = [encode(target) for target in targets]
    there = [e for e in encoded if e is not None]
    alike = len({e.shape for e in there}) == 1 and len(there) == len(encoded)
    return torch.stack(there) if alike else None


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
            f"a target is {_FORMS}; got {target!r} of type {type(target).__name__}."
        ) from None


def cotangents(
    outs: Sequence[Tensor], unpack: Callable[[Sequence[Tensor]], Any], target: Target | Index
) -> tuple[Tensor, ...]:
    """The derivative of the number that is explained by each float tensor of a model's output.

    Args:
        outs: the float tensors of the output.
        unpack: makes the output itself of them, ``[B, ...]`` where it is a tensor.
        target: see `funcattr.gradient`.

    Returns:
        One tensor for each of ``outs``, of its shape.

    Raises:
        TargetError: the target does not fit the output.
    """
    if callable(target) and not isinstance(target, Tensor):
        cots: tuple[Tensor, ...] = torch.func.grad(lambda outs: _explained(target(unpack(outs))))(
            tuple(outs)
        )
        return cots
    out = unpack(outs)
    if not isinstance(out, Tensor):
        raise TargetError(
            f"the output is a {type(out).__name__}, not a tensor, so the target is a callable "
            f"that takes a tensor out of it (lambda out: out['logits'][:, 3]); got {target!r}."
        )
    if target is None:
        if out.numel() != (out.shape[0] if out.dim() else 1):
            raise TargetError(
                f"the output has shape {tuple(out.shape)}, several numbers per example: a target "
                f"says which of them is explained. It is {_FORMS}."
            )
        return (torch.ones_like(out),)
    if type(target) is int and out.dim() > 1 and not compiling():
        return (_column(out, target),)  # as `one_hot`, at a fifth of its time
    index = target.value if isinstance(target, Index) else encode(target, out.device)
    assert index is not None
    return (one_hot(out, index),)


def _explained(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        came = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TargetError(
            f"a callable target returns a float tensor, whose sum is explained; got {came}."
        )
    return value.sum()


def one_hot(out: Tensor, index: Tensor) -> Tensor:
    """1 where an encoded target (see `encode`) selects in each example of ``out``, else 0.

    >>> one_hot(torch.zeros(2, 3), encode([0, -1]))
    tensor([[1., 0., 0.],
            [0., 0., 1.]])
    """
    k = index.shape[-1]
    if out.dim() <= k:
        raise TargetError(
            f"a target of {k} ind{'ex' if k == 1 else 'ices'} selects in the dims after the batch; "
            f"the output has shape {tuple(out.shape)}. A model of single examples needs a batch "
            "dimension of 1, a scalar output takes target=None."
        )
    if index.dim() == 2 and index.shape[0] != out.shape[0]:
        raise TargetError(
            f"a target with one entry per example has {out.shape[0]} of them, as the output of "
            f"shape {tuple(out.shape)} has examples; got {index.shape[0]}."
        )
    hot: Tensor | None = None
    for dim in range(k):
        size = out.shape[dim + 1]
        ruler = torch.arange(size, device=out.device)
        place = _looked_up(ruler, index.reshape(-1, k)[:, dim], dim + 1, out)
        match = place.unsqueeze(-1) == ruler
        match = match.reshape(-1, *[1] * dim, size, *[1] * (out.dim() - dim - 2))
        hot = match if hot is None else hot & match
    assert hot is not None
    return hot.to(out.dtype).expand(out.shape)


def check_range(out: Any, index: Tensor) -> None:
    """Raises a `TargetError` where encoded targets ``[..., k]`` lie outside of ``out``."""
    if not isinstance(out, Tensor) or out.dim() <= index.shape[-1]:
        return  # `one_hot` says more
    for dim, values in enumerate(index.unbind(-1), start=1):
        beyond = values[(values < -out.shape[dim]) | (values >= out.shape[dim])]
        if len(beyond):
            raise _out_of_range(out, dim, f"got {int(beyond[0])}")


def _column(out: Tensor, index: int) -> Tensor:
    size = out.shape[1]
    if not -size <= index < size:
        raise _out_of_range(out, 1, f"got {index}")
    hot = torch.arange(size, device=out.device) == index % size
    return hot.to(out.dtype).reshape(-1, *[1] * (out.dim() - 2)).expand(out.shape)


def _looked_up(ruler: Tensor, index: Tensor, dim: int, out: Tensor) -> Tensor:
    """Counts negative indices from the end, and refuses those out of range, under vmap too."""
    try:
        return ruler[index]
    except IndexError as error:
        raise _out_of_range(out, dim, error) from None


def _out_of_range(out: Tensor, dim: int, came: object) -> TargetError:
    size = out.shape[dim]
    return TargetError(
        f"an index into dim {dim} of the output, of shape {tuple(out.shape)}, lies in "
        f"{-size}..{size - 1}; {came}."
    )
