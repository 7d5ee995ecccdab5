"""From a target to the cotangent of a model's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .core.edges import EDGES, edge_of, nodes_behind
from .core.levels import compiling
from .core.private import is_wrapped
from .errors import MISUSED, FuncattrError, TargetError, first_line, short
from .targets import FORMS, Index, OneOf, Target, encode

__all__ = ["cotangents", "one_hot"]


def cotangents(
    outs: Sequence[Tensor],
    unpack: Callable[[Sequence[Tensor]], Any],
    target: Target | Index | OneOf,
) -> tuple[Tensor | None, ...]:
    """The derivative of the number that is explained by each float tensor of a model's output.

    Args:
        outs: the float tensors of the output.
        unpack: makes the output itself of them, ``[B, ...]`` where it is a tensor.
        target: see `funcattr.gradient`.

    Returns:
        One tensor for each of ``outs``, of its shape; None where the target does not use it, since
        even zeros do harm where a model has no derivative (``0 * inf`` is NaN).

    Raises:
        TargetError: the target does not fit the output, or is a callable that fails.
    """
    if callable(target) and not isinstance(target, Tensor):
        return _by_callable(tuple(outs), lambda outs: _explained(target, unpack(outs)))
    if isinstance(target, OneOf):  # each by itself, and none of many: only the number is
        each = [cotangents(outs, unpack, function) for function in target.functions]
        rows = zip(outs, zip(*each))
        return tuple([_chosen(out, cots, target.number) for out, cots in rows])
    out = unpack(outs)
    if not isinstance(out, Tensor):
        # Of the targets of a sweep there is but a tensor of vmap's.
        came = "integers" if isinstance(target, Index) else short(target)
        raise TargetError(
            f"the output is a {type(out).__name__}, not a tensor, so the target is a callable "
            f"that takes a tensor out of it (lambda out: out['logits'][:, 3]); got {came}."
        )
    _check_real(out)
    if target is None:
        check_single(out)
        return (torch.ones_like(out),)
    if type(target) is int and out.dim() > 1 and not compiling():
        return (_column(out, target),)  # as `one_hot`, at a fifth of its time
    index = target.value if isinstance(target, Index) else encode(target, out.device)
    assert index is not None
    return (one_hot(out, index),)


def _chosen(out: Tensor, cots: Sequence[Tensor | None], number: Tensor) -> Tensor | None:
    """One of several cotangents of ``out``; None where no function uses it."""
    if all([c is None for c in cots]):
        return None
    each = torch.stack([torch.zeros_like(out) if c is None else c for c in cots])
    return each.index_select(0, number.reshape(1))[0]


def _by_callable(
    outs: tuple[Tensor, ...], value: Callable[[Sequence[Tensor]], Tensor]
) -> tuple[Tensor | None, ...]:
    used: list[bool] = []

    def noting(*outs: Tensor) -> Tensor:
        explained = value(outs)
        if EDGES and not compiling():
            nodes = nodes_behind([explained])
            used.extend(edge is not None and edge.node in nodes for edge in map(edge_of, outs))
        return explained

    explained, pull = torch.func.vjp(noting, *outs)  # type: ignore[misc]
    cots: tuple[Tensor, ...] = pull(torch.ones_like(explained))
    if compiling() or not EDGES:
        used = [_uses(value, outs, n) for n in range(len(outs))]
    return tuple([c if yes else None for c, yes in zip(cots, used)])


def _uses(value: Callable[[Sequence[Tensor]], Tensor], outs: tuple[Tensor, ...], n: int) -> bool:
    """Whether the n-th of ``outs`` is used, where there is no graph to look at."""
    found = []

    def of_one(out: Tensor) -> Tensor:
        explained = value((*outs[:n], out, *outs[n + 1 :]))
        found.append(explained.view_as(explained).requires_grad)
        return explained

    torch.func.vjp(of_one, outs[n])
    return found[0]


def _explained(target: Callable[..., Any], out: Any) -> Tensor:
    try:
        value = target(out)
    except MISUSED as error:
        if isinstance(error, FuncattrError):
            raise
        raise TargetError(
            f"the callable target raised {first_line(error)}. It is a function of the output, and "
            "is differentiated: of torch functions, without numpy; under torch.vmap without "
            ".item() or an if on values (torch.where), too."
        ) from error
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
    check_range_on_gpu(out, index)
    hot: Tensor | None = None
    for dim in range(k):
        size = out.shape[dim + 1]
        ruler = torch.arange(size, device=out.device)
        place = _looked_up(ruler, index.reshape(-1, k)[:, dim], dim + 1, out)
        match = place.unsqueeze(-1) == ruler
        match = match.reshape(-1, *[1] * dim, size, *[1] * (out.dim() - dim - 2))
        hot = match if hot is None else hot & match
    assert hot is not None
    return _one_of_many(hot.to(out.dtype).expand(out.shape), out)


def check_single(out: Tensor) -> None:
    """Raises a `TargetError` where ``out`` has more than one number per example."""
    if out.numel() != (out.shape[0] if out.dim() else 1):
        raise TargetError(
            f"the output has shape {tuple(out.shape)}, several numbers per example: a target "
            f"says which of them is explained. It is {FORMS}."
        )


def check_range(out: Any, index: Tensor) -> None:
    """Raises a `TargetError` where encoded targets ``[..., k]`` lie outside of ``out``.

    As it does where ``out`` is complex.
    """
    if not isinstance(out, Tensor):
        return  # `cotangents` says more
    _check_real(out)
    if out.dim() <= index.shape[-1]:
        return  # `one_hot` says more
    for dim, values in enumerate(index.unbind(-1), start=1):
        beyond = values[(values < -out.shape[dim]) | (values >= out.shape[dim])]
        if len(beyond):
            raise _out_of_range(out, dim, f"got {int(beyond[0])}")


def check_range_on_gpu(out: Any, index: Tensor) -> None:
    """`check_range` of targets that lie on a GPU, whose own error is the end of all work there."""
    if index.is_cuda and not compiling() and not is_wrapped(index):
        check_range(out, index)


def _check_real(out: Tensor) -> None:
    # A one-hot cotangent of it is the real part's alone, which nobody asked for.
    if out.is_complex():
        raise TargetError(
            f"an index, or None, is a target of real outputs; got one of {out.dtype}, of shape "
            f"{tuple(out.shape)}. Pass a callable that makes a real number of it: "
            "lambda out: out[:, 3].abs(), or .real."
        )


def _column(out: Tensor, index: int) -> Tensor:
    size = out.shape[1]
    if not -size <= index < size:
        raise _out_of_range(out, 1, f"got {index}")
    hot = torch.arange(size, device=out.device) == index % size
    hot = hot.to(out.dtype).reshape(-1, *[1] * (out.dim() - 2)).expand(out.shape)
    return _one_of_many(hot, out)


def _one_of_many(hot: Tensor, out: Tensor) -> Tensor:
    """``hot``, one of many under ``torch.vmap`` where ``out`` is, as torch.func's own cotangents.

    Torch cannot pull one for all through some writes (``masked_fill_``).
    """
    if compiling() or not is_wrapped(out):
        return hot
    return torch.zeros_like(out) + hot


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
