"""What a forward pass meets: `sites`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from . import rules
from ._intercept import RELU_ENTRIES, Met, Plan
from ._unseen import scripted
from .functional import module_of
from .transforms import Ruled, check_func

__all__ = ["Sites", "sites"]


@dataclass(frozen=True)
class Sites:
    """The activations of one forward pass, in order; prints as a table.

    Each row of ``met`` has the fields ``activation``, ``spelling``, ``path`` (of the module whose
    ``forward`` makes the call; empty where it is not known), ``shape`` (of the input) and
    ``replaced`` (whether a rule acts there).
    """

    met: tuple[Met, ...]

    def __iter__(self) -> Iterator[Met]:
        return iter(self.met)

    def __len__(self) -> int:
        return len(self.met)

    def __getitem__(self, index: int) -> Met:
        return self.met[index]

    def __str__(self) -> str:
        head = ("activation", "spelling", "path", "shape", "rule")
        rows = [
            (m.activation, m.spelling, m.path or "-", "x".join(map(str, m.shape)), _YES[m.replaced])
            for m in self.met
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows)]
        lines = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip()
            for row in (head, *rows)
        ]
        count = sum(m.replaced for m in self.met)
        return "\n".join([*lines, f"{count} of {len(self.met)} activations follow the rule"])


_YES = {True: "yes", False: "no"}


def sites(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Sites:
    """What `relu_rule` meets: every activation of one forward pass, and whether a rule acts there.

    Args:
        func: a model or function (then as `relu_rule` takes it by default), or what `relu_rule`
            returned.
        *args: what ``func`` is called with; changed as little as by any other call here.
        **kwargs: likewise.

    Returns:
        A `Sites`: a sequence of rows that prints as a table. An activation inside of TorchScript
        or of a compiled kernel that no rule can reach has a row of its own where it can be known.

    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.GELU())
    >>> print(sites(model, torch.ones(1, 2)))
    activation  spelling            path  shape  rule
    relu        nn.functional.relu  1     1x3    yes
    gelu        nn.functional.gelu  2     1x3    no
    1 of 2 activations follow the rule
    """
    check_func(func)
    ruled = func if isinstance(func, Ruled) else Ruled(func, Plan(RELU_ENTRIES[rules.guided]))
    met: list[Met] = []
    plan = replace(ruled.plan, require_match=False)
    with torch.no_grad():
        Ruled(ruled.func, plan).run(args, kwargs, met=met)
    model = module_of(ruled.func)
    for path, module in model.named_modules() if model is not None else ():
        met += [Met(name, "TorchScript", path, (), False) for name in scripted(module)]
    return Sites(tuple(met))
