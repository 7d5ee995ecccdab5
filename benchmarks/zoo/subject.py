"""A model, an input of it, and how the one is called on the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

COLUMNS = 7  # of numbers that are explained, where the output is no row of scores


@dataclasses.dataclass
class Subject:
    """``module(x, *args, **kwargs)``, or ``call(module, x)``; ``x`` is what is explained."""

    module: nn.Module
    x: Tensor
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    call: Callable[[Any, Tensor], Any] | None = None

    def ready(self) -> Subject:
        """With a model that gives one row of numbers per example, its own where it does so."""
        if self.call is None and not self.kwargs:
            out = self.module(self.x, *self.args)
            scores = isinstance(out, Tensor) and out.is_floating_point() and out.ndim == 2
            if scores and 3 <= out.shape[1] <= 2000:
                return self
        call = self.call or (lambda module, x: module(x, *self.args, **self.kwargs))
        return Subject(Rows(self.module, call).eval(), self.x)


class Rows(nn.Module):
    """A model whose output, of any kind, becomes a few sums of all of its numbers per example."""

    def __init__(self, module: nn.Module, call: Callable[[Any, Tensor], Any]):
        super().__init__()
        self.module, self.call = module, call

    def forward(self, x: Tensor) -> Tensor:
        """A row per example."""
        found = [t for t in tensors(self.call(self.module, x)) if t.ndim]
        found = [torch.view_as_real(t) if t.is_complex() else t for t in found]
        rows = [t.flatten(1) if t.ndim > 1 else t[:, None] for t in found]
        row = torch.cat([r for r in rows if len(r) == len(rows[0])], 1)
        # Weights without order, so that no norm in front makes the sums a constant.
        count = torch.arange(row.shape[1] * COLUMNS, dtype=row.dtype)
        return row @ torch.sin(12.9898 * (count + 1)).view(row.shape[1], COLUMNS)


def tensors(out: Any) -> Iterator[Tensor]:
    """All float tensors of an output."""
    if isinstance(out, Tensor):
        if out.is_floating_point() or out.is_complex():
            yield out
    elif isinstance(out, Mapping):
        for value in out.values():
            yield from tensors(value)
    elif isinstance(out, Sequence) and not isinstance(out, str):
        for value in out:
            yield from tensors(value)
    elif dataclasses.is_dataclass(out) or hasattr(out, "__dict__"):
        for value in vars(out).values():
            yield from tensors(value)


@torch.no_grad()
def stir(module: nn.Module) -> None:
    """Gives values to what is made constant: gains of 0, scales of 1e-6, fresh statistics.

    A branch that starts as nothing would hide whatever goes wrong in it.
    """
    for part in module.modules():
        mean, var = getattr(part, "running_mean", None), getattr(part, "running_var", None)
        if isinstance(mean, Tensor) and isinstance(var, Tensor):
            mean.uniform_(-0.3, 0.3)
            var.uniform_(0.5, 2.0)
    for value in module.parameters():
        if not value.is_floating_point() or value.numel() < 2:
            continue
        if not value.isfinite().all() or value.abs().max() > 1e3:  # memory nobody wrote to
            value.normal_(0, 0.05)
        elif (value == value.flatten()[0]).all():
            value.add_(0.1 * torch.randn_like(value))
