"""Many targets of one forward pass: `sweep` and `stream`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from ..core.levels import compiling, transforming
from ..core.trees import stacked
from ..engine.mapped import Reduce
from .attribution import Attribution
from .chunks import ChunkSize, Compile, Sweep, Targets

__all__ = ["stream", "sweep"]


def sweep(
    attr: Attribution,
    *args: Any,
    targets: Targets,
    chunk_size: ChunkSize = None,
    reduce: Reduce | None = None,
    compile: Compile = False,
    progress: bool = False,
    **kwargs: Any,
) -> Any:
    """One map per target, stacked in front, from one forward pass.

    The same as ``torch.stack([attr(*args, target=t) for t in targets])``.

    Args:
        attr: any `Attribution`.
        *args: what ``attr`` is called with.
        targets: ``T`` targets of one form: a range, a sequence of any of the forms of
            `funcattr.gradient`, or an integer tensor ``[T]`` (one int each) or ``[T, B]`` (one int
            per target and example).
        chunk_size: how many targets are explained at once, as in ``torch.func.vmap``: None for all
            of them, ``"auto"`` for as many as fit the memory that is there (256 at the most).
        reduce: a function of one map, applied as maps are made, so that ``T`` of them need not be
            kept; it runs under ``vmap``.
        compile: whether to compile the backward pass of a chunk, once for all chunks and for later
            sweeps of ``attr``; the forward pass is done once, in eager. Layers, bundles,
            compositions and models that draw random numbers are compiled whole, and each chunk then
            does a forward pass of its own. A string is a mode of ``torch.compile``, with which on a
            GPU ``"reduce-overhead"`` records CUDA graphs.
        progress: whether to show a bar where the output is a terminal and the work is long (needs
            the extra ``funcattr[progress]``).
        **kwargs: what ``attr`` is called with.

    Returns:
        Maps ``[T, ...]``, a pytree of such where ``attr`` returns one.

    Raises:
        TargetError: a target has no known form, or does not fit the output.
        ArgumentError: ``chunk_size`` is no positive int, None or "auto"; ``attr`` is no
            `Attribution`; ``compile`` is neither True, False nor a mode; ``reduce`` returns no
            tensor.

    >>> import funcattr as fa
    >>> attr = fa.gradient(torch.nn.Linear(4, 10))
    >>> sweep(attr, torch.ones(2, 4), targets=range(10), chunk_size=3).shape
    torch.Size([10, 2, 4])
    >>> sweep(attr, torch.ones(2, 4), targets=range(10), reduce=lambda m: m.abs().sum()).shape
    torch.Size([10])
    """
    todo = Sweep(attr, args, kwargs, targets, chunk_size, reduce, compile)
    return _gathered((maps for _, maps in todo.chunks(progress)), len(todo.targets))


def stream(
    attr: Attribution,
    *args: Any,
    targets: Targets,
    chunk_size: ChunkSize,
    reduce: Reduce | None = None,
    compile: Compile = False,
    progress: bool = False,
    **kwargs: Any,
) -> Iterator[tuple[Any, Any]]:
    """`sweep` as an iterator of ``(targets, maps)`` chunks; its memory is that of one chunk.

    Args:
        attr: as for `sweep`, as is all that follows.
        *args: what ``attr`` is called with.
        targets: ``T`` targets.
        chunk_size: how many of them make a chunk.
        reduce: a function of one map.
        compile: whether to compile, or a mode.
        progress: whether to show a bar.
        **kwargs: what ``attr`` is called with.

    Returns:
        An iterator over slices of ``targets`` and their maps ``[n, ...]``, ``n <= chunk_size``.

    Raises:
        ArgumentError: as `sweep`, before the first chunk is asked for.
        TargetError: a target has no known form, likewise; or, with its chunk, is out of range.

    >>> import funcattr as fa
    >>> attr = fa.gradient(torch.nn.Linear(4, 10))
    >>> chunks = stream(attr, torch.ones(2, 4), targets=range(10), chunk_size=4)
    >>> [(list(targets), len(maps)) for targets, maps in chunks]
    [([0, 1, 2, 3], 4), ([4, 5, 6, 7], 4), ([8, 9], 2)]
    """
    return Sweep(attr, args, kwargs, targets, chunk_size, reduce, compile).chunks(progress)


def _gathered(chunks: Iterator[Any], count: int) -> Any:
    """The maps of all targets, written to where they stay as they are made.

    Parts that are kept and then joined would take twice the memory of the result, and more where
    they leave holes between what is freed.
    """
    first = next(chunks)
    tensors = [t for t in tree_flatten(first)[0] if t is not None]
    if len(tensors[0]) == count:
        return first
    if transforming() or compiling() or any([t.requires_grad for t in tensors]):
        return stacked([first, *chunks], torch.cat)
    whole = tree_map(lambda t: t if t is None else t.new_empty(count, *t.shape[1:]), first)
    outs, start = [t for t in tree_flatten(whole)[0] if t is not None], 0
    while tensors:
        stop = start + len(tensors[0])
        for out, t in zip(outs, tensors):
            out[start:stop] = t
        del first, t
        first, start = next(chunks, None), stop
        tensors = [t for t in tree_flatten(first)[0] if t is not None]
    return whole
