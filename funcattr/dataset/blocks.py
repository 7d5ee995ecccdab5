"""The arrays of one block of examples in memory, and their way into the store."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .explain import Facts
from .storage.layout import ERROR_BYTES, SHARD, Layout, Stored
from .storage.store import Store

__all__ = ["Block", "Writer"]

SMALL = 2**16  # bytes, of which a few more do no harm
MOST_PENDING = 64  # writes


class Writer:
    """Writes in a thread, in order, while the next examples are explained, and never far behind."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._pool = ThreadPoolExecutor(1)
        self._broken = False
        self._pending: deque[tuple[Future[None], int]] = deque()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: Any, *exc: object) -> None:
        try:
            if kind is None:
                self._wait(-1, 0)
        finally:
            self._pool.shutdown(wait=True)  # what is finished is stored, whatever came after

    def write(self, name: str, region: tuple[slice, ...], values: np.ndarray[Any, Any]) -> None:
        """After what came before; waits while that is too much to be kept.

        Raises:
            StoreError: what came before could not be written.
        """
        self._wait(SHARD if values.nbytes > SMALL else None, MOST_PENDING)
        future = self._pool.submit(self._write, name, region, values)
        self._pending.append((future, values.nbytes))

    def _write(self, name: str, region: tuple[slice, ...], values: np.ndarray[Any, Any]) -> None:
        if self._broken:
            return  # or a block whose maps could not be written would be marked as done
        try:
            self.store.write(name, region, values)
        except BaseException:
            self._broken = True
            raise

    def _wait(self, nbytes: int | None, count: int) -> None:
        def much() -> bool:
            kept = sum(size for _, size in self._pending)
            return len(self._pending) > count or (nbytes is not None and kept > nbytes)

        while self._pending and (self._pending[0][0].done() or much()):
            self._pending.popleft()[0].result()


class Block:
    """Maps and facts of a block, each shard of which is written as soon as it is full."""

    def __init__(self, layout: Layout, number: int, writer: Writer) -> None:
        self.layout, self.rows, self.writer = layout, layout.block(number), writer
        self._shards: dict[tuple[int, int], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = {}
        self._beside = {
            stored.name: np.full((len(self.rows), *stored.shape[1:]), stored.fill, stored.dtype)
            for stored in layout.beside
        }

    def put(self, rows: tuple[int, ...], start: int, maps: list[Tensor]) -> None:
        """Takes maps ``[n, B, ...]`` of these examples, of the targets from ``start`` on."""
        places = _places(rows, self.rows)
        for which, (stored, values) in enumerate(zip(self.layout.maps, maps, strict=True)):
            count, stop = stored.shape[1], start + len(values)
            if tuple(values.shape[2:]) != stored.shape[2:]:
                raise ValueError(
                    f"a map of {tuple(values.shape[2:])}, where others are {stored.shape[2:]}"
                )
            if stop > count:
                raise ValueError(f"{stop} targets, where others have {count}")
            for group in range(start // stored.group, -(-stop // stored.group)):
                first = max(start, group * stored.group)
                last = min(stop, (group + 1) * stored.group)
                self._fill(which, group, places, first, values[first - start : last - start])

    def note(self, rows: tuple[int, ...], facts: Facts, label: Any) -> None:
        """Takes what else is known of these examples."""
        places = _places(rows, self.rows)
        known = {
            "targets": facts.targets, "score": facts.score, "prediction": facts.prediction,
            "label": label,
        }  # fmt: skip
        for name, value in known.items():
            if name in self._beside and value is not None:
                into = self._beside[name]
                found = torch.as_tensor(value).detach().cpu()
                if found.is_floating_point():
                    found = found.double()
                into[places] = found.numpy().reshape(len(rows), *into.shape[1:])
        self._beside["status"][places] = 1

    def finish(self, failed: Mapping[int, str], smaller: set[int]) -> None:
        """Writes the rest, and last of all that the block is done."""
        status, errors = self._beside["status"], self._beside["error"]
        for row in smaller:
            status[row - self.rows.start] = 2
        for row, text in failed.items():
            data = text.encode()[:ERROR_BYTES]
            status[row - self.rows.start] = 3
            errors[row - self.rows.start, : len(data)] = np.frombuffer(data, np.uint8)
        if (status == 3).all():
            self._clear()
        for key in list(self._shards):
            self._flush(*key)
        for name in [n for n in self._beside if n != "status"] + ["status"]:
            self.writer.write(name, (slice(self.rows.start, self.rows.stop),), self._beside[name])

    def _fill(self, which: int, group: int, places: Any, first: int, values: Tensor) -> None:
        stored = self.layout.maps[which]
        start, stop = self._targets(stored, group)
        if (which, group) not in self._shards:
            # What is asked of the memory is the shard's; pages that nobody writes to cost nothing.
            shape = (len(self.rows), stop - start, *stored.shape[2:])
            there = np.zeros(shape[:2], bool)
            self._shards[which, group] = np.empty(shape, stored.dtype), there
        shard, there = self._shards[which, group]
        here = slice(first - start, first - start + len(values))
        shard[places, here] = values.transpose(0, 1).cpu().numpy()
        there[places, here] = True
        if there.all():
            self._flush(which, group)

    def _flush(self, which: int, group: int) -> None:
        stored = self.layout.maps[which]
        shard, there = self._shards.pop((which, group))
        if not there.all():
            # Of an example that failed there is nothing, not even what came before it did.
            shard[~there] = stored.fill
            shard[self._beside["status"] == 3] = stored.fill
        region = (slice(self.rows.start, self.rows.stop), slice(*self._targets(stored, group)))
        self.writer.write(stored.name, region, shard)

    def _clear(self) -> None:
        """Leaves nothing of maps that were written before the examples turned out to fail."""
        self._shards.clear()
        for stored in self.layout.maps:
            for start in range(0, stored.shape[1], stored.group):
                stop = min(start + stored.group, stored.shape[1])
                shape = (len(self.rows), stop - start, *stored.shape[2:])
                region = (slice(self.rows.start, self.rows.stop), slice(start, stop))
                self.writer.write(stored.name, region, np.full(shape, stored.fill, stored.dtype))

    def _targets(self, stored: Stored, group: int) -> tuple[int, int]:
        return group * stored.group, min((group + 1) * stored.group, stored.shape[1])


def _places(rows: tuple[int, ...], block: range) -> Any:
    """Where examples are in their block: a slice where they follow each other."""
    first = rows[0] - block.start
    if rows[-1] - rows[0] == len(rows) - 1:
        return slice(first, first + len(rows))
    return np.asarray(rows) - block.start
