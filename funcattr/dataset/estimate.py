"""What a sweep would take, from a first batch of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .prepare import Prepared
from .storage.layout import Stored
from .storage.store import library, size_of

__all__ = ["Estimate", "estimate", "in_bytes"]


@dataclass(frozen=True)
class Estimate:
    """Of a whole sweep.

    Args:
        arrays: what would be stored.
        blocks: how many there are to share out.
        block_size: of how many examples.
        batches: how many forward passes there are.
        chunk_size: how many targets go at once.
        seconds: of one process, without the time that loading takes where it is slower.
        stored: bytes, compressed as the first maps are.
    """

    arrays: Sequence[Stored]
    blocks: int
    block_size: int
    batches: int
    chunk_size: int
    seconds: float
    stored: float

    def __str__(self) -> str:
        width = max(len(stored.name) for stored in self.arrays)
        lines = [
            f"{stored.name:{width}} {'x'.join(map(str, stored.shape)):24} {stored.dtype:8} "
            f"{in_bytes(stored.nbytes):>10}  ({', '.join(stored.dims)})"
            for stored in self.arrays
        ]
        return "\n".join(
            [
                *lines,
                f"{self.batches} batches in {self.blocks} blocks of {self.block_size} examples, "
                f"{self.chunk_size} targets at once",
                f"about {_time(self.seconds)} for one process, {in_bytes(self.stored)} on disk",
            ]
        )


def estimate(todo: Prepared) -> Estimate:
    """Times the first batch up to its second chunk of targets, and compresses its first maps."""
    explainer, count = todo.explainer, todo.layout.maps[0].shape[1]
    assert isinstance(explainer.chunk_size, int)
    first: list[Any] = []
    begin = time.perf_counter()
    times = [begin]
    for start, maps, _ in explainer.chunks(todo.sample.each(explainer.moved), explainer.chunk_size):
        first = first or maps
        times.append(time.perf_counter())
        if start > 0:
            break
    chunks = -(-count // explainer.chunk_size)
    per_chunk = times[-1] - times[-2] if len(times) > 2 else 0.0
    per_batch = times[1] - begin + (chunks - 1) * per_chunk
    batches = len(todo.data.cuts())
    share = len(todo.sample.rows) / todo.data.batch_size  # of the sample, if examples failed
    stored = sum(
        array.nbytes * _compressed(maps.transpose(0, 1).to(explainer.dtype).cpu().numpy(), todo)
        for array, maps in zip(todo.layout.maps, first)
    )
    beside = sum(array.nbytes for array in todo.layout.beside if array.name != "error")
    arrays = (*todo.layout.maps, *todo.layout.beside)
    return Estimate(
        arrays, todo.layout.blocks, todo.layout.block_size, batches, explainer.chunk_size,
        per_batch * batches / share, stored + beside,
    )  # fmt: skip


def _compressed(maps: np.ndarray[Any, Any], todo: Prepared) -> float:
    """What compression leaves of them."""
    place = library("zarr.storage").MemoryStore()
    array = library().create_array(
        place, shape=maps.shape, dtype=maps.dtype, chunks=(1, *maps.shape[1:]),
        compressors=todo.compressor, fill_value=float("nan"),
    )  # fmt: skip
    array[:] = maps
    return size_of(place) / maps.nbytes


def in_bytes(count: float) -> str:
    """A number of bytes, in words."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
