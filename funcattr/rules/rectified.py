"""RectGrad's rule, which goes by all of an example at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .pair import Plain


@dataclass(frozen=True)
class Rectified(Plain):
    """``g`` where ``a * g`` is above its q-th percentile in the example; ``a`` is the output."""

    q: float
    __name__ = "rectified"
    reads_x: ClassVar[bool] = False

    def prepare(self, operation: Any) -> Sequence[Tensor]:
        return (operation.value(),)

    def pull(self, operation: Any, g: Tensor, *prepared: Tensor) -> Tensor:
        weighed = prepared[0] * g
        # torch.quantile takes no more than 2**24 numbers.
        ranked = weighed.detach().flatten(1).sort(1).values
        place = self.q / 100 * (ranked.shape[1] - 1)
        low = min(int(place), ranked.shape[1] - 2) if ranked.shape[1] > 1 else 0
        high = min(low + 1, ranked.shape[1] - 1)
        threshold = torch.lerp(ranked[:, low], ranked[:, high], place - low)
        threshold = threshold.reshape(-1, *[1] * (g.dim() - 1))
        return g.masked_fill(weighed <= threshold, 0)
