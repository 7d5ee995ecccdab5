"""Zennit's types of layers, and the rows that a map from them to rules stands for.

Types are tuples of module classes, for ``isinstance``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import rules
from ...errors import ArgumentError, nearest, short
from ...operations.composite import Row

Model = Callable[..., Any]

ConvolutionStandard = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
ConvolutionTranspose = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Convolution = (*ConvolutionStandard, *ConvolutionTranspose)
Linear = (*Convolution, nn.Linear)
BatchNorm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
AvgPool = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)
MaxPool = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
#: Activations that are no kind of funcattr's, and their functions.
FUNCTIONS: dict[type, Callable[..., Any]] = {
    nn.Hardshrink: F.hardshrink,
    nn.LogSigmoid: F.logsigmoid,
    nn.RReLU: F.rrelu,
    nn.Softshrink: F.softshrink,
    nn.Softsign: F.softsign,
    nn.Tanhshrink: F.tanhshrink,
}
Activation = (
    *(nn.ELU, nn.Hardsigmoid, nn.Hardtanh, nn.Hardswish, nn.LeakyReLU, nn.PReLU, nn.ReLU),
    *(nn.ReLU6, nn.SELU, nn.CELU, nn.GELU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Tanh),
    *(nn.Threshold, *FUNCTIONS),
)


class Sum(nn.Module):
    """Zennit's ``layer.Sum``: the sum over a dim. As a type it stands for every sum.

    >>> Sum()(torch.ones(2, 3))
    tensor([3., 3.])
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return torch.sum(input, dim=self.dim)


Place = str | Callable[..., Any]

#: Which operations, in whatever spelling, types stand for, by the name that zennit has for them.
PLACES: dict[str, tuple[Place, ...]] = {
    "Convolution": ("convolution",),
    "Linear": ("convolution", "linear"),
    "BatchNorm": ("batch_norm",),
    "AvgPool": ("mean",),
    "MaxPool": ("max_pool",),
    "Activation": ("activation", *FUNCTIONS.values()),
    "Sum": ("sum",),
}
TYPES: dict[str, Any] = {
    "Convolution": Convolution,
    "Linear": Linear,
    "BatchNorm": BatchNorm,
    "AvgPool": AvgPool,
    "MaxPool": MaxPool,
    "Activation": Activation,
    "Sum": Sum,
}
#: Classes that stand for an operation as well, as users of zennit's name them.
CLASSES: dict[type, Place] = {nn.Linear: "linear", nn.ReLU: "relu", **FUNCTIONS}


@dataclass(frozen=True)
class Paths:
    """A predicate on the paths of modules."""

    paths: frozenset[str]

    def __call__(self, path: str) -> bool:
        return path in self.paths


def first_kinds(types: Any) -> tuple[str, ...]:
    """The kinds of operations that the types of a first map stand for.

    Raises:
        ArgumentError: one is a class of modules.
    """
    found: list[str] = []
    for one in _each(types):
        places = _places(one)
        if not places or not isinstance(places[0], str):
            raise ArgumentError(
                "first_map takes the types of funcattr.compat.zennit and torch.nn.Linear, by which "
                f"the first that runs is found; got {short(one)}."
            )
        found += [place for place in places if isinstance(place, str)]
    return tuple(found)


def by_types(types: Any, rule: Any) -> Iterator[Row]:
    """Rows for operations and modules of these types.

    Raises:
        ArgumentError: ``types`` are none; a rule of activations is for something else than ReLU.
    """
    for one in _each(types):
        places = _places(one)
        if not rules.is_pair(rule) and places != ("relu",):
            raise _only_relu("Activation" if one is Activation else short(one))
        for place in places or (one,):
            yield place, rule


def by_names(names: Sequence[str], rule: Any, model: Callable[..., Any]) -> Iterator[Row]:
    """Rows for the modules of a model by their names.

    Raises:
        ArgumentError: there is no such module, or the rule cannot be had there.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            "the composite has rules for modules by their names, and a plain function has none "
            f"that are known; got {short(model)}."
        )
    named = dict(model.named_modules(remove_duplicate=False))
    by_place: dict[Place | None, set[str]] = {}
    for name in names:
        if name not in named:
            raise ArgumentError(
                f"name_map names {name!r}, which the model has not.{nearest(name, named)}"
            )
        module = named[name]
        if not rules.is_pair(rule) and not isinstance(module, nn.ReLU):
            raise _only_relu(f"{name!r}, a {type(module).__name__}")
        place = "relu" if isinstance(module, nn.ReLU) else _place_of(module)
        if place is None and rule in (rules.pass_through, rules.stop):
            alike = {other for other, m in named.items() if type(m) is type(module)}
            if not alike <= set(names):
                raise ArgumentError(
                    f"{name!r} is a {type(module).__name__}, which such a rule takes as a whole, "
                    f"and then all of them: name {', '.join(sorted(alike))}."
                )
            yield type(module), rule
            continue
        if place is None and any(True for _ in module.children()):
            raise ArgumentError(
                f"a rule for {name!r}, a {type(module).__name__} of several parts, would be one "
                "for all of it together; name its parts."
            )
        by_place.setdefault(place, set()).add(name)
    for place, own in by_place.items():
        paths = Paths(frozenset(own))
        yield (paths if place is None else (place, paths)), rule


def _each(types: Any) -> Iterator[Any]:
    """The types of a map's entry, one by one."""
    if isinstance(types, tuple) and not _places(types):
        for one in types:
            yield from _each(one)
    elif isinstance(types, (type, tuple)):
        yield types
    else:
        raise ArgumentError(f"a map has types of layers, or tuples of them; got {short(types)}.")


def _places(one: Any) -> tuple[Place, ...]:
    """The operations that a type stands for, none where it is a class of modules."""
    for name, own in TYPES.items():
        if one is own or _is_zennits(one, name):
            return PLACES[name]
    return (CLASSES[one],) if isinstance(one, type) and one in CLASSES else ()


def _place_of(module: nn.Module) -> Place | None:
    """The operation that a module is; None where it is none that is known, or several."""
    if type(module) in CLASSES:
        return CLASSES[type(module)]
    for name in ("Convolution", "BatchNorm", "AvgPool", "MaxPool", "Activation"):
        if isinstance(module, TYPES[name]):
            return PLACES[name][0]
    return "linear" if isinstance(module, nn.Linear) else None


def _is_zennits(one: Any, name: str) -> bool:
    known = ("zennit.types", "zennit.layer")
    return getattr(one, "__module__", "") in known and getattr(one, "__name__", "") == name


def _only_relu(came: str) -> ArgumentError:
    return ArgumentError(
        "ReLUDeconvNet, ReLUGuidedBackprop and ReLUBetaSmooth are rules for torch.nn.ReLU; got "
        f"{came}. funcattr.relu_rule takes any activation."
    )
