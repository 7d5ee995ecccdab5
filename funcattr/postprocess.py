"""Post-processing of maps: pure functions, for ``vmap`` and the rest as well."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .errors import ArgumentError

__all__ = ["interpolate"]

MODES = {  # the number of spatial dimensions that a mode is for; None for any
    "nearest": None,
    "nearest-exact": None,
    "area": None,
    "linear": 1,
    "bilinear": 2,
    "bicubic": 2,
    "trilinear": 3,
}


def interpolate(maps: Tensor, size: int | Sequence[int], mode: str = "nearest") -> Tensor:
    """Maps resized to the spatial size of something else, by ``torch.nn.functional.interpolate``.

    Args:
        maps: ``[B, C, *spatial]`` with one to three spatial dimensions.
        size: the new spatial size; an int for all dimensions.
        mode: "nearest", "nearest-exact" or "area" for any; "linear" for one spatial dimension,
            "bilinear" and "bicubic" for two, "trilinear" for three. Corners are not aligned.

    Returns:
        ``[B, C, *size]``.

    Raises:
        ArgumentError: the mode is not known or is for other dimensions; the size has others.

    >>> import torch
    >>> interpolate(torch.tensor([[[1.0, 2.0]]]), 4)
    tensor([[[1., 1., 2., 2.]]])
    """
    spatial = maps.dim() - 2
    sizes = (size,) * spatial if isinstance(size, int) else tuple(size)
    if not 1 <= spatial <= 3 or len(sizes) != spatial:
        raise ArgumentError(
            f"maps are [B, C, *spatial] with 1 to 3 spatial dimensions, and a size for each; got "
            f"maps of shape {tuple(maps.shape)} and size {size}."
        )
    fits = [name for name, dims in MODES.items() if dims in (None, spatial)]
    if mode not in fits:
        raise ArgumentError(
            f"mode {mode!r} does not resize maps of {spatial} spatial dimension"
            f"{'s' if spatial > 1 else ''}; there is {', '.join(map(repr, fits))}."
        )
    return F.interpolate(maps, sizes, mode=mode)
