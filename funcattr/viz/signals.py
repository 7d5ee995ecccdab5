"""Maps of sound and other series: `signal` and `spectrogram`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError, short
from .arrays import Array, numbers, plane
from .colours import axes_of, bar, scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["signal", "spectrogram"]


def signal(
    map: Any,
    x: Any,
    *,
    rate: float | None = None,
    names: Sequence[str] | None = None,
    signed: bool | None = None,
    clip: float = 99.5,
    cmap: Any = None,
    ax: Axes | None = None,
    title: str = "",
    label: str = "attribution",
    colorbar: bool = True,
) -> Axes:
    """Draws a map of a signal, as colour behind the signal.

    Args:
        map: ``[N]`` or ``[C, N]``, with dims of size 1 in front of it or not.
        x: the signal, of the same shape. A single channel has its values on the y axis; several
            have a lane each, scaled to fit.
        rate: samples per second, for seconds on the x axis; None for samples.
        names: what the channels are called.
        signed: as for `overlay`, as are ``clip``, ``cmap``, ``ax``, ``title``, ``label`` and
            ``colorbar``.
        clip: the percentile at which colours end.
        cmap: another colour map.
        ax: where to draw.
        title: of the axes.
        label: of the colour bar.
        colorbar: whether there is one.

    Returns:
        The axes: an image for each channel, and a line for it.

    Raises:
        ArgumentError: as `overlay`; also: map and signal differ in shape, ``rate`` is not positive.

    >>> import torch
    >>> import funcattr as fa
    >>> ax = fa.viz.signal(torch.randn(1, 100), torch.randn(1, 100), rate=50)
    >>> ax.get_xlabel()
    'time in s'
    """
    values, waves = _lanes(map, "map"), _lanes(x, "x")
    if values.shape != waves.shape:
        raise ArgumentError(f"map has shape {values.shape}, and its signal {waves.shape}.")
    if rate is not None and not (isinstance(rate, (int, float)) and rate > 0):
        raise ArgumentError(f"rate is samples per second, above 0; got {short(rate)}.")
    count, length = values.shape
    if names is not None and len(names) != count:
        raise ArgumentError(f"names has one for each channel; got {len(names)} for {count}.")
    scale = scale_of([values], signed, clip, cmap)
    axes = axes_of(ax, (8, 1.6 + 0.8 * count))
    step = 1 if rate is None else 1 / rate
    times = np.arange(length) * step
    for i, (row, wave) in enumerate(zip(values, waves)):
        low, high, line = _lane(wave, i, count)
        shown = axes.imshow(
            row[None],
            cmap=scale.cmap,
            vmin=scale.low,
            vmax=scale.high,
            extent=((-0.5) * step, (length - 0.5) * step, low, high),
            aspect="auto",
            interpolation="nearest",
            alpha=0.9,
        )
        # A light line below the dark one keeps it legible on all colours.
        axes.plot(times, line, color="white", linewidth=2.2)
        axes.plot(times, line, color="black", linewidth=0.9)
    if count > 1:
        axes.set_yticks(range(count), names or [str(i) for i in range(count)])
        axes.set_ylim(count - 0.5, -0.5)
        axes.set_ylabel("channel")
    else:
        axes.set_ylim(low, high)
        axes.set_ylabel(names[0] if names else "signal")
    axes.set_xlim((-0.5) * step, (length - 0.5) * step)
    axes.set_xlabel("sample" if rate is None else "time in s")
    if title:
        axes.set_title(title)
    if colorbar:
        bar(shown, scale, axes, label)
    return axes


def _lanes(value: Any, name: str) -> Array:
    """A signal ``[C, N]``."""
    array = numbers(value, name)
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim not in (1, 2):
        raise ArgumentError(
            f"{name} is [N] or [C, N], one signal; got {array.shape}. Draw one of them, {name}[0]."
        )
    return np.atleast_2d(array)


def _lane(wave: Array, i: int, count: int) -> tuple[float, float, Array]:
    """The ends of a channel's lane, and its line in there."""
    low, high = float(wave.min()), float(wave.max())
    margin = 0.08 * (high - low) or 1.0
    if count == 1:
        return low - margin, high + margin, wave
    middle, half = (high + low) / 2, (high - low) / 2 or 1.0
    # The first channel is the uppermost, on an axis that runs down.
    return i + 0.48, i - 0.48, i - (wave - middle) / half * 0.42


def spectrogram(
    map: Any,
    power: Any = None,
    *,
    duration: float | None = None,
    frequencies: Any = None,
    signed: bool | None = None,
    clip: float = 99.5,
    cmap: Any = None,
    ax: Axes | None = None,
    title: str = "",
    label: str = "attribution",
    colorbar: bool = True,
) -> Axes:
    """Draws a map of a spectrogram, over the spectrogram in grey; low frequencies are below.

    Args:
        map: ``[F, T]``, with dims of size 1 in front of it or not.
        power: the spectrogram, of the same shape, in whatever scale the network takes it.
        duration: in seconds, for the x axis; None for frames.
        frequencies: of the bins, ``[F]`` in Hz, for the ticks of the y axis; None for bins.
        signed: as for `overlay`, as are ``clip``, ``cmap``, ``ax``, ``title``, ``label`` and
            ``colorbar``.
        clip: the percentile at which colours end.
        cmap: another colour map.
        ax: where to draw.
        title: of the axes.
        label: of the colour bar.
        colorbar: whether there is one.

    Returns:
        The axes, whose last image is the map.

    Raises:
        ArgumentError: as `overlay`; also: the shapes do not fit.

    >>> import torch
    >>> import funcattr as fa
    >>> ax = fa.viz.spectrogram(torch.randn(1, 1, 40, 80), torch.rand(1, 1, 40, 80), duration=0.8)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('time in s', 'frequency bin')
    """
    array = plane(map)
    scale = scale_of([array], signed, clip, cmap)
    bins, frames = array.shape
    extent = (0.0, float(frames if duration is None else duration), -0.5, bins - 0.5)
    axes = axes_of(ax, (7.5, 3.6))
    opacity = None
    if power is not None:
        under = plane(power, name="power")
        if under.shape != array.shape:
            raise ArgumentError(f"map has shape {array.shape}, and its spectrogram {under.shape}.")
        axes.imshow(under, cmap="gray", origin="lower", aspect="auto", extent=extent)
        opacity = scale.strength(array) ** 0.5
    shown = axes.imshow(
        array,
        cmap=scale.cmap,
        vmin=scale.low,
        vmax=scale.high,
        origin="lower",
        aspect="auto",
        extent=extent,
        alpha=opacity,
        interpolation="nearest",
    )
    axes.set_xlabel("frame" if duration is None else "time in s")
    axes.set_ylabel("frequency bin")
    if frequencies is not None:
        hertz = numbers(frequencies, "frequencies").reshape(-1)
        if len(hertz) != bins:
            raise ArgumentError(f"frequencies has one for each bin; got {len(hertz)} for {bins}.")
        ticks = np.unique(np.linspace(0, bins - 1, min(bins, 6)).round().astype(int))
        axes.set_yticks(ticks, [f"{hertz[i]:.0f}" for i in ticks])
        axes.set_ylabel("frequency in Hz")
    if title:
        axes.set_title(title)
    if colorbar:
        bar(shown, scale, axes, label)
    return axes
