"""One call of a function whose operations follow composites."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.edges import nodes_behind, root_of
from ..core.levels import compiling, levels, transforming
from ..core.trees import leaves, pack
from ..errors import ArgumentError
from ..models.copies import Forward
from ..models.functional import Inside, call, module_of, takes_parameters
from ..models.taps import Taps
from ..operations.behind import whole
from ..operations.composite import Composite
from ..operations.intercept import Intercept
from ..operations.operation import Args, Kwargs, Operation
from ..operations.place import Met, Pass
from ..operations.tape import Tape
from . import hidden


@dataclass(eq=False)  # not frozen: the compiler cannot make frozen ones after a graph break
class Plan:
    """A composite, and whether it is an error that it has nothing to act on.

    ``baseline`` maps the arguments to others, where rules compare an operation with what it is for
    those.
    """

    composite: Composite
    require_match: bool
    baseline: Callable[[Args], Args] | None = None

    def same(self, other: Plan) -> bool:
        """Whether ``other`` says the same."""
        alike = self.composite.rows == other.composite.rows and self.baseline is other.baseline
        return alike and self.require_match == other.require_match


def run(
    func: Callable[..., Any],
    plans: Sequence[Plan],
    args: Args,
    kwargs: Kwargs,
    *,
    detach: bool = False,
    quick: bool = False,
    explained: bool = False,
    passing: Pass | None = None,
    taps: Taps | None = None,
    met: list[Met] | None = None,
    tape: Tape | None = None,
    inputs: Sequence[Tensor] | None = None,
) -> tuple[Any, Intercept]:
    """``func(*args, **kwargs)`` with sites in it, and the mode that put them there.

    ``detach`` cuts a module off from its own parameters; ``inputs`` are what is differentiated, all
    arguments but parameters if that is not said; ``explained`` says that autograd's graph
    goes from the output back to the input; ``quick``, ``passing``, ``met`` and ``tape``
    are as for `Intercept`.

    Raises:
        NoSiteError: a composite that requires a match has none, or one is out of reach.
    """
    plans = [_stacked(func, plan) for plan in plans]
    composites = [plan.composite for plan in plans]
    path = None
    if not compiling() or any([c.asks_for_paths() for c in composites]):
        path = [""]
    mode = Intercept(
        composites,
        levels(),
        strict=any([plan.require_match for plan in plans]),
        quick=quick,
        passing=passing,
        path=path,
        met=met,
        tape=tape,
    )
    for i, plan in enumerate(plans):
        if plan.baseline is not None:
            mode.references[i] = _references(func, plan, plan.baseline(args), kwargs, detach)
    before: set[tuple[Any, int]] = set()
    if not compiling():
        if inputs is None:
            inputs = pack((args[1:] if takes_parameters(func) else args, kwargs))[0]
        mode.roots = _roots(inputs)
        before = _roots(leaves((args, kwargs))) if mode.strict else before
    wraps = [*_wholes(func, composites, mode), *(taps.wraps() if taps is not None else ())]
    if taps is not None:
        taps.replaced, taps.stands = mode.replaced, mode.stands.put
    if taps is not None:
        mode.embedded = taps.embedded
    if taps is not None and not compiling():
        mode.watch = taps.watch
    out = call(func, args, kwargs, mode=mode, detach=detach, path=path, wraps=wraps)
    out = mode.stands.returned(out) if mode.stands else out
    if mode.watch is not None:
        mode.watch(pack(out)[0], None)
    mode.finish()
    if tape is not None:
        tape.check()
    if mode.strict:
        _check(func, plans, mode, out, explained, before)
    return out, mode


def _roots(values: Sequence[Any]) -> set[tuple[Any, int]]:
    """Where the graphs of the tensors among them begin that have one."""
    roots = [root_of(t) for t in values if isinstance(t, Tensor) and t.requires_grad]
    return {root for root in roots if root is not None}


def _references(
    func: Callable[..., Any], plan: Plan, args: Args, kwargs: Kwargs, detach: bool
) -> Iterator[Operation]:
    """The operations that rules compare others with, in the order of their calls."""
    mode = Intercept([plan.composite], levels(), path=None if compiling() else [""])
    collected: list[Operation] = []
    mode.collected = collected
    if compiling() or transforming():
        call(func, args, kwargs, mode=mode, detach=detach, path=mode.path)
        return iter(collected)
    devices = {t.device for t in pack((args, kwargs))[0] if t.device.type == "cuda"}
    with torch.random.fork_rng(devices):  # the forward pass that is compared draws the same
        call(func, args, kwargs, mode=mode, detach=detach, path=mode.path)
    return iter(collected)


def _wholes(
    func: Callable[..., Any], composites: Sequence[Composite], mode: Intercept
) -> list[tuple[nn.Module, Callable[[Forward], Forward]]]:
    """What goes around the modules that are one operation to some composite."""
    classes = tuple([cls for c in composites for cls in c.classes()])
    model = module_of(func)
    if not classes:
        return []
    if model is None:
        raise ArgumentError(
            "a row of the composite is for a module class, and a plain function has no modules "
            "that are known; pass the module, or the f of make_functional."
        )

    def around(forward: Forward, module: nn.Module, path: str) -> Forward:
        return lambda *args, **kwargs: whole(mode, module, path, forward, args, kwargs)

    parts: list[tuple[str, nn.Module]] = list(model.named_modules())
    return [
        (module, functools.partial(around, module=module, path=path))
        for path, module in parts
        if isinstance(module, classes)
    ]


def _stacked(func: Callable[..., Any], plan: Plan) -> Plan:
    """``plan``, and behind it those of the ruled functions that ``func`` is made of."""
    while isinstance(func, Inside):
        inner: Plan | None = getattr(func, "plan", None)
        if inner is not None:
            match = plan.require_match or inner.require_match
            plan = Plan(plan.composite + inner.composite, match, plan.baseline)
        func = func.func
    return plan


def _check(
    func: Callable[..., Any],
    plans: Sequence[Plan],
    mode: Intercept,
    out: Any,
    explained: bool,
    before: set[tuple[Any, int]],
) -> None:
    """Raises where a rule should have acted and did not; what was ``before`` is somebody else's."""
    tensors = pack(out)[0]
    if not any([t.is_floating_point() or t.is_complex() for t in tensors]):
        return  # which has no derivative at all
    for i, (plan, composite) in enumerate(zip(plans, mode.composites)):
        if not plan.require_match:
            continue
        found = mode.matched[i] > 0
        if not compiling():
            # Behind a site with a rule, the cotangent has no other way than to its input; so the
            # first such site on any way is among these nodes, if there is one at all.
            graph = nodes_behind(tensors, hidden.followed_by(i), before)
            hidden.refuse_scripted(mode.scripted, composite)
            hidden.refuse_unseen(func, composite, graph)
            hidden.refuse_unseen_products(func, composite, graph, mode.roots or set())
            if plan.baseline is not None:
                hidden.refuse_unseen_pools(func, graph)
            if mode.origins is not None:
                hidden.refuse_norms(func, composite, i, mode.origins)
            hidden.refuse_kernels(func, composite, graph)
            found = found and (not explained or mode.cut or hidden.matched(graph, i))
        if not found and plan.baseline is None:  # to compare has a meaning without rules as well
            hidden.refuse_none(func, composite, mode.matched[i], mode.others[i])
        if not compiling() and composite.asks_for_paths():
            hidden.refuse_rows(func, composite)
