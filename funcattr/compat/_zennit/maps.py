"""Zennit's composites that are made of maps: from types or names of modules to rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from torch import nn

from ... import rules
from ...errors import ArgumentError, short
from ...operations.composite import Row
from ...operations.where import first
from .rows import Model, by_names, by_types, first_kinds

LayerMap = Sequence[tuple[Any, rules.Rule]]
NameMap = Sequence[tuple[Sequence[str], rules.Rule]]


class ZennitComposite(ABC):
    """What composites have in common: rows for a model, and no need of canonizers.

    Args:
        canonizers: accepted and ignored: the batch norm of a convolution or linear layer merges
            into that by itself, and sums are seen as they run.

    Raises:
        ArgumentError: a canonizer is none of zennit's, or an ``AttributeCanonizer``, which puts
            code of the user's in the place of the model's.
    """

    def __init__(self, canonizers: Iterable[Any] | None = None) -> None:
        self.canonizers = list(canonizers or ())
        _check_canonizers(self.canonizers)

    @abstractmethod
    def rows(self, model: Model) -> list[Row]:
        """The rows of a `funcattr.Composite` that say the same of ``model``."""

    def context(self, model: nn.Module) -> NoReturn:
        """Raises ArgumentError: there are no hooks that a model could be under."""
        raise ArgumentError(
            "nothing is hooked here, so that no model can be under a composite. Call an "
            "attributor, out, relevance = Gradient(model, composite)(x, attr_output), or take "
            "funcattr.lrp(model, funcattr.composites.epsilon_plus())(x, target=7)."
        )

    def register(self, module: nn.Module, dry_run: bool = False) -> NoReturn:
        """Raises ArgumentError, as ``context``."""
        self.context(module)


class LayerMapComposite(ZennitComposite):
    """Rules by the types of layers.

    Args:
        layer_map: pairs of a type, or a tuple of types, and a rule; the first that fits wins. The
            types of this module, ``torch.nn.Linear`` and ``torch.nn.ReLU`` stand for operations in
            whatever spelling (``F.linear`` as well), other classes for modules.
        canonizers: ignored, see `ZennitComposite`.

    Raises:
        ArgumentError: an entry is no such pair; when an attributor is made of it: a rule cannot be
            had at a place.

    >>> from funcattr.compat.zennit import Convolution, Epsilon, ZPlus
    >>> composite = LayerMapComposite([(Convolution, ZPlus()), (nn.Linear, Epsilon())])
    >>> [place for place, rule in composite.rows(nn.Linear(2, 3))]
    ['convolution', 'linear']
    """

    def __init__(self, layer_map: LayerMap, canonizers: Iterable[Any] | None = None) -> None:
        super().__init__(canonizers)
        self.layer_map = _checked("layer_map", layer_map)

    def rows(self, model: Model) -> list[Row]:
        return [row for types, rule in self.layer_map for row in by_types(types, rule)]


class SpecialFirstLayerMapComposite(LayerMapComposite):
    """Rules by the types of layers, and others for the first layer that runs.

    Args:
        layer_map: as for `LayerMapComposite`.
        first_map: likewise, of types that stand for operations alone: of all that one of them fits
            the first that runs (zennit's is the first that is registered).
        canonizers: ignored, see `ZennitComposite`.

    Raises:
        ArgumentError: as `LayerMapComposite`; ``first_map`` has a class of modules.

    >>> from funcattr.compat.zennit import Epsilon, Flat, Linear
    >>> SpecialFirstLayerMapComposite([(Linear, Epsilon())], [(Linear, Flat())]).rows(nn.ReLU())[0]
    (First(kinds=('convolution', 'linear')), Flat(eps=1e-06, zero_bias=False))
    """

    def __init__(
        self,
        layer_map: LayerMap,
        first_map: LayerMap,
        canonizers: Iterable[Any] | None = None,
    ) -> None:
        super().__init__(layer_map, canonizers)
        self.first_map = [(first_kinds(t), r) for t, r in _checked("first_map", first_map)]

    def rows(self, model: Model) -> list[Row]:
        every = first(*dict.fromkeys(kind for kinds, _ in self.first_map for kind in kinds))
        if len(self.first_map) == 1:
            return [(every, self.first_map[0][1]), *super().rows(model)]
        own: list[Row] = [((every, k), rule) for kinds, rule in self.first_map for k in kinds]
        return [*own, *super().rows(model)]


class NameMapComposite(ZennitComposite):
    """Rules by the names of modules.

    Args:
        name_map: pairs of a tuple of names, as in ``named_modules()``, and a rule; the first that
            fits wins. A rule acts on the operations that the module itself calls.
        canonizers: ignored, see `ZennitComposite`.

    Raises:
        ArgumentError: an entry is no such pair; when an attributor is made of it: the model has
            no such module, or one of several parts.

    >>> from funcattr.compat.zennit import Epsilon
    >>> composite = NameMapComposite([(("0",), Epsilon(0.1))])
    >>> composite.rows(nn.Sequential(nn.Linear(2, 3)))[0][0]
    ('linear', Paths(paths=frozenset({'0'})))
    """

    def __init__(self, name_map: NameMap, canonizers: Iterable[Any] | None = None) -> None:
        super().__init__(canonizers)
        self.name_map = _checked("name_map", name_map)
        for names, _ in self.name_map:
            if isinstance(names, str) or not all(isinstance(name, str) for name in names):
                raise ArgumentError(f"name_map has tuples of names; got {short(names)}.")

    def rows(self, model: Model) -> list[Row]:
        return [row for names, rule in self.name_map for row in by_names(names, rule, model)]


class MixedComposite(ZennitComposite):
    """Several composites, of which the first that fits wins.

    Args:
        composites: the composites.
        canonizers: ignored, see `ZennitComposite`.

    Raises:
        ArgumentError: one is no composite of this module.

    >>> from funcattr.compat.zennit import Epsilon, EpsilonPlus
    >>> composite = MixedComposite([NameMapComposite([(("0",), Epsilon(0.1))]), EpsilonPlus()])
    >>> composite.rows(nn.Sequential(nn.Linear(2, 3)))[0][1]
    Epsilon(eps=0.1, zero_bias=False)
    """

    def __init__(
        self, composites: Sequence[ZennitComposite], canonizers: Iterable[Any] | None = None
    ) -> None:
        super().__init__(canonizers)
        self.composites = list(composites)
        for one in self.composites:
            if not isinstance(one, ZennitComposite):
                raise ArgumentError(f"composites are of this module; got {short(one)}.")

    def rows(self, model: Model) -> list[Row]:
        return [row for one in self.composites for row in one.rows(model)]


class NameLayerMapComposite(MixedComposite):
    """Rules by the names of modules, and for the others by their types.

    Args:
        name_map: as for `NameMapComposite`.
        layer_map: as for `LayerMapComposite`.
        canonizers: ignored, see `ZennitComposite`.

    Raises:
        ArgumentError: as these.

    >>> from funcattr.compat.zennit import Epsilon, Linear
    >>> len(NameLayerMapComposite(layer_map=[(Linear, Epsilon())]).rows(nn.Linear(2, 3)))
    2
    """

    def __init__(
        self,
        name_map: NameMap | None = None,
        layer_map: LayerMap | None = None,
        canonizers: Iterable[Any] | None = None,
    ) -> None:
        parts = [NameMapComposite(name_map or ()), LayerMapComposite(layer_map or ())]
        super().__init__(parts, canonizers)


def _checked(name: str, entries: Any) -> list[tuple[Any, Any]]:
    if not isinstance(entries, (list, tuple)) or not all(
        [isinstance(entry, (list, tuple)) and len(entry) == 2 for entry in entries]
    ):
        raise ArgumentError(f"{name} is a list of pairs with a rule each; got {short(entries)}.")
    for _, rule in entries:
        if type(rule).__module__.startswith("zennit") or not (
            rules.is_pair(rule) or (callable(rule) and not isinstance(rule, type))
        ):
            raise ArgumentError(
                f"{name} takes the rules of funcattr.compat.zennit, which have zennit's names and "
                f"arguments, and those of funcattr.rules; got {short(rule)}."
            )
    return [tuple(entry) for entry in entries]


_KNOWN = (
    *("SequentialMergeBatchNorm", "NamedMergeBatchNorm", "VGGCanonizer", "ResNetCanonizer"),
    *("ResNetBottleneckCanonizer", "ResNetBasicBlockCanonizer"),
)


def _check_canonizers(canonizers: Iterable[Any]) -> None:
    for one in canonizers:
        names = [
            cls.__name__
            for cls in type(one).__mro__
            if cls.__module__ in ("zennit.canonizers", "zennit.torchvision")
        ]
        if not set(names).isdisjoint(_KNOWN):
            continue
        if "CompositeCanonizer" in names:
            _check_canonizers(one.canonizers)
            continue
        raise ArgumentError(
            "canonizers are not needed: batch norms merge by themselves, and sums are seen as they "
            f"run. Those of zennit that do no more than this are ignored; {short(one)} may do "
            "something else, so leave it out where it does not, or change the model itself."
        )
