"""Post-processing of maps: pure functions, for ``vmap`` and the rest as well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import ArgumentError

__all__ = ["channel_max_abs", "gaussian_smooth", "interpolate"]

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

    >>> interpolate(torch.tensor([[[1.0, 2.0]]]), 4)
    tensor([[[1., 1., 2., 2.]]])
    """
    if not isinstance(maps, Tensor) or not (maps.is_floating_point() or maps.dtype == torch.uint8):
        raise ArgumentError(f"maps are a float tensor [B, C, *spatial]; got {_described(maps)}.")
    spatial = maps.dim() - 2
    sizes: tuple[Any, ...] = tuple(size) if isinstance(size, (tuple, list)) else (size,) * spatial
    if not 1 <= spatial <= 3 or len(sizes) != spatial:
        raise ArgumentError(
            f"maps are [B, C, *spatial] with 1 to 3 spatial dimensions, and a size for each; got "
            f"maps of shape {tuple(maps.shape)} and size {size}."
        )
    if not all(map(_is_size, sizes)):
        raise ArgumentError(
            f"size is a positive int, or one for each spatial dimension; got {size!r}."
        )
    if 0 in maps.shape[1:]:
        raise ArgumentError(f"there is nothing to resize in maps of shape {tuple(maps.shape)}.")
    fits = [name for name, dims in MODES.items() if dims in (None, spatial)]
    if mode not in fits:
        raise ArgumentError(
            f"mode {mode!r} does not resize maps of {spatial} spatial dimension"
            f"{'s' if spatial > 1 else ''}; there is {', '.join(map(repr, fits))}."
        )
    return F.interpolate(maps, sizes, mode=mode)


def channel_max_abs(maps: Tensor) -> Tensor:
    """The largest absolute value over the channels, the usual picture of a gradient.

    Args:
        maps: ``[B, C, ...]``.

    Returns:
        ``[B, 1, ...]``.

    Raises:
        ArgumentError: there are no channels, or ``maps`` is no tensor of numbers.

    Simonyan et al., "Deep Inside Convolutional Networks" (2014), section 3.1.

    >>> channel_max_abs(torch.tensor([[[1.0, -2.0], [-3.0, 0.0]]]))
    tensor([[[3., 2.]]])
    """
    if not isinstance(maps, Tensor) or maps.dim() < 2 or not maps.shape[1]:
        raise ArgumentError(
            f"maps are a tensor [B, C, ...] with at least one channel; got {_described(maps)}."
        )
    if maps.dtype == torch.bool:
        raise ArgumentError("maps are numbers, and torch.bool has no absolute value.")
    return maps.abs().amax(1, keepdim=True)


def gaussian_smooth(maps: Tensor, sigma: float) -> Tensor:
    """Maps smoothed by a Gaussian over their spatial dimensions; at the edges the outermost
    values go on for ever.

    Args:
        maps: ``[B, C, *spatial]`` with one to three spatial dimensions.
        sigma: the standard deviation in pixels; 0 for the maps as they are. The kernel reaches
            ``ceil(4 sigma)`` pixels to each side.

    Returns:
        ``[B, C, *spatial]``.

    Raises:
        ArgumentError: the maps have other dimensions, no pixels, or are no float tensor; ``sigma``
            is negative or no finite number.

    The kernel is that of ``imsmooth`` in TorchRay, the library of Fong et al., "Understanding Deep
    Networks via Extremal Perturbations and Smooth Masks" (2019).

    >>> gaussian_smooth(torch.tensor([[[0.0, 0.0, 1.0, 0.0, 0.0]]]), 0.5)
    tensor([[[2.6387e-04, 1.0645e-01, 7.8657e-01, 1.0645e-01, 2.6387e-04]]])
    """
    if not isinstance(maps, Tensor) or not maps.is_floating_point() or not 3 <= maps.dim() <= 5:
        raise ArgumentError(
            "maps are a float tensor [B, C, *spatial] with 1 to 3 spatial dimensions; got "
            f"{_described(maps)}."
        )
    if 0 in maps.shape[2:]:
        raise ArgumentError(f"there is nothing to smooth in maps of shape {tuple(maps.shape)}.")
    number = isinstance(sigma, (int, float)) and not isinstance(sigma, bool)
    if not number or not 0 <= sigma < math.inf:
        raise ArgumentError(f"sigma is a number of pixels, 0 or more; got {sigma!r}.")
    if sigma == 0:
        return maps
    width = reach(sigma)
    padded = F.pad(maps, (width, width) * (maps.dim() - 2), mode="replicate")
    return convolved(padded, gaussian_taps(sigma, maps))


def reach(sigma: float) -> int:
    """How many pixels to each side of its centre a Gaussian is cut off."""
    return math.ceil(4 * sigma)


def gaussian_taps(sigma: float, like: Tensor) -> Tensor:
    """A Gaussian as a kernel whose sum is 1, ``[2 * reach + 1]``."""
    dtype = torch.promote_types(like.dtype, torch.float32)  # halves are too coarse to sum in
    i = torch.arange(-reach(sigma), reach(sigma) + 1, dtype=dtype, device=like.device)
    # The term that TorchRay adds so that sigma may be 0 stays, for the same numbers.
    taps = torch.exp(-((i / (math.sqrt(2) * sigma + torch.finfo(torch.float32).eps)) ** 2))
    return (taps / taps.sum()).to(like.dtype)


def convolved(maps: Tensor, taps: Tensor) -> Tensor:
    """Each spatial dimension convolved with a symmetric kernel; its ends are lost."""
    for dim in range(2, maps.dim()):
        rows = maps.movedim(dim, -1)
        lead = rows.shape[:-1]
        flat = rows.reshape(math.prod(lead), 1, rows.shape[-1])
        flat = F.conv1d(flat, taps.reshape(1, 1, -1))
        maps = flat.reshape(*lead, flat.shape[-1]).movedim(-1, dim)
    return maps


def _is_size(value: Any) -> bool:
    known = isinstance(value, (int, np.integer, torch.SymInt)) and not isinstance(value, bool)
    return known and bool(value > 0)


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)} of {value.dtype}"
    return f"a {type(value).__name__}"
