"""How far two maps agree: `rank_correlation`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ArgumentError
from .arrays import Array, numbers

__all__ = ["rank_correlation"]


def rank_correlation(first: Any, second: Any) -> float:
    """Spearman's rank correlation of two maps: 1 where they order their numbers alike.

    Args:
        first: a map of any shape.
        second: another of the same shape.

    Returns:
        A number from -1 to 1; NaN where a map is constant. Equal numbers share their mean rank.

    Raises:
        ArgumentError: the shapes differ, or a map has no finite numbers.

    Spearman, "The Proof and Measurement of Association between Two Things" (1904); for maps, with
    and without their sign, Adebayo et al. (2018).

    >>> import funcattr as fa
    >>> fa.viz.rank_correlation([1.0, 2.0, 3.0], [10.0, 100.0, 50.0])
    0.5
    """
    a, b = numbers(first, "first"), numbers(second, "second")
    if a.shape != b.shape:
        raise ArgumentError(f"maps of one shape can be compared; got {a.shape} and {b.shape}.")
    ranks = [_ranks(array.reshape(-1)) for array in (a, b)]
    x, y = (rank - rank.mean() for rank in ranks)
    spread = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / spread if spread else float("nan")


def _ranks(values: Array) -> Array:
    """The rank of each number, the mean of those of equals."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2)[places]
    return ranks
