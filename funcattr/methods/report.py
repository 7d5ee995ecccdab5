"""What a forward pass meets: `sites`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..core.contexts import plain_pass
from ..core.edges import nodes_behind
from ..core.trees import pack
from ..display.table import Table
from ..engine.hidden import scripted
from ..engine.linearize import marked
from ..engine.ruled import Ruled, check_func, relu_rule
from ..engine.run import Plan, run
from ..models.functional import module_of, takes_parameters
from ..operations.composite import rule_name
from ..operations.kinds.activation import ACTIVATIONS
from ..operations.operation import Args, Kwargs
from ..operations.place import Met, Pass

__all__ = ["Sites", "sites"]


@dataclass(frozen=True, repr=False)
class Sites(Table):
    """The operations of one forward pass that a rule may be for, in order: a table in print, and
    in a notebook.

    Each row of ``met`` has the fields ``activation`` (or what else kind of operation it is),
    ``spelling``, ``path`` (of the module whose ``forward`` makes the call; empty where it is not
    known), ``shape`` (of the input), ``rule`` (None where it has none), ``reached`` (whether a
    gradient of the output reaches it) and ``replaced`` (whether a rule acts there).
    """

    met: tuple[Met, ...]
    head: ClassVar[Sequence[str]] = ("operation", "spelling", "path", "shape", "rule")

    def __iter__(self) -> Iterator[Met]:
        return iter(self.met)

    def __len__(self) -> int:
        return len(self.met)

    def __getitem__(self, index: int) -> Met:
        return self.met[index]

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                m.activation,
                m.spelling,
                m.path or "-",
                "x".join(map(str, m.shape)) or "-",
                _rule(m),
            )
            for m in self.met
        ]

    def _summary(self) -> str:
        count = sum(m.replaced for m in self.met)
        known = all(m.activation in ACTIVATIONS for m in self.met)
        what = "activations follow the rule" if known else "operations follow a rule"
        return f"{count} of {len(self.met)} {what}"


def _rule(met: Met) -> str:
    if met.rule is None:
        return "-"
    return rule_name(met.rule) + ("" if met.reached else ", but no gradient reaches it")


def sites(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Sites:
    """What a rule meets: every operation of one forward pass that it may be for, and its rule.

    Args:
        func: a model or function (then as `relu_rule` takes it by default), or what `relu_rule` or
            `with_rules` returned.
        *args: what ``func`` is called with; changed as little as by any other call here.
        **kwargs: likewise.

    Returns:
        A `Sites`: a sequence of rows that prints as a table. An activation inside of TorchScript
        or of a compiled kernel that no rule can reach has a row of its own where it can be known.

    Raises:
        ArgumentError: ``func`` is not callable.

    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.GELU())
    >>> print(sites(model, torch.ones(1, 2)))
    operation  spelling            path  shape  rule
    relu       nn.functional.relu  1     1x3    guided
    gelu       nn.functional.gelu  2     1x3    -
    1 of 2 activations follow the rule
    """
    check_func(func)
    ruled = func if isinstance(func, Ruled) else relu_rule(func)
    assert isinstance(ruled, Ruled)
    met = plain_pass(_met, ruled, args, kwargs)
    model = module_of(ruled.func)
    for path, module in model.named_modules() if model is not None else ():
        met += [Met(name, "TorchScript", path, (), None) for name in scripted(module)]
    return Sites(tuple(met))


def _met(ruled: Ruled, args: Args, kwargs: Kwargs) -> list[Met]:
    met: list[Met] = []
    floats = [t for t in pack((args, kwargs))[0] if t.is_floating_point()]
    anchor = torch.zeros((), requires_grad=True)
    first = 1 if takes_parameters(ruled.func) else 0
    args, kwargs = (*args[:first], *marked(args[first:], anchor)), marked(kwargs, anchor)
    passing = Pass(plain=True, folds=False)
    plans = [Plan(ruled.plan.composite, False)]
    # Of token ids nothing is differentiated; what is made of the parameters is.
    out, _ = run(ruled.func, plans, args, kwargs, detach=bool(floats), passing=passing, met=met)
    nodes = nodes_behind(pack(out)[0])
    return [m._replace(node=None, reached=m.rule is None or m.node in nodes) for m in met]
