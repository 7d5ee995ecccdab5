"""Batches of a data set in a fixed order, cut at fixed places, loaded ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler, default_collate

from ..errors import ArgumentError, FuncattrError, first_line, short
from .description import Description, digest_of

__all__ = ["Batch", "Data", "Loaded"]

_LABELS = ("label", "labels")
_OPTIONS = (
    "num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context",
    "prefetch_factor",
)  # fmt: skip
_PLAIN = (Tensor, np.ndarray, int, float, str)
_END = object()


@dataclass(frozen=True)
class Batch:
    """Examples by their numbers: what the model is called with, and their labels."""

    rows: tuple[int, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    label: Any = None

    @classmethod
    def of(cls, rows: Sequence[int], collated: Any) -> Batch:
        """Of what a loader makes of examples: inputs, ``(inputs, labels)``, or a dict."""
        if isinstance(collated, Mapping):
            rest = {str(key): part for key, part in collated.items() if key not in _LABELS}
            label = next((collated[key] for key in _LABELS if key in collated), None)
            if rest:
                first = next(iter(rest))
                return cls(tuple(rows), (rest.pop(first),), rest, label)
        elif not isinstance(collated, (tuple, list)):
            return cls(tuple(rows), (collated,), {})
        elif len(collated) in (1, 2):
            label = collated[1] if len(collated) == 2 else None
            return cls(tuple(rows), (collated[0],), {}, label)
        raise ArgumentError(
            "the examples of data are inputs, (input, label) pairs, or dicts of an input, further "
            f"arguments by name, and 'label'; got {short(collated)}."
        )

    def each(self, change: Callable[[Any], Any]) -> Batch:
        """With ``change`` applied to every leaf."""
        args, kwargs, label = tree_map(change, (self.args, self.kwargs, self.label))
        return Batch(self.rows, args, kwargs, label)

    def take(self, places: Sequence[int]) -> Batch:
        """Some of its examples."""
        count, chosen = len(self.rows), torch.as_tensor(places, dtype=torch.long)

        def taken(part: Any) -> Any:
            whole = isinstance(part, Tensor) and part.dim() and len(part) == count
            return part[chosen.to(part.device)] if whole else part

        return Batch(tuple(self.rows[i] for i in places), *_parts(self.each(taken)))

    def broken(self) -> dict[int, str]:
        """What is wrong with inputs that hold NaN or infinity, by their places."""
        found: dict[int, str] = {}
        for x in tree_flatten(self.args)[0]:
            floats = isinstance(x, Tensor) and x.is_floating_point() and x.dim()
            if floats and len(x) == len(self.rows):
                fine = torch.isfinite(x).reshape(len(x), -1).all(1).tolist()
                found |= {i: "the input is not finite" for i, yes in enumerate(fine) if not yes}
        return found


@dataclass
class Loaded:
    """The examples of one cut: in one batch, or one by one where they do not go together."""

    cut: range
    batches: list[Batch] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)


class Data:
    """A data set or a loader as examples by number.

    Raises:
        ArgumentError: it has no fixed order, or no length.
    """

    def __init__(
        self, data: Any, batch_size: int | None, num_workers: int | None, length: int | None
    ) -> None:
        options: dict[str, Any] = {}
        self.collate: Callable[[Any], Any] = default_collate
        if isinstance(data, DataLoader):
            if not isinstance(data.dataset, IterableDataset) and not _in_order(data):
                raise ArgumentError(
                    "examples are known by their number, so a loader keeps the order of its data "
                    "set; got one that shuffles or samples. Leave out shuffle=True, and for a part "
                    "of the data, or another order, pass torch.utils.data.Subset(data, indices)."
                )
            options = {name: getattr(data, name) for name in _OPTIONS}
            batch_size = batch_size or data.batch_size
            if data.batch_size is not None:
                self.collate = data.collate_fn
            data = data.dataset
        if num_workers is not None:
            options |= {"num_workers": num_workers, "prefetch_factor": None}
        self.dataset, self.options = data, options
        in_turn = isinstance(data, IterableDataset)
        self.by_number = not in_turn and hasattr(data, "__getitem__")
        if not self.by_number and not in_turn:
            raise ArgumentError(
                "data is a torch.utils.data.Dataset or DataLoader, or a sequence of examples; got "
                f"a {type(data).__name__}. What can only be iterated goes into a list, or an "
                "IterableDataset, whose __iter__ begins anew each time."
            )
        self.batch_size = batch_size or 8
        self.length = self._length(length)

    def cuts(self) -> list[range]:
        """The batches, by the numbers of their examples."""
        starts = range(0, self.length, self.batch_size)
        return [range(i, min(i + self.batch_size, self.length)) for i in starts]

    def first(self) -> str | None:
        """A digest of the first example, by which another data set is told apart."""
        if not self.by_number:
            return None
        kind, item = _Guarded(self.dataset)[0][1:]
        if kind == "failed":
            return None
        about = Description()
        shown = [about.of(leaf) for leaf in tree_flatten(item)[0] if isinstance(leaf, _PLAIN)]
        return digest_of(f"{shown} {about.weights()}".encode())

    def loaded(self, cuts: Sequence[range]) -> Generator[Loaded, None, None]:
        """The batches of ascending cuts; the next ones are loaded while one is used."""
        if not cuts:
            return _ahead(iter(()))
        return _ahead(self._by_number(cuts) if self.by_number else self._one_after_another(cuts))

    def _loader(self, dataset: Any, **how: Any) -> Iterator[Any]:
        # A generator of its own, so that the user's random numbers are left as they are.
        generator = torch.Generator().manual_seed(0)
        return iter(DataLoader(dataset, generator=generator, **how, **self.options))

    def _by_number(self, cuts: Sequence[range]) -> Iterator[Loaded]:
        batches = self._loader(
            _Guarded(self.dataset), batch_sampler=list(map(list, cuts)), collate_fn=_Joined(self)
        )
        return map(_unpacked, batches)

    def _one_after_another(self, cuts: Sequence[range]) -> Iterator[Loaded]:
        items = enumerate(self._loader(self.dataset, batch_size=None, collate_fn=_same))
        joined = _Joined(self)
        for cut in cuts:
            found: list[tuple[int, str, Any]] = []
            while len(found) < len(cut):
                try:
                    number, item = next(items)
                except StopIteration:
                    raise ArgumentError(
                        f"data ended before example {cut.stop - 1}; its length is given as "
                        f"{self.length}. Pass length= as many as there are."
                    ) from None
                except Exception as error:
                    raise FuncattrError(
                        f"data raised {first_line(error)} before example {cut.stop - 1}, and an "
                        "iterator does not go on from there. A map-style data set would."
                    ) from error
                if number in cut:
                    found.append((number, "item", item))
            yield _unpacked(joined(found))

    def _length(self, length: int | None) -> int:
        try:
            count = len(self.dataset)
        except TypeError:
            if length is None:
                raise ArgumentError(
                    "data has no length, and the arrays of a store have one; pass length=, the "
                    "number of its examples."
                ) from None
            return length
        if length is not None and length > count:
            raise ArgumentError(f"length is {length}, and data has {count} examples.")
        if not (count if length is None else length):
            raise ArgumentError("data is empty; expected at least one example.")
        return count if length is None else length


class _Guarded:
    """A data set whose examples that fail are told as such, in whichever process loads them."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> tuple[int, str, Any]:
        try:
            return number, "item", self.dataset[number]
        except Exception as error:
            return number, "failed", first_line(error)


class _Joined:
    """Joins examples into a batch, those that do not go together one by one."""

    def __init__(self, data: Data) -> None:
        self.collate = data.collate

    def __call__(self, found: list[tuple[int, str, Any]]) -> tuple[Any, ...]:
        rows = [number for number, _, _ in found]
        failed = {number: what for number, kind, what in found if kind == "failed"}
        items = [(number, what) for number, kind, what in found if kind == "item"]
        parts: list[tuple[list[int], Any]] = []
        if items:
            try:
                parts.append(([n for n, _ in items], self.collate([item for _, item in items])))
            except Exception:
                for number, item in items:
                    try:
                        parts.append(([number], self.collate([item])))
                    except Exception as error:
                        failed[number] = first_line(error)
        return rows, parts, failed


def _unpacked(joined: tuple[Any, ...]) -> Loaded:
    rows, parts, failed = joined
    batches = [Batch.of(numbers, collated) for numbers, collated in parts]
    return Loaded(range(rows[0], rows[-1] + 1), batches, failed)


def _parts(batch: Batch) -> tuple[Any, Any, Any]:
    return batch.args, batch.kwargs, batch.label


def _same(item: Any) -> Any:
    return item


def _in_order(loader: DataLoader[Any]) -> bool:
    sampler = loader.sampler if loader.batch_size is not None else loader.batch_sampler
    return isinstance(sampler or loader.sampler, SequentialSampler)


def _ahead(items: Iterator[Loaded], count: int = 2) -> Generator[Loaded, None, None]:
    """The same items, made in a thread before they are asked for."""
    with ThreadPoolExecutor(1) as pool:
        pending: deque[Any] = deque(pool.submit(next, items, _END) for _ in range(count))
        try:
            while (item := pending.popleft().result()) is not _END:
                pending.append(pool.submit(next, items, _END))
                yield item
        finally:
            for future in pending:
                future.cancel()
