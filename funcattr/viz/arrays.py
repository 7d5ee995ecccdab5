"""What is to be drawn, as arrays of numpy: from any device and float type."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from torch import Tensor, strided

from ..errors import ArgumentError, short

__all__ = ["Array", "Channels", "batch_of", "flat", "grey", "numbers", "photograph", "plane"]

Array = np.ndarray[Any, np.dtype[np.float64]]
Raw = np.ndarray[Any, np.dtype[Any]]
Channels = Literal["sum", "max_abs"]


def numbers(value: Any, name: str = "map") -> Array:
    """A tensor, an array or what numpy makes one of, as finite float64 numbers."""
    array = _array(value, name)
    if array.dtype.kind not in "fiu":
        raise ArgumentError(
            f"{name} is drawn by its real numbers; got {array.dtype}. Of complex ones draw "
            "map.abs(), of truth values map.float()."
        )
    array = array.astype(np.float64)
    if not array.size:
        raise ArgumentError(f"{name} is empty: its shape is {array.shape}.")
    wrong = int(array.size - np.isfinite(array).sum())
    if wrong:
        raise ArgumentError(
            f"{name} has {wrong} of {array.size} numbers that are NaN or infinite and have no "
            "colour. Find out why, or replace them with torch.nan_to_num."
        )
    return array


def _array(value: Any, name: str) -> Raw:
    if isinstance(value, Tensor):
        try:
            value = value.detach().cpu()
            value = value if value.layout == strided else value.to_dense()
            value = value.double() if value.is_floating_point() else value
            return np.asarray(value.numpy())
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise ArgumentError(
                f"{name} has no numbers that could be drawn here ({error}). Inside of vmap, grad "
                "or compiled code there are none: return the map, and draw what comes out."
            ) from error
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"{name} is a tensor or an array; got {short(value)}.") from error
    if array.dtype == object:
        raise ArgumentError(f"{name} is a tensor or an array; got {short(value)}.")
    return array


def plane(value: Any, channels: Channels = "sum", name: str = "map") -> Array:
    """A map ``[H, W]``, ``[C, H, W]`` or ``[1, C, H, W]`` as ``[H, W]``."""
    if channels not in ("sum", "max_abs"):
        raise ArgumentError(f"channels is 'sum' or 'max_abs'; got {channels!r}.")
    array = numbers(value, name)
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim > 3:
        raise ArgumentError(
            f"{name} is one map, [H, W], [C, H, W] or [1, C, H, W]; got {array.shape}. Draw one of "
            "them (map[0]), several in a grid, or a slice of a volume."
        )
    if array.ndim < 2:
        raise ArgumentError(
            f"{name} is a picture, [H, W], [C, H, W] or [1, C, H, W]; got {array.shape}. For "
            "signals there is viz.signal, for words viz.tokens."
        )
    if array.ndim == 2:
        return array
    summed: Array = array.sum(0) if channels == "sum" else np.abs(array).max(0)
    return summed


def flat(value: Any, name: str) -> Array:
    """Numbers ``[N]``; dims of size 1 around them are left out."""
    array = numbers(value, name)
    if max(array.shape, default=1) != array.size:
        raise ArgumentError(f"{name} is one number each, [N]; got {array.shape}.")
    return array.reshape(-1)


def batch_of(values: Any, name: str) -> list[Any]:
    """What stands for several maps, one by one: a tensor or an array ``[T, ...]``, a sequence."""
    single = getattr(values, "ndim", 1) == 0  # has a __len__, which raises
    if single or isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise ArgumentError(f"{name} are several maps, [T, ...]; got {short(values)}.")
    return [values[i] for i in range(len(values))]


def photograph(value: Any) -> Raw:
    """A picture as ``[H, W]`` or ``[H, W, 3]``, in 0..1.

    A tensor has its channels first, an array last, unless only the other way is possible. Float
    numbers beyond 0..1, as a network takes them, are stretched to it.
    """
    first = isinstance(value, Tensor)
    whole = _array(value, "picture").dtype.kind in "iu"
    array = numbers(value, "picture")
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3:
        can_first, can_last = array.shape[0] in (1, 3), array.shape[-1] in (1, 3, 4)
        if can_first and (first or not can_last):
            array = np.moveaxis(array, 0, -1)
        elif not can_last:
            array = np.empty((0, 0, 0, 0))
    if array.ndim not in (2, 3):
        raise ArgumentError(
            "picture is one picture, [3, H, W] or [1, 3, H, W] as a tensor, [H, W, 3] as an array, "
            f"or [H, W]; got {tuple(np.shape(value))}."
        )
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    array = array[..., :3] if array.ndim == 3 else array
    if whole:
        return array / 255
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        return (array - low) / max(high - low, 1e-12)
    return array


def grey(picture: Raw) -> Raw:
    """The brightness of a picture, ``[H, W]``."""
    return picture if picture.ndim == 2 else picture @ np.array([0.299, 0.587, 0.114])
