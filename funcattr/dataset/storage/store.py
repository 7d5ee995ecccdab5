"""A store of arrays in the Zarr format, by its own library."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ArgumentError, FuncattrError, StoreError, first_line
from .layout import Layout, Stored

__all__ = ["Store", "exists", "library", "size_of"]

Region = tuple[slice, ...]
_ROOT = "zarr.json"
_OLDEST = (3, 1, 3)  # whose files on disk are whole or absent


def library(name: str = "zarr") -> Any:
    """Zarr, or a part of it.

    Raises:
        ArgumentError: it is not installed, or too old.
    """
    try:
        zarr = importlib.import_module("zarr")
    except ImportError as error:
        raise ArgumentError(
            "sweeps that are stored need zarr: pip install 'funcattr[store]' (Python 3.11 or later)"
        ) from error
    if tuple(int(part) for part in zarr.__version__.split(".")[:3] if part.isdigit()) < _OLDEST:
        raise ArgumentError(
            f"zarr {zarr.__version__} is too old to write files that are whole or absent: "
            "pip install -U 'funcattr[store]'."
        )
    return importlib.import_module(name)


class Store:
    """The arrays of a sweep, which are written block by block.

    A block is done once the chunk of ``status`` that belongs to it is there, which is written last.
    """

    def __init__(self, place: Any, *, write: bool = False) -> None:
        zarr = library()
        self.place, self.name = _opened(place, write), _shown(place)
        with storing(self.name, "read"):
            try:
                self.root = zarr.open_group(self.place, mode="r+" if write else "r")
            except FileNotFoundError:
                raise ArgumentError(f"there is no store at {self.name}.") from None
            # Nothing is spent on finding out which chunks are empty.
            with zarr.config.set({"array.write_empty_chunks": True}):
                self.arrays: dict[str, Any] = dict(self.root.arrays())
        self.settings = self.root.attrs.asdict().get("settings")
        if self.settings is None or "status" not in self.arrays:
            raise ArgumentError(f"{self.name} is no store of funcattr.sweep_dataset.")

    @classmethod
    def create(
        cls,
        place: Any,
        layout: Layout,
        attributes: Mapping[str, Any],
        target: np.ndarray[Any, Any] | None,
        compressor: Any,
    ) -> Store:
        """Makes an empty store, unless one was made in the meantime, which is then opened."""
        zarr = library()
        to, name = _opened(place, True), _shown(place)
        draft = library("zarr.storage").MemoryStore()
        root = zarr.create_group(draft, attributes=dict(attributes))
        for stored in (*layout.maps, *layout.beside):
            _array(root, stored, compressor)
        if target is not None:
            made = root.create_array(
                "target", shape=target.shape, dtype=target.dtype, chunks=target.shape,
                dimension_names=("target", "index")[: target.ndim],
            )  # fmt: skip
            made[:] = target
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that few libraries know consolidated metadata yet
            zarr.consolidate_metadata(draft)
        with storing(name, "written"):
            _run(_copied(draft, to))
        return cls(place, write=True)

    def maps(self) -> list[str]:
        """The names of the arrays of maps."""
        return list(self.settings["maps"])

    def status(self) -> np.ndarray[Any, Any]:
        """Of every example, a number of `FLAGS`."""
        with storing(self.name, "read"):
            return np.asarray(self.arrays["status"][:])

    def missing(self, layout: Layout, *, failed: bool) -> list[int]:
        """The blocks that are not done; with ``failed`` those, too, where examples failed."""
        status = self.status()
        rows = (
            (n, status[layout.block(n).start : layout.block(n).stop]) for n in range(layout.blocks)
        )
        return [n for n, some in rows if not some.all() or (failed and (some == 3).any())]

    def write(self, name: str, region: Region, values: np.ndarray[Any, Any]) -> None:
        """Writes whole shards."""
        with storing(self.name, "written"):
            try:
                self.arrays[name][region] = values
            except FileNotFoundError:  # a sweep that was complete has tidied up
                self.arrays[name][region] = values

    def errors(self) -> list[tuple[int, str]]:
        """The examples that failed, and why."""
        found = np.flatnonzero(self.status() == 3)
        with storing(self.name, "read"):
            texts = [bytes(row).rstrip(b"\0") for row in self.arrays["error"].oindex[found]]
        return [(int(i), text.decode("utf-8", "replace")) for i, text in zip(found, texts)]

    def tidy(self) -> int:
        """Removes what writers that were killed have left in a directory, and counts it."""
        left = list(self.left_over())
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def left_over(self) -> Iterator[Path]:
        """The files of writers that were killed."""
        root = getattr(self.place, "root", None)
        return root.rglob("*.partial") if isinstance(root, Path) else iter(())


def exists(place: Any) -> bool:
    """Whether there is a store, whole as it was made."""
    with storing(_shown(place), "read"):
        return bool(_run(_opened(place, False).exists(_ROOT)))


def size_of(store: Any) -> int:
    """The bytes of everything in a store object of zarr."""
    return int(_run(store.getsize_prefix("")))


@contextmanager
def storing(name: str, done: str) -> Iterator[None]:
    """Says of errors of a disk, or of what stands for one, that it is the store's.

    Raises:
        StoreError: an `OSError`, or a store that is read-only.
    """
    try:
        yield
    except FuncattrError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and "read-only" not in str(error):
            raise
        raise StoreError(
            f"the store {name} cannot be {done}: {first_line(error)}. What it has of finished "
            "examples stays; the same call goes on from there once that is mended."
        ) from error


def _array(root: Any, stored: Stored, compressor: Any) -> None:
    root.create_array(
        stored.name, shape=stored.shape, dtype=stored.dtype, chunks=stored.chunks,
        shards=stored.shards, fill_value=stored.fill, dimension_names=stored.dims,
        compressors=compressor, attributes=dict(stored.attributes),
    )  # fmt: skip


async def _copied(draft: Any, to: Any) -> None:
    """The root comes last, at once and by the first who comes: with it the store is there."""
    prototype = library("zarr.core.buffer").default_buffer_prototype()
    keys = sorted([key async for key in draft.list() if key != _ROOT])
    for key in keys:
        await to.set(key, await draft.get(key, prototype))
    await to.set_if_not_exists(_ROOT, await draft.get(_ROOT, prototype))


def _run(coroutine: Any) -> Any:
    """Zarr's own loop, which the connections of remote stores belong to."""
    return library("zarr.core.sync").sync(coroutine)


def _opened(place: Any, write: bool) -> Any:
    storage = library("zarr.storage")
    if isinstance(place, library("zarr.abc.store").Store):
        return place
    if isinstance(place, str) and "://" in place:
        return storage.FsspecStore.from_url(place, read_only=not write)
    if isinstance(place, (str, Path)):
        return storage.LocalStore(Path(place), read_only=not write)
    raise ArgumentError(
        f"store is a directory, a URL, or a store object of zarr; got a {type(place).__name__}."
    )


def _shown(place: Any) -> str:
    return str(place)
