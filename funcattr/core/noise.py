"""Normal noise that depends on its arguments alone, whatever transforms are under way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def normal(seed: int, place: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Noise of a seed, for one of many places that draw by it."""
    drawn: Tensor = _normal(seed, place, shape)
    return drawn


def _drawn(seed: int, place: Sequence[int], shape: Sequence[int]) -> Tensor:
    generator = np.random.default_rng((seed, *place))
    return torch.as_tensor(generator.standard_normal(shape), dtype=torch.float64)


_normal = _drawn
if hasattr(torch.library, "custom_op"):  # torch 2.4; in a graph, what draws it when that runs
    # Torch 2.4 cannot read a schema from annotations that are strings.
    schema = "(int seed, int[] place, int[] shape) -> Tensor"
    _normal = torch.library.custom_op("funcattr::normal", _drawn, mutates_args=(), schema=schema)

    @_normal.register_fake
    def _(seed: int, place: Sequence[int], shape: Sequence[int]) -> Tensor:
        return torch.empty(shape, dtype=torch.float64)
