"""Many targets of one forward pass: `sweep` and `stream`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from ._contexts import tracked
from ._memory import Largest, fitting
from ._scope import Replay, compiling, transforming
from ._tree import stacked
from .attribution import Attribution, Explain
from .errors import ArgumentError, TargetError
from .targets import Index, Target, as_tensor, check_range, encode_all

__all__ = ["stream", "sweep"]

Targets = Sequence[Target] | Tensor | np.ndarray[Any, Any] | range
ChunkSize = int | str | None
Reduce = Callable[[Any], Any]

AUTO_LIMIT = 256  # targets at once, beyond which a sweep gains nothing more


def sweep(
    attr: Attribution,
    *args: Any,
    targets: Targets,
    chunk_size: ChunkSize = None,
    reduce: Reduce | None = None,
    compile: bool = False,
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
            does a forward pass of its own.
        progress: whether to show a bar where the output is a terminal and the work is long (needs
            the extra ``funcattr[progress]``).
        **kwargs: what ``attr`` is called with.

    Returns:
        Maps ``[T, ...]``, a pytree of such where ``attr`` returns one.

    Raises:
        TargetError: a target has no known form, or does not fit the output.
        ArgumentError: ``chunk_size`` is no positive int, None or "auto"; ``attr`` is no
            `Attribution`; ``reduce`` returns no tensor.

    >>> import funcattr as fa
    >>> attr = fa.gradient(torch.nn.Linear(4, 10))
    >>> sweep(attr, torch.ones(2, 4), targets=range(10), chunk_size=3).shape
    torch.Size([10, 2, 4])
    >>> sweep(attr, torch.ones(2, 4), targets=range(10), reduce=lambda m: m.abs().sum()).shape
    torch.Size([10])
    """
    todo = _Sweep(attr, args, kwargs, targets, chunk_size, reduce, compile)
    parts = [maps for _, maps in todo.chunks(progress)]
    return parts[0] if len(parts) == 1 else stacked(parts, torch.cat)


def stream(
    attr: Attribution,
    *args: Any,
    targets: Targets,
    chunk_size: ChunkSize,
    reduce: Reduce | None = None,
    compile: bool = False,
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
        compile: whether to compile.
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
    return _Sweep(attr, args, kwargs, targets, chunk_size, reduce, compile).chunks(progress)


class _Sweep:
    def __init__(
        self,
        attr: Attribution,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        targets: Targets,
        chunk_size: ChunkSize,
        reduce: Reduce | None,
        compile: bool,
    ) -> None:
        if not isinstance(attr, Attribution):
            raise ArgumentError(
                "attr is an Attribution (funcattr.guided_backprop(model), say; several go in "
                f"funcattr.bundle); got a {type(attr).__name__}."
            )
        self.attr, self.args, self.kwargs = attr, args, kwargs
        self.reduce = reduce
        self.targets = as_tensor(targets) if isinstance(targets, np.ndarray) else targets
        self.index = encode_all(self.targets)
        self.compile = compile and not compiling()
        if self.compile and self.index is None:
            raise ArgumentError(
                "compile=True needs targets of one form that are no callables; sweep them with "
                "compile=False."
            )
        self.chunk_size = _checked_chunk_size(chunk_size)
        if reduce is not None and not callable(reduce):
            raise ArgumentError(f"reduce is a function of one map; got {reduce!r}.")

    def chunks(self, progress: bool) -> Iterator[tuple[Any, Any]]:
        count = len(self.targets)
        run, size = self._compiled() if self.compile else self._eager()
        size = min(size or count, count)
        with _bar(count, progress) as bar:
            for start in range(0, count, size):
                stop = min(start + size, count)
                yield self.targets[start:stop], run(start, stop, size)
                bar.update(stop - start)

    def _eager(self) -> tuple[Callable[[int, int, int], Any], int | None]:
        size = None if isinstance(self.chunk_size, str) else self.chunk_size
        if self.chunk_size == "auto":
            with Largest() as largest:
                _, explain = self.attr.linearize(*self.args, **self.kwargs)
            size = fitting(largest, self.args, AUTO_LIMIT)
            chunks = -(-len(self.targets) // size)
            size = -(-len(self.targets) // chunks)  # of one size, as far as they can be
        else:
            _, explain = self.attr.linearize(*self.args, **self.kwargs)

        def run(start: int, stop: int, size: int) -> Any:
            if self.index is not None:
                return _explained(explain, self.reduce, self.index[start:stop])
            maps = [_reduced(explain(t), self.reduce) for t in self.targets[start:stop]]
            return stacked(maps, torch.stack)

        return run, size

    def _compiled(self) -> tuple[Callable[[int, int, int], Any], int | None]:
        saved, largest = self._recorded()
        size = None if isinstance(self.chunk_size, str) else self.chunk_size
        if self.chunk_size == "auto":
            # Of few sizes, since each is compiled; smaller, since what it does between convolutions
            # is little but a pass over memory.
            size = fitting(largest, self.args, AUTO_LIMIT, 2**24)
            size = 2 ** round(math.log2(size))
        run = _compiled_chunk(self.attr, saved is not None)
        assert self.index is not None
        whole = self.index

        def padded(start: int, stop: int, size: int) -> Any:
            # The last chunk repeats a target, to be of the shape that is compiled.
            index = whole[torch.arange(start, start + size).clamp(max=len(whole) - 1)]
            try:
                maps = run(self.reduce, index, saved, self.args, self.kwargs)
            except RuntimeError as error:
                if "out of bounds" not in str(error):
                    raise
                raise TargetError(
                    f"a target of {self.targets[start:stop]!r} lies outside of the output; "
                    "with compile=False the error says which, and what the range is."
                ) from None
            return tree_map(lambda m: None if m is None else m[: stop - start], maps)

        return padded, size

    def _recorded(self) -> tuple[list[Tensor] | None, Largest]:
        """What the sites of a forward pass in eager save, where a graph can do with that."""
        method, saved = self.attr.method, list[Tensor]()
        fits = method is not None and not method.layers and not method.ruled.also
        state = torch.get_rng_state()
        with Largest() as largest:
            if fits and not (transforming() or tracked((self.args, self.kwargs))):
                assert method is not None
                out, _ = method.run(self.args, self.kwargs, record=saved)
                assert self.index is not None
                check_range(out, self.index)
            else:
                fits = False
                if self.chunk_size == "auto":
                    self.attr.linearize(*self.args, **self.kwargs)
        if not fits or not torch.equal(state, torch.get_rng_state()):
            return None, largest  # a second forward pass would draw other numbers
        return saved, largest


def _compiled_chunk(attr: Attribution, replayed: bool) -> Callable[..., Any]:
    """A compiled function from encoded targets to their maps, kept with the attribution."""

    def chunk(
        reduce: Reduce | None, index: Tensor, saved: list[Tensor], args: Any, kwargs: Any
    ) -> Any:
        if replayed:
            assert attr.method is not None
            explain = attr.method.run(args, kwargs, replay=Replay(saved))[1]
        else:
            explain = attr.linearize(*args, **kwargs)[1]
        return _explained(explain, reduce, index)

    key = "replayed" if replayed else "whole"
    if key not in attr.compiled:
        attr.compiled[key] = torch.compile(chunk, fullgraph=True)
    return attr.compiled[key]  # type: ignore[no-any-return]


def _explained(explain: Explain, reduce: Reduce | None, index: Tensor) -> Any:
    """The maps of encoded targets ``[n, ...]``, all at once."""
    specs: list[tuple[list[Any], TreeSpec]] = []

    def one(index: Tensor) -> list[Tensor]:
        leaves, spec = tree_flatten(_reduced(explain(Index(index)), reduce))
        specs.append((leaves, spec))
        return [leaf for leaf in leaves if leaf is not None]

    tensors = iter(torch.vmap(one, randomness="different")(index))
    leaves, spec = specs[-1]
    return tree_unflatten([leaf if leaf is None else next(tensors) for leaf in leaves], spec)


def _reduced(maps: Any, reduce: Reduce | None) -> Any:
    if reduce is None:
        return maps
    reduced = reduce(maps)
    leaves = tree_flatten(reduced)[0]
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        came = ", ".join(type(leaf).__name__ for leaf in leaves)
        raise ArgumentError(
            f"reduce returns a tensor, or a pytree of tensors; got {came}. Leave out .item()."
        )
    return reduced


def _checked_chunk_size(size: ChunkSize) -> ChunkSize:
    if size is None or (isinstance(size, str) and size == "auto"):
        return size
    if isinstance(size, bool) or not hasattr(size, "__index__") or int(size) < 1:
        raise ArgumentError(f"chunk_size is a positive int, None or 'auto'; got {size!r}.")
    return int(size)


class _Quiet:
    def __enter__(self) -> _Quiet:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def update(self, n: int) -> None: ...


def _bar(count: int, progress: bool) -> Any:
    if not progress:
        return _Quiet()
    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ArgumentError(
            "progress=True needs tqdm: pip install 'funcattr[progress]', or leave progress out."
        ) from error
    return tqdm(total=count, unit="target", disable=None, delay=1.0)
