"""What a tensor came of: which rules go by that, and torch's graph does not say it.

A product of two tensors is a norm where one is a deviation, an activation where both come of one
tensor number by number, a gate where one comes of an activation, and attention's where one comes of
a softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.graft import graft
from ...core.identity import ByIdentity
from ...core.levels import compiling
from ...core.private import version
from ...rules import Rule
from ...rules.propagation import PassThrough
from ..behind import of_complex, overwrite, stand_in
from ..kinds.norm import without_statistics
from ..kinds.others.operators import overloads
from ..kinds.outcome import spelled
from ..kinds.table import GROUP_OF
from ..kinds.transformer.elementwise import (
    AFFINE,
    CURVED,
    CURVED_IN_PLACE,
    DEVIATIONS,
    EXPONENTIALS,
    LENGTHS,
    QUOTIENTS,
    ROOTS,
    SUMS,
    Elementwise,
)
from ..operation import Args, Call, Kwargs
from .products import as_products, built_in, flat, unlisted

if TYPE_CHECKING:
    from ..intercept import Intercept

_FOLLOWED_NAMES = (
    *("to", "type", "type_as", "float", "double", "half", "bfloat16", "contiguous", "clone"),
    *("view", "reshape", "transpose", "permute", "expand", "expand_as", "unsqueeze", "squeeze"),
    *("flatten", "unflatten", "masked_fill", "nan_to_num", "dropout", "clamp", "clamp_min"),
    *("t", "swapaxes", "swapdims", "movedim", "moveaxis", "select", "narrow", "index_select"),
    *("gather", "topk", "sort", "chunk", "split", "unbind", "tensor_split", "repeat", "tile"),
    *("repeat_interleave", "broadcast_to", "tril", "triu", "roll", "flip", "pad", "ravel"),
    *("reshape_as", "view_as", "squeeze", "sum", "mean", "detach", "__getitem__"),
    *("split_with_sizes", "unsafe_split", "unsafe_chunk"),
)
_OPERATORS = ("to", "_to_copy", "slice", "alias", "_unsafe_view", "lift_fresh_copy")
_PROPERTIES = [getattr(torch.Tensor, name).__get__ for name in ("T", "mT", "H", "mH")]
#: Of these what comes out has the origin of what goes in, but for its shape.
FOLLOWED = frozenset(
    getattr(space, name)
    for name in _FOLLOWED_NAMES
    for space in (torch, torch.Tensor, F, torch.functional)
    if hasattr(space, name)
).union(_PROPERTIES, *map(overloads, _OPERATORS))


#: These put several together, or choose among them.
JOINED = frozenset(
    getattr(torch, name) for name in ("cat", "concat", "stack", "hstack", "vstack", "where")
) | {torch.Tensor.where}
_BOTH = spelled("var_mean")
#: These write to the first of their arguments, and return nothing.
WRITES = frozenset((torch.Tensor.__setitem__,))


class Origin(NamedTuple):
    """``root`` is the tensor that it is an elementwise function of, which may be ``curved``.

    A ``weight`` comes of a softmax or an activation; what was made of softmaxes alone is ``mixed``,
    whatever was done to them. With ``passed`` all that relevance knows of the way back to the root
    is a constant. ``stopped`` are the composites that let no relevance through to where it came
    from.
    """

    root: Tensor | None = None
    curved: bool = False
    weight: bool = False
    mixed: bool = False
    passed: bool = False
    stopped: frozenset[int] = frozenset()


_UNKNOWN = Origin()


class Origins:
    """The origins of the tensors that a forward pass has made."""

    def __init__(self) -> None:
        self.known: ByIdentity[Origin] = ByIdentity()
        #: The paths of modules with norms that are known, and where there may be others: the path,
        #: what was called, and the composites for which it is inside of a whole module.
        self.normed: set[str] = set()
        self.odd: list[tuple[str, str, tuple[int, ...]]] = []

    def of(self, t: Tensor) -> Origin:
        """The origin of ``t``, if that was not written to since; without a root that was."""
        origin, intact = self.known.get(t) or (_UNKNOWN, True)
        return origin if intact else origin._replace(root=None, curved=False, passed=False)

    def replaced(self, old: Tensor, new: Tensor) -> None:
        """Is told that the model gets ``new`` in the place of ``old``, a layer's output.

        Its relevance is asked for, which no product may go around.
        """
        origin = self.of(old)
        if origin is not _UNKNOWN:
            self._note(new, origin._replace(passed=False))

    def finish(self) -> None:
        """Lets go of all tensors."""
        self.known.clear()

    def _note(self, t: Tensor, origin: Origin) -> None:
        self.known.set(t, origin, origin.root)

    def called(self, mode: Intercept, func: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
        """A call of the model's, with what follows from where its arguments came from."""
        mode.own = ()
        func = built_in(func) if compiling() else func
        args = unlisted(func, args)
        both = as_products(mode, func, args, kwargs)
        if both is not None:
            self.replaced(both[1], both[0])
            return both[0]
        # Of those that are followed the others say what shape or type is meant.
        sources = [a for a in (args[:1] if func in FOLLOWED else flat(args)) if mode.depends(a)]
        origins = [self.of(t) for t in sources]
        call = None
        if func in DEVIATIONS and not (func in ROOTS and origins and origins[0].curved):
            call = DEVIATIONS[func](func, args, kwargs, mode.depends)
        if call is not None and "deviation" in mode.groups:
            self.normed.add(mode.where)
            out = mode.called(call, func, args, kwargs)
            return out.detach() if cuts(mode, mode.own) else self._noted(mode, out, _UNKNOWN)
        if sources and func in CURVED_IN_PLACE and GROUP_OF.get(func) != "activation":
            return self._in_place(mode, func, args, kwargs)
        bends = func in CURVED and func not in LENGTHS and "elementwise" in mode.groups
        if bends and mode.strict and any([t.is_complex() for t in sources]):
            raise of_complex(mode, func.__name__)
        if sources:
            self._look_for_norms(mode, func, args, kwargs, origins)
        before = _version(args[0]) if args and isinstance(args[0], Tensor) else 0
        out = mode.routed(func, args, kwargs)
        if func in _BOTH and sources:  # of which the one has a rule
            out = (graft(out[0].detach(), mode.routed(torch.var, args, kwargs)), out[1])
        written = args[0] if args else None
        same = written is out and (func not in FOLLOWED or _version(written) != before)
        if sources and isinstance(written, Tensor) and (same or func in WRITES):
            origin = _of_all(origins)
            softmax = func in EXPONENTIALS or GROUP_OF.get(func) == "softmax"
            weight = origin.weight or softmax or GROUP_OF.get(func) == "activation"
            mixed = origin.mixed or softmax
            self._note(written, origin._replace(weight=weight, mixed=mixed))
            return out
        if sources and isinstance(out, (tuple, list)):
            for t in filter(mode.depends, out):
                self._note(t, _of_all(origins))
        if not sources or not mode.depends(out) or any([out is a for a in args]):
            return out
        constants = [a for a in args if isinstance(a, Tensor) and a.dim() and not mode.depends(a)]
        origin = _origin(func, sources, origins, constants)
        root = origin.root
        if root is None or not origin.curved:
            return self._noted(mode, out, origin)
        alone = len(sources) == 1 and root is sources[0]
        origin = origin._replace(passed=alone or "elementwise" in mode.groups)
        if "elementwise" in mode.groups and not (alone and GROUP_OF.get(func) == "activation"):
            call = Call(Elementwise(), root, (), getattr(func, "__name__", ""))
            own = mode.rules_of(call, func)
            if any([rule is not None for rule in own]):
                out = stand_in(mode, call, out, own)
                mode.note(call, own[0], out)
        return self._noted(mode, out, origin)

    def _in_place(
        self, mode: Intercept, func: Callable[..., Any], args: Args, kwargs: Kwargs
    ) -> Tensor:
        """A function of single numbers that writes them where they were."""
        written, before = args[0], args[0].clone()
        self.replaced(written, before)
        new = self.called(mode, CURVED_IN_PLACE[func], (before, *args[1:]), kwargs)
        origin, out = self.of(new), overwrite(written, new)
        for known in mode.known if compiling() else ():
            known.written(written)
        self._note(out, origin)
        return out

    def _look_for_norms(
        self,
        mode: Intercept,
        func: Callable[..., Any],
        args: Args,
        kwargs: Kwargs,
        origins: Sequence[Origin],
    ) -> None:
        """Notes norms, and products and quotients that may be some."""
        known = not any([origin.stopped for origin in origins])
        two = len(origins) > 1 and func in AFFINE and func not in SUMS and known
        if without_statistics(func, args, kwargs) is not None:
            self.odd.append((mode.where, func.__name__, tuple(mode.within)))
        elif GROUP_OF.get(func) in ("norm", "group_norm"):
            self.normed.add(mode.where)
        elif two:
            self.odd.append((mode.where, "", tuple(mode.within)))

    def _noted(self, mode: Intercept, out: Tensor, origin: Origin) -> Tensor:
        stopped = [i for i, rule in enumerate(mode.own) if getattr(rule, "blocks", False)]
        through = [isinstance(rule, PassThrough) for rule in mode.own or (None,)]
        passed = origin.passed and all(through)
        origin = origin._replace(stopped=origin.stopped.union(stopped), passed=passed)
        if origin.root is not None or origin.weight or origin.mixed or origin.stopped:
            self._note(out, origin)
        return out

    def roles(self, call: Call, operands: Sequence[Tensor], composite: int) -> list[str | None]:
        """What each operand of a call is to a rule of a composite; None where it gets nothing."""
        roles: list[str | None] = []
        for (role, _), t in zip(call.operands, operands):
            origin = self.of(t)
            name = role or ("weight" if origin.weight else "mixed" if origin.mixed else "factor")
            roles.append(None if composite in origin.stopped else name)
        return roles


def _of_all(origins: Sequence[Origin]) -> Origin:
    """That of what is put together of others."""
    if not origins:
        return _UNKNOWN
    stopped = frozenset.intersection(*[origin.stopped for origin in origins])
    weight, mixed = all([o.weight for o in origins]), all([o.mixed for o in origins])
    return Origin(weight=weight, mixed=mixed, stopped=stopped)


def _origin(
    func: Callable[..., Any],
    sources: Sequence[Tensor],
    origins: Sequence[Origin],
    constants: Sequence[Tensor],
) -> Origin:
    """That of the output of a call."""
    group = GROUP_OF.get(func)
    if group == "softmax" or func in EXPONENTIALS:
        return Origin(weight=True, mixed=True)
    if func in JOINED:
        return _of_all(origins)
    stopped = frozenset.intersection(*[o.stopped for o in origins])
    mixed = all([o.mixed for o in origins])
    bends = func in CURVED or group == "activation" or func in ROOTS
    if bends or func in AFFINE:
        roots = [t if o.root is None else o.root for t, o in zip(sources, origins)]
        shapes = {t.shape for t in (*sources, roots[0])}
        same = all([root is roots[0] for root in roots]) and not roots[0].is_complex()
        if len(shapes) == 1 and not constants and same:
            product = len(sources) > 1 and func not in SUMS
            curved = bends or product or any([o.curved for o in origins])
            weight = curved or any([o.weight for o in origins])
            return Origin(roots[0], curved, weight, mixed, False, stopped)
    if func in QUOTIENTS and len(sources) == 2:  # of an exponential by a sum of them
        return Origin(weight=origins[0].weight, mixed=mixed, stopped=stopped)
    if len(sources) == 1 and (func in AFFINE or func in FOLLOWED or bends):
        weight = origins[0].weight or group == "activation"
        return Origin(weight=weight, mixed=mixed, stopped=stopped)
    return Origin(mixed=mixed, stopped=stopped)


def _version(t: Tensor | None) -> int:
    return 0 if t is None or compiling() else version(t)


def cuts(mode: Intercept, own: Sequence[Rule | None]) -> bool:
    """Whether rules let nothing through and nobody asks for another derivative, so that a tensor
    can be detached.
    """
    last = mode.passing is not None and mode.passing.final
    cut = last and all([getattr(rule, "blocks", False) for rule in own])
    mode.cut = mode.cut or cut
    return cut
