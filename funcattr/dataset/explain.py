"""The maps of a batch, and what is done about examples that fail."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from ..core.memory import Largest, fitting
from ..engine.mapped import Reduce
from ..engine.output import Part
from ..errors import ArgumentError, StoreError, first_line
from ..methods.attribution import Attribution, Explain, OnePass, ruled
from ..methods.chunks import AUTO_LIMIT, Compile, Sweep
from .examples import Batch
from .targets import Fixed, PerExample, values_at

__all__ = ["Explainer", "Facts", "with_output"]

Put = Callable[[tuple[int, ...], int, list[Tensor]], None]


@dataclass(frozen=True)
class Facts:
    """What is stored beside the maps of a batch; None where there is no such thing."""

    targets: Tensor | None  # [B, T, k]
    score: Tensor | None  # [B, T]
    prediction: Tensor | None  # [B]


class NotFinite(Exception):
    """Maps that hold NaN or infinity, or that the type they are stored in cannot hold."""

    def __init__(self, places: list[int], text: str) -> None:
        super().__init__(text)
        self.places, self.text = places, text


@dataclass
class Explainer:
    """What a sweep does with each batch.

    Args:
        attr: whose maps; a bundle where ``several``.
        several: whether ``reduce`` is for each of its maps.
        targets: which.
        reduce: a function of one map.
        dtype: the type that maps are stored in.
        compile: as in `funcattr.sweep`.
        device: where the model is.
        seed: of the random numbers that a model or method draws.
        chunk_size: how many targets at once.
    """

    attr: Attribution
    several: bool
    targets: Fixed | PerExample
    reduce: Reduce | None
    dtype: torch.dtype
    compile: Compile
    device: torch.device
    seed: int
    chunk_size: int | str | None

    def __post_init__(self) -> None:
        if self.several and self.reduce is not None:
            self.reduce = _Each(self.reduce)

    def forward(self, batch: Batch) -> tuple[Facts, Any, Explain, Any, int]:
        """The facts, the targets in the form that `Sweep` takes, and how many go at once."""
        with nullcontext() if isinstance(self.chunk_size, int) else Largest() as largest:
            out, explain = self.attr.linearize(*batch.args, **batch.kwargs)
        targets = self.targets.of(batch.args[0], batch.label, out)
        with torch.no_grad():
            own = targets if isinstance(self.targets, PerExample) else None
            classes = isinstance(out, Tensor) and out.dim() == 2 and out.shape[1] > 1
            facts = Facts(
                None if own is None else own.transpose(0, 1),
                values_at(out, targets),
                out.argmax(1) if classes else None,
            )
        size = self.chunk_size
        if largest is not None and not isinstance(size, int):
            count = len(targets)
            size = count if size is None else min(count, fitting(largest, batch.args, AUTO_LIMIT))
            size = -(-count // -(-count // size))  # of one size, as far as they can be
        return facts, out, explain, targets, len(targets) if size is None else int(size)

    def first(self, batch: Batch) -> tuple[Facts, int, int, Any]:
        """The facts, how many targets there are and go at once, and maps of the first one."""
        batch = batch.each(self.moved)
        with _seeded(self.seed, self.device):
            facts, out, explain, targets, size = self.forward(batch)
            given = Attribution(lambda: (out, explain))
            sweep = Sweep(given, (), {}, targets[:1], 1, self.reduce, False)
            return facts, len(targets), size, next(sweep.chunks(False))[1]

    def chunks(self, batch: Batch, size: int) -> Iterator[tuple[int, list[Tensor], Facts]]:
        """Where a chunk begins among the targets, its maps ``[n, B, ...]``, and the facts."""
        with _seeded(self.seed + batch.rows[0], self.device):
            facts, out, explain, targets, _ = self.forward(batch)
            if self.compile:
                del explain  # each chunk, or all of them, do a forward pass that is compiled
                args = (self.attr, batch.args, batch.kwargs)
            else:
                args = (Attribution(lambda: (out, explain)), (), {})
            sweep, start = Sweep(*args, targets, size, self.reduce, self.compile), 0
            for some, maps in sweep.chunks(False):
                yield start, [leaf for leaf in tree_flatten(maps)[0] if leaf is not None], facts
                start += len(some)

    def explain(
        self, batch: Batch, put: Put, note: Callable[[tuple[int, ...], Facts, Any], None]
    ) -> tuple[dict[int, str], set[int]]:
        """Puts the maps of a batch in their place.

        Returns:
            What failed, and what was done in smaller pieces, by the numbers of the examples.
        """
        assert isinstance(self.chunk_size, int)
        failed = {batch.rows[i]: text for i, text in batch.broken().items()}
        kept = [i for i, row in enumerate(batch.rows) if row not in failed]
        smaller: set[int] = set()
        todo = [(batch.take(kept) if failed else batch, self.chunk_size, False)] if kept else []
        while todo:
            part, size, again = todo.pop()
            try:
                for start, maps, facts in self.chunks(part.each(self.moved), size):
                    if start == 0:
                        note(part.rows, facts, part.label)
                    put(part.rows, start, [self._checked(m, start) for m in maps])
                smaller |= set(part.rows) if again else set()
                continue
            except NotFinite as error:
                failed |= {part.rows[i]: error.text for i in error.places}
                rest = [i for i in range(len(part.rows)) if i not in error.places]
                todo += [(part.take(rest), size, True)] if rest else []
                continue
            except Exception as error:
                if isinstance(error, StoreError) or _hopeless(error):
                    raise
                text, short_of_memory = first_line(error), _of_memory(error)
            # Out of the handler, whose traceback holds on to the pass that failed.
            if short_of_memory:
                _free()
            if short_of_memory and size > 1:
                todo.append((part, size // 2, True))
            elif len(part.rows) > 1:
                half = len(part.rows) // 2
                places = range(len(part.rows))
                todo += [(part.take(some), size, True) for some in (places[half:], places[:half])]
            else:
                failed[part.rows[0]] = text
        return failed, smaller

    def moved(self, leaf: Any) -> Any:
        """A leaf of a batch, where the model is."""
        return leaf.to(self.device, non_blocking=True) if isinstance(leaf, Tensor) else leaf

    def _checked(self, maps: Tensor, start: int) -> Tensor:
        """In the type they are stored in.

        Raises:
            NotFinite: which of the examples, and why.
        """
        limit = torch.finfo(self.dtype).max
        if not maps.numel():
            return maps.to(self.dtype)
        low, high = torch.aminmax(maps)
        if not (-low <= limit and high <= limit):  # NaN is neither
            fine = (maps.abs() <= limit).transpose(0, 1).reshape(maps.shape[1], -1).all(1)
            places = [i for i, yes in enumerate(fine.tolist()) if not yes]
            why = (
                f"larger than {self.dtype} can hold; store float32"
                if torch.isfinite(maps).all()
                else "not finite"
            )
            end = start + len(maps) - 1
            raise NotFinite(places, f"a map of targets {start} to {end} is {why}")
        return maps.detach().to(self.dtype)


@dataclass(frozen=True)
class _Each:
    """Applies a function to each map of a bundle."""

    reduce: Reduce

    def __call__(self, maps: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple([self.reduce(m) for m in maps])


def with_output(attr: Attribution, part: Part) -> Attribution:
    """The same attribution of a part of the model's output."""
    method: Any = attr.method
    if isinstance(method, OnePass):
        return Attribution.by(replace(method, ruled=ruled(method.ruled, part)))
    changed: dict[str, Any] = {}
    for name in [f.name for f in fields(method)] if is_dataclass(method) else []:
        held = getattr(method, name)
        if isinstance(held, Attribution):
            changed[name] = with_output(held, part)
        elif isinstance(held, tuple) and held and isinstance(held[0], Attribution):
            changed[name] = tuple(with_output(each, part) for each in held)
    if not changed:
        raise ArgumentError(
            "output= is for attributions of this library; in one of your own, let linearize return "
            "the part that is meant."
        )
    return Attribution.by(replace(method, **changed))


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers that depend on the example alone, and the user's as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _of_memory(error: Exception) -> bool:
    known = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
    return known or "not enough memory" in str(error) or "out of memory" in str(error)


def _hopeless(error: Exception) -> bool:
    """Whether every later example would fail, too: the device is lost."""
    return "CUDA error" in str(error) and "out of memory" not in str(error)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
