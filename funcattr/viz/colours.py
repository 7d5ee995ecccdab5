"""Colours: which map of colours, and up to which number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError, short
from .arrays import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure

__all__ = ["Scale", "axes_of", "bar", "new_figure", "scale_of"]

# Both are told apart by all common kinds of colour vision: the ends of the first differ in red
# and blue, not in red and green, and the second grows evenly in lightness.
SIGNED, UNSIGNED = "RdBu_r", "viridis"


@dataclass(frozen=True)
class Scale:
    """The colours of a map: from ``low`` to ``high``, and what is cut off at either end."""

    low: float
    high: float
    cmap: Any
    extend: str

    @property
    def signed(self) -> bool:
        return self.low < 0

    def strength(self, array: Array) -> Array:
        """How far each number is from 0, as a share of the scale."""
        share: Array = np.clip(np.abs(array) / self.high, 0, 1)
        return share

    def text(self) -> str:
        """The ends of the scale in a few characters."""
        return f"±{self.high:.2g}" if self.signed else f"0 to {self.high:.2g}"


def scale_of(arrays: Sequence[Array], signed: bool | None, clip: float, cmap: Any = None) -> Scale:
    """The scale on which all of ``arrays`` are drawn."""
    if isinstance(clip, bool) or not isinstance(clip, (int, float)) or not 0 < clip <= 100:
        raise ArgumentError(f"clip is a percentile, above 0 and up to 100; got {short(clip)}.")
    values = np.concatenate([array.reshape(-1) for array in arrays])
    negative = bool((values < 0).any())
    if signed is False and negative:
        raise ArgumentError(
            "signed=False is for maps without negative numbers, and this one has some; draw "
            "map.abs(), or pass channels='max_abs'."
        )
    two_sided = negative if signed is None else bool(signed)
    sizes = np.abs(values)
    largest = float(sizes.max())
    limit = float(np.percentile(sizes, clip)) or largest or 1.0
    extend = "neither" if largest <= limit else "both" if two_sided else "max"
    if cmap is None:
        cmap = SIGNED if two_sided else UNSIGNED
    return Scale(-limit if two_sided else 0.0, limit, cmap, extend)


def axes_of(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes to draw into: those given, or those of a new figure."""
    if ax is None:
        return new_figure(size).subplots()
    if not hasattr(ax, "imshow"):
        raise ArgumentError(f"ax is a matplotlib Axes, or None for a new figure; got {short(ax)}.")
    return ax


def new_figure(size: tuple[float, float]) -> Figure:
    """A figure that pyplot knows, so that notebooks show it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ArgumentError("funcattr.viz draws with matplotlib: pip install funcattr[viz]") from (
            error
        )
    return plt.figure(figsize=size, layout="constrained")


def bar(shown: ScalarMappable, scale: Scale, ax: Axes | Sequence[Axes], label: str) -> Colorbar:
    """The colour bar of what is drawn in ``ax``."""
    one = ax if not isinstance(ax, Sequence) else ax[0]
    drawn = one.figure.colorbar(shown, ax=ax, extend=scale.extend, label=label)
    drawn.ax.ticklabel_format(axis="y", scilimits=(-2, 3))
    return drawn
