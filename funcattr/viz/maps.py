"""Maps of pictures: `overlay`, `grid` and `compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError, short
from .arrays import Array, Channels, batch_of, grey, photograph, plane
from .colours import Scale, axes_of, bar, new_figure, scale_of
from .ranks import rank_correlation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = ["compare", "grid", "overlay"]


def overlay(
    map: Any,
    picture: Any = None,
    *,
    channels: Channels = "sum",
    signed: bool | None = None,
    clip: float = 99.5,
    alpha: float | None = None,
    cmap: Any = None,
    ax: Axes | None = None,
    title: str = "",
    label: str = "attribution",
    colorbar: bool = True,
) -> Axes:
    """Draws a map, over the picture that it is of.

    Signed maps have diverging colours, red for what speaks for the target and blue for what speaks
    against it, with white at 0; others have sequential ones. The picture is grey below.

    Args:
        map: ``[H, W]``, ``[C, H, W]`` or ``[1, C, H, W]``: a tensor of any device and float type,
            or an array. It may be coarser than the picture, as Grad-CAM's is.
        picture: ``[3, H, W]``, ``[1, 3, H, W]`` or, as arrays and images have it, ``[H, W, 3]``;
            ``[H, W]`` for a grey one. What a network takes, beyond 0..1, is stretched to that.
        channels: what is drawn of several channels: their ``"sum"``, which keeps the sign and what
            adds up, or the largest absolute value, ``"max_abs"``.
        signed: whether the colours are diverging; None where the map has negative numbers.
        clip: the percentile of the absolute values at which colours end; 100 for all of them.
        alpha: how much the map hides the picture, from 0 to 1; None for more where it is larger.
        cmap: another colour map of matplotlib's.
        ax: where to draw; None for a new figure.
        title: of the axes.
        label: of the colour bar.
        colorbar: whether there is one.

    Returns:
        The axes, whose last image is the map.

    Raises:
        ArgumentError: there is no matplotlib (``pip install funcattr[viz]``), the map or the
            picture has another shape, or numbers that have no colour (NaN, infinite, complex).

    Maps over pictures are drawn in this way since Bach et al., "On Pixel-Wise Explanations" (2015).

    >>> import torch
    >>> import funcattr as fa
    >>> ax = fa.viz.overlay(torch.randn(1, 3, 8, 8), torch.rand(1, 3, 8, 8), title="cat")
    >>> ax.images[-1].get_array().shape
    (8, 8)
    """
    array = plane(map, channels)
    scale = scale_of([array], signed, clip, cmap)
    under = None if picture is None else photograph(picture)
    axes = axes_of(ax, (4.6 if colorbar else 4, 4))
    shown = _drawn(axes, array, scale, under, alpha)
    if title:
        axes.set_title(title)
    if colorbar:
        bar(shown, scale, axes, label)
    return axes


def _drawn(
    ax: Axes, array: Array, scale: Scale, picture: Array | None = None, alpha: Any = None
) -> AxesImage:
    """A map in its colours, over the grey of a picture, without ticks."""
    if alpha is not None and not (isinstance(alpha, (int, float)) and 0 <= alpha <= 1):
        raise ArgumentError(f"alpha is a number from 0 to 1, or None; got {short(alpha)}.")
    height, width = array.shape if picture is None else picture.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    opacity: Any = alpha
    if picture is not None:
        ax.imshow(grey(picture), cmap="gray", vmin=0, vmax=1)
        if alpha is None:  # the root, so that what is weak is seen as well
            opacity = scale.strength(array) ** 0.5
    shown = ax.imshow(
        array,
        cmap=scale.cmap,
        vmin=scale.low,
        vmax=scale.high,
        extent=extent,
        alpha=opacity,
        interpolation="nearest" if array.shape == (height, width) else "bilinear",
    )
    ax.set(xticks=[], yticks=[])
    return shown


def grid(
    maps: Mapping[str, Any],
    targets: Sequence[str] | None = None,
    picture: Any = None,
    *,
    channels: Channels = "sum",
    clip: float = 99.5,
    over: bool = False,
    same_scale: bool = False,
    size: float = 1.9,
    title: str = "",
) -> Figure:
    """Draws maps of several targets by several methods: a row per target, a column per method.

    Each map has its own scale, whose end stands below it, since methods differ in their units.

    Args:
        maps: for each method, by its name, the maps of the targets: ``[T, ...]``, as `sweep`
            returns them, or a sequence of maps, each as for `overlay`.
        targets: what the rows are called, ``T`` names.
        picture: as for `overlay`; drawn in a first column. A list of ``T`` has one for each row.
        channels: as for `overlay`.
        clip: as for `overlay`.
        over: whether maps are drawn over the grey picture, too.
        same_scale: whether the maps of a method share a scale, so that targets can be compared.
        size: of a map, in inches.
        title: of the figure.

    Returns:
        The figure.

    Raises:
        ArgumentError: as `overlay`; also: there are no maps, or the methods and names differ in
            number of targets.

    >>> import torch
    >>> import funcattr as fa
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(),
    ...     torch.nn.Flatten(), torch.nn.Linear(144, 5))
    >>> both = fa.bundle(fa.gradient(model), fa.guided_backprop(model))
    >>> plain, guided = fa.sweep(both, torch.rand(1, 3, 8, 8), targets=[1, 3])
    >>> figure = fa.viz.grid({"gradient": plain, "guided": guided}, targets=["cat", "dog"])
    >>> [ax.get_title() for ax in figure.axes[:2]]
    ['gradient', 'guided']
    """
    columns = _columns(maps, channels)
    rows = len(next(iter(columns.values())))
    names = [""] * rows if targets is None else list(targets)
    if {len(column) for column in columns.values()} != {rows} or len(names) != rows:
        counts = {name: len(column) for name, column in columns.items()}
        raise ArgumentError(
            f"each method has a map for each target; got {counts} maps, and {len(names)} targets."
        )
    unders = _unders(picture, rows)
    extra = int(picture is not None)
    figure = new_figure((size * (len(columns) + extra) + 0.4, (size + 0.25) * rows + 0.4))
    every = figure.subplots(rows, len(columns) + extra, squeeze=False)
    for row, under in zip(every, unders):
        if under is not None:
            row[0].imshow(under, cmap="gray", vmin=0, vmax=1)
            row[0].set(xticks=[], yticks=[])
    if extra:
        every[0, 0].set_title("input", fontsize="medium")
    for ax, name in zip(every[:, 0], names):
        ax.set_ylabel(name)
    for (name, column), axes in zip(columns.items(), every.T[extra:]):
        axes[0].set_title(name, fontsize="medium")
        for i, (array, ax) in enumerate(zip(column, axes)):
            scale = scale_of(column if same_scale else [array], None, clip)
            _drawn(ax, array, scale, unders[i] if over else None)
            ax.set_xlabel(scale.text(), fontsize="x-small", labelpad=2)
    if title:
        figure.suptitle(title)
    return figure


def _columns(maps: Mapping[str, Any], channels: Channels) -> dict[str, list[Array]]:
    if not isinstance(maps, Mapping) or not maps:
        raise ArgumentError(
            "maps is a mapping from the names of methods to their maps, {'guided': maps}; got "
            f"{short(maps)}."
        )
    columns = {
        name: [plane(one, channels, f"a map of {name!r}") for one in batch_of(column, repr(name))]
        for name, column in maps.items()
    }
    empty = [name for name, column in columns.items() if not column]
    if empty:
        raise ArgumentError(f"there are no maps of {empty[0]!r}.")
    return columns


def _unders(picture: Any, rows: int) -> list[Any]:
    if not isinstance(picture, (list, tuple)):
        return [None if picture is None else photograph(picture)] * rows
    if len(picture) != rows:
        raise ArgumentError(f"picture is one, or one per row; got {len(picture)} for {rows} rows.")
    return [photograph(one) for one in picture]


def compare(
    first: Any,
    second: Any,
    *,
    labels: tuple[str, str] = ("first", "second"),
    picture: Any = None,
    channels: Channels = "sum",
    clip: float = 99.5,
    same_scale: bool = False,
) -> Figure:
    """Draws two maps, their difference, and how far they rank pixels alike.

    Args:
        first: a map, as for `overlay`.
        second: another, of the same size.
        labels: what they are called.
        picture: as for `overlay`; drawn below both.
        channels: as for `overlay`.
        clip: as for `overlay`.
        same_scale: whether both have the same units, and so one scale. If not, each is divided by
            the end of its own scale before the difference is taken.

    Returns:
        The figure; the title of its third axes has the `rank_correlation`.

    Raises:
        ArgumentError: as `overlay`; also: the maps differ in size.

    Rank correlation is how Adebayo et al., "Sanity Checks for Saliency Maps" (2018), compare maps.

    >>> import torch
    >>> import funcattr as fa
    >>> map = torch.arange(12.0).reshape(3, 4)
    >>> figure = fa.viz.compare(map, map**2, labels=("map", "squared"))
    >>> figure.axes[2].get_title().splitlines()
    ['difference', 'rank correlation 1.00']
    """
    arrays = plane(first, channels, "first"), plane(second, channels, "second")
    if arrays[0].shape != arrays[1].shape:
        raise ArgumentError(
            f"maps of one size can be compared; got {arrays[0].shape} and {arrays[1].shape}. "
            "funcattr.interpolate resizes one."
        )
    scales = [scale_of(arrays if same_scale else [array], None, clip) for array in arrays]
    under = None if picture is None else photograph(picture)
    figure = new_figure((10.5, 3.3))
    axes = list(figure.subplots(1, 3))
    for ax, array, scale, label in zip(axes, arrays, scales, labels):
        bar(_drawn(ax, array, scale, under), scale, ax, "")
        ax.set_title(label)
    units = [1.0 if same_scale else scale.high for scale in scales]
    difference = arrays[0] / units[0] - arrays[1] / units[1]
    scale = scale_of([difference], True, clip, "PuOr")
    bar(_drawn(axes[2], difference, scale), scale, axes[2], f"{labels[0]} - {labels[1]}")
    alike = rank_correlation(*arrays)
    said = "undefined (one is constant)" if np.isnan(alike) else f"{alike:.2f}"
    axes[2].set_title(f"difference\nrank correlation {said}")
    return figure
