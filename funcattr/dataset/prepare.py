"""From the arguments of a sweep to what is done: checks, a first batch, the layout, the store."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from ..core.contexts import autocast_dtype
from ..engine.output import check_part
from ..errors import ArgumentError, FuncattrError, first_line, short
from ..methods.attribution import Attribution, OnePass
from ..methods.bundle import bundle
from ..methods.chunks import Compile, checked_chunk_size
from .description import Description
from .examples import Batch, Data
from .explain import Explainer, with_output
from .storage.layout import Layout, block_size_for
from .storage.settings import check_same
from .storage.store import Store, exists, library
from .targets import Fixed, PerExample

__all__ = ["Asked", "Prepared", "prepared"]

_DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
_TAKEN = {"target", "targets", "label", "prediction", "score", "status", "error", "example"}
_TRIED = 4  # batches, to find one that works


@dataclass(frozen=True)
class Asked:
    """The arguments of `funcattr.sweep_dataset`."""

    attr: Any
    data: Any
    targets: Any
    store: Any
    batch_size: int | None = None
    chunk_size: int | str | None = "auto"
    dtype: Any = "float32"
    reduce: Any = None
    resume: bool = True
    compile: Compile = False
    output: Any = None
    block_size: int | None = None
    num_workers: int | None = None
    length: int | None = None
    compressor: Any = "auto"
    retry_failed: bool = False
    seed: int = 0


@dataclass
class Prepared:
    """What a sweep does, once a first batch has shown what its maps are like."""

    data: Data
    explainer: Explainer
    layout: Layout
    settings: dict[str, Any]
    attributes: dict[str, Any]
    target: np.ndarray[Any, Any] | None
    compressor: Any
    sample: Batch

    def open(self, place: Any, resume: bool) -> Store:
        """The store, which is made where there is none.

        Raises:
            ArgumentError: there is one, of other settings or although ``resume`` is False.
        """
        if exists(place):
            if not resume:
                raise ArgumentError(
                    f"there is a store at {place}, and resume is False: give another place, or "
                    "remove that one yourself."
                )
            store = Store(place, write=True)
        else:
            attributes = {**self.attributes, "settings": self.settings}
            store = Store.create(place, self.layout, attributes, self.target, self.compressor)
        asked = dict(self.settings)
        if store.settings.get("chunk_size_asked") == asked["chunk_size_asked"]:
            # "auto" goes by the memory that is free, and chunks of one size make the same bits.
            asked["chunk_size"] = self.explainer.chunk_size = store.settings["chunk_size"]
        if None in (asked["first_example"], store.settings.get("first_example")):
            asked["first_example"] = store.settings.get("first_example")
        check_same(store.settings, asked, store.name)
        return store

    def cuts(self, block: int) -> list[range]:
        """The batches of a block."""
        rows, size = self.layout.block(block), self.data.batch_size
        return [range(i, min(i + size, rows.stop)) for i in range(rows.start, rows.stop, size)]


def prepared(asked: Asked) -> Prepared:
    """Looks at the arguments and at a first batch.

    Raises:
        ArgumentError: an argument is wrong, or no example works.
    """
    library()
    for name in ("batch_size", "block_size", "length"):
        value = getattr(asked, name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < 1
        ):
            raise ArgumentError(f"{name} is a positive int; got {short(value)}.")
    checked_chunk_size(asked.chunk_size)
    if asked.reduce is not None and not callable(asked.reduce):
        raise ArgumentError(f"reduce is a function of one map; got {short(asked.reduce)}.")
    names, attr = _attributions(asked)
    dtype = _dtype(asked.dtype)
    data = Data(asked.data, asked.batch_size, asked.num_workers, asked.length)
    per_example = callable(asked.targets) and not isinstance(asked.targets, Tensor)
    targets = PerExample(asked.targets) if per_example else Fixed(asked.targets)
    about = Description()
    described = {name: about.of(each) for name, each in names.items()}
    explainer = Explainer(
        attr, len(names) > 1, targets, asked.reduce, dtype, asked.compile,
        about.device() or torch.device("cpu"), asked.seed, asked.chunk_size,
    )  # fmt: skip
    sample, facts, count, size, maps = _tried(data, explainer)
    shapes = _shapes(names, maps, len(sample.rows), explainer)
    kind = str(dtype).split(".")[-1]
    map_bytes = max(int(np.prod(shape)) for _, shape in shapes.values()) * dtype.itemsize
    block_size = asked.block_size or block_size_for(data.length, count, data.batch_size, map_bytes)
    if block_size % data.batch_size:
        raise ArgumentError(
            f"block_size is a multiple of batch_size, {data.batch_size}; got {block_size}."
        )
    layout = Layout.of(
        data.length, count, data.batch_size, block_size,
        {name: shape for name, (_, shape) in shapes.items()}, kind,
        {name: _method(names[of]) for name, (of, _) in shapes.items()},
        _beside(facts, sample),
    )  # fmt: skip
    explainer.chunk_size = size
    compressor = _compressor(asked.compressor)
    shown = targets.shown() if isinstance(targets, Fixed) else about.of(asked.targets)
    settings = {
        "attributions": described, "weights": about.weights(), "targets": shown,
        "reduce": about.of(asked.reduce), "output": about.of(asked.output), "dtype": kind,
        "maps": {name: list(shape) for name, (_, shape) in shapes.items()},
        "examples": data.length, "data": type(data.dataset).__name__,
        "first_example": data.first(), "batch_size": data.batch_size, "block_size": block_size,
        "chunk_size_asked": asked.chunk_size, "chunk_size": size, "compile": asked.compile,
        "seed": asked.seed, "compressor": _shown(compressor), "device": explainer.device.type,
        "versions": _versions(), "autocast": autocast_dtype(explainer.device),
    }  # fmt: skip
    attributes = {
        "title": "attributions by funcattr.sweep_dataset",
        "method": "; ".join(f"{name}: {_method(each)}" for name, each in names.items()),
        "weights": settings["weights"],
        **_versions(),
    }
    target = None
    if isinstance(targets, Fixed) and targets.index is not None:
        target = targets.index.squeeze(-1).numpy()
    return Prepared(
        data, explainer, layout, json.loads(json.dumps(settings)), attributes, target, compressor,
        sample,
    )  # fmt: skip


def _attributions(asked: Asked) -> tuple[dict[str, Attribution], Attribution]:
    several = isinstance(asked.attr, Mapping)
    names = dict(asked.attr) if several else {"maps": asked.attr}
    for name, each in names.items():
        if not isinstance(each, Attribution):
            raise ArgumentError(
                "attr is an Attribution (funcattr.guided_backprop(model), say; compile=True takes "
                f"the place of torch.compile(attr)) or a dict of them by name; got {short(each)}."
            )
        if not isinstance(name, str) or not name.isidentifier() or name in _TAKEN:
            raise ArgumentError(
                "the names of attributions become those of arrays, beside "
                f"{', '.join(sorted(_TAKEN))}; got {name!r}."
            )
    if not names:
        raise ArgumentError("attr is a dict of attributions by name; got an empty one.")
    if asked.output is not None:
        check_part(asked.output)
        names = {name: with_output(each, asked.output) for name, each in names.items()}
    return names, bundle(*names.values()) if len(names) > 1 else next(iter(names.values()))


def _tried(data: Data, explainer: Explainer) -> tuple[Batch, Any, int, int, Any]:
    """The first batch that works, and what came of it."""
    why = "none could be loaded"
    with closing(data.loaded(data.cuts()[:_TRIED])) as parts:
        for part in parts:
            why = next(iter(part.failed.values()), why)
            for batch in _with_singles(part.batches):
                try:
                    return batch, *explainer.first(batch)
                except FuncattrError:
                    raise
                except Exception as error:
                    why = first_line(error)
    raise ArgumentError(f"none of the first examples of data works: {why}")


def _with_singles(batches: list[Batch]) -> Iterator[Batch]:
    for batch in batches:
        broken = batch.broken()
        fine = batch.take([i for i in range(len(batch.rows)) if i not in broken])
        if fine.rows:
            yield fine
            yield from (fine.take([i]) for i in range(len(fine.rows)) if len(fine.rows) > 1)


def _shapes(
    names: Mapping[str, Attribution], maps: Any, count: int, explainer: Explainer
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """By the name of an array, the attribution it is of, and the shape of its maps."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, each in zip(names, maps if explainer.several else (maps,)):
        leaves = [leaf for leaf in tree_flatten(each)[0] if leaf is not None]
        for i, leaf in enumerate(leaves):
            if leaf.dim() < 2 or leaf.shape[1] != count:
                raise ArgumentError(
                    f"a map, reduced, keeps its first dim, the {count} examples here; got "
                    f"{tuple(leaf.shape[1:])} from {name!r}. Reduce the dims behind it, as "
                    "maps.abs().amax(1) does."
                )
            if leaf.is_complex():
                raise ArgumentError(f"maps are stored as real numbers; got {leaf.dtype}.")
            found[name if len(leaves) == 1 else f"{name}_{i}"] = name, tuple(leaf.shape[2:])
    return found


def _beside(facts: Any, sample: Batch) -> dict[str, tuple[tuple[int, ...], str]]:
    """What else there is of each example: its shape and type."""
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    if facts.targets is not None:
        shape = tuple(facts.targets.shape[1:])
        found["targets"] = (shape[:1] if shape[1] == 1 else shape), "int64"
    if facts.score is not None:
        found["score"] = tuple(facts.score.shape[1:]), "float32"
    if facts.prediction is not None:
        found["prediction"] = (), "int64"
    label = sample.label
    if isinstance(label, Tensor) and label.numel() == len(sample.rows) and not label.is_complex():
        found["label"] = (), "float64" if label.is_floating_point() else "int64"
    return found


def _dtype(dtype: Any) -> torch.dtype:
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, (str, torch.dtype)) else ""
    if name not in _DTYPES:
        raise ArgumentError(f"dtype is one of {', '.join(map(repr, _DTYPES))}; got {dtype!r}.")
    return _DTYPES[name]


def _compressor(compressor: Any) -> Any:
    if not isinstance(compressor, str):
        return compressor
    if compressor != "auto":
        raise ArgumentError(f"compressor is 'auto', None, or a codec of zarr; got {compressor!r}.")
    codecs = library("zarr.codecs")
    return codecs.BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle")


def _shown(compressor: Any) -> Any:
    return compressor.to_dict() if hasattr(compressor, "to_dict") else repr(compressor)


def _method(attr: Attribution) -> str:
    """One line on an attribution."""
    method = attr.method
    if not isinstance(method, OnePass):
        return type(method or attr.linearize).__name__
    layers = [each if isinstance(each, str) else type(each).__name__ for each in method.layers]
    at = f" at {', '.join(layers)}" if layers else ""
    return f"{type(method).__name__}{at}, {method.ruled.plan.composite!r}"


def _versions() -> dict[str, str]:
    own = importlib.import_module(__name__.split(".")[0])
    return {"funcattr": str(own.__version__), "torch": str(torch.version.__version__)}
