"""`sweep_dataset`: data set x targets into a store."""

from __future__ import annotations

import importlib.util
import time
from contextlib import closing
from typing import Any

from ..display.progress import bar
from ..errors import check_flags
from ..methods.chunks import Compile, checked_compile
from .blocks import Block, Writer
from .examples import Loaded
from .explain import Explainer
from .prepare import Asked, prepared
from .ranks import rank_and_size, share
from .storage.summary import Summary, summary

__all__ = ["sweep_dataset"]

_TQDM = importlib.util.find_spec("tqdm") is not None


def sweep_dataset(
    attr: Any,
    data: Any,
    *,
    targets: Any,
    store: Any,
    batch_size: int | None = None,
    chunk_size: int | str | None = "auto",
    dtype: Any = "float32",
    reduce: Any = None,
    resume: bool = True,
    progress: bool = True,
    compile: Compile = False,
    output: Any = None,
    block_size: int | None = None,
    num_workers: int | None = None,
    length: int | None = None,
    compressor: Any = "auto",
    retry_failed: bool = False,
    seed: int = 0,
) -> Summary:
    """The maps of every example of a data set for every target, in a store of arrays on disk.

    The store is a Zarr group, with an array ``(example, target, ...)`` for each attribution. A call
    that was killed is made again, and does what is missing; the result is, bit for bit, that of a
    call that was not. Under ``torchrun`` each process does its share (docs/datasets.md).

    Args:
        attr: an `Attribution`, whose array is called ``maps``, or a dict of them by name, which
            share a forward pass as in `bundle`.
        data: a ``torch.utils.data.Dataset`` or ``DataLoader`` (or a sequence) of inputs, of
            ``(input, label)`` pairs, or of dicts: of these ``label`` or ``labels`` is the label,
            the first other entry the input, and the rest goes to the model by name. The order is
            the data set's. Of an iterable one, what is done is loaded again, and left. All examples
            are done, also those that a loader with ``drop_last=True`` leaves out.
        targets: as in `sweep`, the same ``T`` for every example: ints, tuples of ints, or an
            integer tensor ``[T]`` or ``[T, k]``; None where the output is one number. Or a function
            of some of ``x``, ``label`` and ``out`` (by these names; a batch of each) that returns
            integers ``[B, T]`` or ``[B, T, k]``: ``lambda out: out.topk(5).indices``.
        store: a directory, a URL of fsspec's, or a store object of zarr.
        batch_size: how many examples share a forward pass; that of the loader, or 8.
        chunk_size: how many targets are explained at once, as in `sweep`; ``"auto"`` is settled
            when the store is made.
        dtype: of the maps in the store: ``"float32"``, ``"float16"`` or ``"float64"``.
        reduce: a function of one map ``[B, ...]`` that keeps its first dim, such as
            `channel_max_abs`; of each attribution of a dict by itself.
        resume: whether to go on with a store that is there; without, that is an error.
        progress: whether to show a bar where the output is a terminal and tqdm is installed.
        compile: as in `sweep`.
        output: which part of the model's output is meant, as of every method.
        block_size: how many examples are stored at once, a multiple of ``batch_size``: what is lost
            by a death, at the most.
        num_workers: processes that load, as of a ``DataLoader``; 0 is a thread.
        length: how many examples to do, where that is less than all or where data does not say.
        compressor: ``"auto"`` (Blosc's LZ4 with bits shuffled), None, or a codec of zarr.
        retry_failed: whether to try again the examples that failed.
        seed: of random numbers that a model or method draws, which then depend on the example.

    Returns:
        A `Summary`. Examples that fail, after further tries in smaller pieces, are recorded there
        and in the store, and their maps are NaN.

    Raises:
        ArgumentError: an argument has no such form; the store was made with other settings, weights
            or targets; no example works; zarr is not installed.
        TargetError: a target has no known form, or does not fit the output.
        StoreError: the store cannot be written, as when the disk is full. What it has stays.

    >>> import tempfile, torch, funcattr as fa
    >>> model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
    >>> attr, data = fa.guided_backprop(model), torch.randn(20, 6)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = sweep_dataset(attr, data, targets=range(10), store=folder)
    >>> done.done, done.failed
    (20, [])
    """
    check_flags(resume=resume, progress=progress, retry_failed=retry_failed)
    checked_compile(compile)
    asked = Asked(
        attr, data, targets, store, batch_size, chunk_size, dtype, reduce, resume, compile, output,
        block_size, num_workers, length, compressor, retry_failed, seed,
    )  # fmt: skip
    todo = prepared(asked)
    to = todo.open(store, resume)
    mine = share(lambda: to.missing(todo.layout, failed=retry_failed), todo.layout.blocks)
    count = sum(len(todo.layout.block(number)) for number in mine)
    begin = time.perf_counter()
    cuts = [cut for number in mine for cut in todo.cuts(number)]
    with (
        closing(todo.data.loaded(cuts)) as loaded,
        bar(count, "example", progress and rank_and_size()[0] == 0 and _TQDM) as shown,
        Writer(to) as writer,
    ):
        for number in mine:
            block = Block(todo.layout, number, writer)
            failed: dict[int, str] = {}
            smaller: set[int] = set()
            for cut in todo.cuts(number):
                _explain(todo.explainer, next(loaded), block, failed, smaller)
                shown.update(len(cut))
            block.finish(failed, smaller)
    done = summary(to, count, time.perf_counter() - begin)
    if not done.missing:
        to.tidy()
    return done


def _explain(
    explainer: Explainer, part: Loaded, block: Block, failed: dict[int, str], smaller: set[int]
) -> None:
    failed |= part.failed
    for batch in part.batches:
        wrong, again = explainer.explain(batch, block.put, block.note)
        failed |= wrong
        smaller |= again
        if len(part.batches) > 1:
            smaller |= set(batch.rows) - set(wrong)
