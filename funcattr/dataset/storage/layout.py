"""What a store holds: arrays, their dimensions, and how they are cut into chunks and shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["ERROR_BYTES", "FLAGS", "Layout", "Stored", "block_size_for"]

CHUNK = 2**22  # bytes that are read at once
SHARD = 2**26  # bytes that make a file, where several batches go into one
LARGEST_SHARD = 2**28
BLOCKS = 64  # that a data set is cut into at the least, so that there is something to share out
MOST_BATCHES = 16  # whose work is lost when a process dies
ERROR_BYTES = 240
FLAGS = ("missing", "done", "done_in_smaller_pieces", "failed")
_MAP_DIMS: dict[int, tuple[str, ...]] = {
    0: (), 1: ("feature",), 2: ("y", "x"), 3: ("channel", "y", "x"),
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """One array; ``group`` is how many targets a shard holds, None where there are no targets."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    fill: Any = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> int:
        """How many targets a shard of maps holds."""
        return (self.shards or self.chunks)[1]

    @property
    def nbytes(self) -> int:
        """Of all of it, without compression."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Layout:
    """The arrays of a store; no two blocks of examples have a file in common."""

    examples: int
    block_size: int
    maps: tuple[Stored, ...]
    beside: tuple[Stored, ...]

    @property
    def blocks(self) -> int:
        """How many blocks of examples there are."""
        return -(-self.examples // self.block_size)

    def block(self, number: int) -> range:
        """The examples of a block."""
        start = number * self.block_size
        return range(start, min(start + self.block_size, self.examples))

    @classmethod
    def of(
        cls,
        examples: int,
        targets: int,
        batch_size: int,
        block_size: int,
        maps: Mapping[str, tuple[int, ...]],
        dtype: str,
        methods: Mapping[str, str],
        facts: Mapping[str, tuple[tuple[int, ...], str]],
    ) -> Layout:
        """For maps of these shapes, and what else is known of each example, by name."""
        names = _Names({"example": examples, "target": targets})
        made = []
        for name, shape in maps.items():
            dims = ("example", "target", *names.of(name, shape))
            cut = _cut(targets, block_size, shape, np.dtype(dtype).itemsize, batch_size)
            whole = (examples, targets, *shape)
            text = {"method": methods[name]}
            made.append(Stored(name, whole, dtype, dims, *cut, float("nan"), text))
        flags = {"flag_values": list(range(len(FLAGS))), "flag_meanings": " ".join(FLAGS)}
        beside = [
            _beside(name, examples, block_size, shape, kind, names)
            for name, (shape, kind) in facts.items()
        ]
        beside.append(_beside("error", examples, block_size, (ERROR_BYTES,), "uint8", names))
        beside.append(_beside("status", examples, block_size, (), "uint8", names, flags))
        return cls(examples, block_size, tuple(made), tuple(beside))


class _Names:
    """Names of dimensions, so that those of one name have one size, as xarray wants it."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes

    def of(self, array: str, shape: Sequence[int]) -> tuple[str, ...]:
        plain = _MAP_DIMS.get(len(shape), tuple(f"dim_{i}" for i in range(len(shape))))
        found = []
        for name, size in zip(plain, shape):
            if self.sizes.setdefault(name, size) != size:
                name = f"{name}_of_{array}"
                self.sizes[name] = size
            found.append(name)
        return tuple(found)


def block_size_for(examples: int, targets: int, batch_size: int, map_bytes: int) -> int:
    """How many examples go into one block: few enough that a death costs little."""
    by_bytes = SHARD // max(1, batch_size * targets * map_bytes)
    by_count = examples // (BLOCKS * batch_size)
    return batch_size * max(1, min(by_bytes, by_count, MOST_BATCHES))


def _cut(
    targets: int, block_size: int, shape: tuple[int, ...], itemsize: int, batch_size: int
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """The chunks, small enough to read one map, and the shards, large enough to be files."""
    of_map = max(1, int(np.prod(shape, dtype=np.int64)) * itemsize)
    some = max(1, min(targets, CHUNK // of_map))  # targets in a chunk
    rows = 1
    if some == targets:
        most = max(1, CHUNK // (targets * of_map))
        rows = max(n for n in range(1, block_size + 1) if block_size % n == 0 and n <= most)
    chunk = (rows, some, *shape)
    per_shard = -(-targets // some)
    if block_size <= batch_size:  # only then are the shards of a block filled one after the other
        per_shard = min(per_shard, max(1, LARGEST_SHARD // (block_size * some * of_map)))
    shard = (block_size, some * per_shard, *shape)
    return chunk, None if shard == chunk else shard


def _beside(
    name: str,
    examples: int,
    block_size: int,
    shape: tuple[int, ...],
    kind: str,
    names: _Names,
    attributes: Mapping[str, Any] | None = None,
) -> Stored:
    dims = {"error": ("byte",), "targets": ("target", "index"), "score": ("target",)}.get(name, ())
    fill = {"f": float("nan"), "i": -1, "u": 0}[np.dtype(kind).kind]
    return Stored(
        name, (examples, *shape), kind, ("example", *dims[: len(shape)]), (block_size, *shape),
        None, fill, attributes or {},
    )  # fmt: skip
