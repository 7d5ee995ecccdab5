"""One map of a store as a picture."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArgumentError
from .storage.layout import FLAGS
from .storage.store import Store

__all__ = ["place_of", "show"]


def place_of(store: Store, target: int) -> int:
    """Where a target stands in the arrays: by its number where all examples have the same ones.

    Raises:
        ArgumentError: it is none of them.
    """
    count = store.arrays[store.maps()[0]].shape[1]
    if "target" in store.arrays and store.arrays["target"].ndim == 1:
        known = np.asarray(store.arrays["target"][:])
        found = np.flatnonzero(known == target)
        if not len(found):
            raise ArgumentError(
                f"target {target} is not in the store, whose {count} targets lie in "
                f"{known.min()}..{known.max()}."
            )
        return int(found[0])
    if not 0 <= target < count:
        raise ArgumentError(f"each example has {count} targets, 0 to {count - 1}; got {target}.")
    return target


def show(
    store: Store, example: int, target: int, array: str | None = None, out: str | None = None
) -> Path:
    """Writes a picture of one map: the strongest channel at each place, with its sign.

    Raises:
        ArgumentError: there is no such map, or matplotlib is not installed.
    """
    names = store.maps()
    if array is not None and array not in names:
        raise ArgumentError(f"the store has no maps {array!r}; it has {', '.join(names)}.")
    status = store.status()
    if not 0 <= example < len(status):
        raise ArgumentError(f"the store has {len(status)} examples; got {example}.")
    if status[example] not in (1, 2):
        why = dict(store.errors()).get(example, "not done yet")
        raise ArgumentError(f"example {example} is {FLAGS[status[example]]}: {why}.")
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError as error:
        raise ArgumentError("pictures need matplotlib: pip install 'funcattr[viz]'.") from error
    matplotlib.use("Agg")
    plt = importlib.import_module("matplotlib.pyplot")
    place = place_of(store, target)
    chosen = [array] if array is not None else names
    figure, axes = plt.subplots(1, len(chosen), figsize=(4 * len(chosen), 4), squeeze=False)
    for axis, name in zip(axes[0], chosen):
        _draw(axis, store.arrays[name][example, place].astype(np.float32))
        axis.set_title(name)
    figure.suptitle(_title(store, example, target, place))
    path = Path(out or f"example{example}-target{target}.png")
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
    return path


def _draw(axis: Any, values: np.ndarray[Any, Any]) -> None:
    while values.ndim > 2:  # channels
        strongest = np.abs(values).argmax(0)[None]
        values = np.take_along_axis(values, strongest, 0)[0]
    if values.ndim < 2:
        axis.plot(np.atleast_1d(values))
        return
    limit = float(np.percentile(np.abs(values), 99.5)) or 1.0
    signed = values.min() < 0
    axis.imshow(values, "RdBu_r" if signed else "magma", vmin=-limit if signed else 0.0, vmax=limit)
    axis.set_axis_off()


def _title(store: Store, example: int, target: int, place: int) -> str:
    parts = [f"example {example}, target {target}"]
    if "score" in store.arrays:
        parts.append(f"score {float(store.arrays['score'][example, place]):.3g}")
    for name in ("label", "prediction"):
        if name in store.arrays:
            parts.append(f"{name} {store.arrays[name][example]}")
    return ", ".join(parts)
