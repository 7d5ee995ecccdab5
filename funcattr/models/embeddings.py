"""Models of token ids as functions of embeddings: `over_embeddings`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..core.levels import compiling, vmapping
from ..core.trees import leaves
from ..errors import ArgumentError, LayerError, check_flags, nearest, short
from ..operations.intercept import Intercept
from ..operations.operation import Args, Kwargs
from ..operations.where import ONE_OPERATION
from .copies import Forward
from .functional import Inside, call, module_of, takes_parameters

__all__ = ["over_embeddings"]


class Embedded(NamedTuple):
    """Token ids, and what stands for their rows of the embedding layer."""

    ids: Tensor | None
    embeddings: Tensor


def over_embeddings(
    model: Callable[..., Any],
    embedding: str | nn.Module | None = None,
    *,
    per_token: bool = True,
) -> OverEmbeddings:
    """A model of token ids as a function of their embeddings, for which ids can be given.

    Every attribution of it takes ids where the model does: ``attr(ids, target=...)``. What is
    explained is the output of the embedding layer; the model still gets the ids, and makes its
    positions and masks of them. Baselines and noise are embeddings, too.

    Args:
        model: an ``nn.Module`` of ids (or what `with_rules` made of one).
        embedding: the embedding layer, or its path; None for that of ``get_input_embeddings()``,
            or the only one that there is. Where it is called more than once, the first call with
            these very ids.
        per_token: whether maps are summed over the dims of an embedding. That is what relevance,
            input x gradient and integrated gradients are for; False leaves them as they are.

    Returns:
        A function with the model's arguments and values. Maps of its attributions are ``[B, N]``
        for ids ``[B, N]``; without ``per_token`` they are ``[B, N, D]``.

    Raises:
        ArgumentError: ``model`` has no modules that are known; when called: what is explained is no
            tensor of ids.
        LayerError: no embedding layer is found, or several; when called: it did not run on the ids.

    >>> import funcattr as fa
    >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    >>> attr = fa.input_x_gradient(over_embeddings(model))
    >>> attr(torch.tensor([[3, 1, 4], [1, 5, 2]]), target=1).shape
    torch.Size([2, 3])
    """
    module = module_of(model)
    if module is None or takes_parameters(model):
        raise ArgumentError(
            "over_embeddings takes an nn.Module, whose embedding layer it looks for; got "
            f"{short(model)}. A function can be explained by its embeddings itself: lambda e: "
            "model(inputs_embeds=e)."
        )
    check_flags(per_token=per_token)
    return OverEmbeddings(model, _found(module, embedding), bool(per_token))


@dataclass(eq=False)
class OverEmbeddings(Inside):
    """What `over_embeddings` returns."""

    func: Callable[..., Any]
    embedding: nn.Module
    per_token: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return call(self, args, kwargs, mode=Intercept((), depth=0), path=[""])

    def embedded(self, args: Args, nums: tuple[int, ...]) -> Args:
        """``args`` with `Embedded` in the place of those ids that are explained.

        Raises:
            ArgumentError: they are none.
        """
        made = list(args)
        for n in nums:
            if not -len(args) <= n < len(args) or isinstance(args[n], Embedded):
                continue
            ids = args[n]
            if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.dtype == torch.bool:
                raise ArgumentError(
                    f"argument {n} of a model over_embeddings is a tensor of token ids; got "
                    f"{short(ids)}. Embeddings are explained by the model itself: lambda e: "
                    "model(inputs_embeds=e)."
                )
            made[n] = Embedded(ids, self.embedding(ids).detach())
        return tuple(made)

    def call(self, args: Args, kwargs: Kwargs, **how: Any) -> Any:
        given = [_Given(a) for a in args if isinstance(a, Embedded)]
        beside = leaves(([a for a in args if not isinstance(a, Embedded)], kwargs))
        args = tuple([a.ids if isinstance(a, Embedded) else a for a in args])
        around = functools.partial(_replaced, given)
        wraps = [*how.pop("wraps", ()), *((m, around) for m in self._alike())]
        out = call(self.func, args, kwargs, wraps=wraps, **how)
        for one in given:
            out = one.checked(out, self.embedding, beside)
        return out

    def _alike(self) -> list[nn.Module]:
        """The embedding layer, and those that share its weight."""
        module = module_of(self.func)
        assert module is not None
        own = getattr(self.embedding, "weight", None)
        modules = [m for m in module.modules() if isinstance(m, nn.Embedding)]
        alike = [m for m in modules if m.weight is own and m is not self.embedding]
        return [self.embedding, *alike]


class _Given:
    """Ids and their embeddings, which a forward pass is to get once: in the first call with them.

    In the place of those of other ids they would make another model of it. Where nobody can look
    at values, both are computed, and the output is NaN where the ids were never looked up.
    """

    def __init__(self, embedded: Embedded) -> None:
        self.ids: Any = embedded.ids
        self.embeddings = embedded.embeddings
        self._met: Any = False
        self._again = self._others = False  # calls with these ids again, with others of their shape

    def first(self, ids: Any) -> Any:
        """Whether this call is the first one with these ids: a bool, or a tensor of one."""
        if not isinstance(ids, Tensor) or self.ids is None or ids.shape != self.ids.shape:
            return False
        if vmapping() or compiling():
            same = (ids == self.ids).all()
            return same if self._met is False else same.logical_and(self._met.logical_not())
        same = bool((ids == self.ids).all())  # of another dtype, too
        self._again, self._others = self._again or (same and self._met), self._others or not same
        return same and not self._met

    def take(self, first: Any) -> None:
        """Is told where it was taken."""
        self._met = first if self._met is False else self._met.logical_or(first)

    def checked(self, out: Any, layer: nn.Module, beside: Sequence[Any]) -> Any:
        """What the model returns, which was given other arguments ``beside``.

        Raises:
            LayerError: the ids were not looked up, or nobody can tell which call is theirs.
        """
        if isinstance(self._met, Tensor):
            # By way of the embeddings, so that derivatives by them are NaN as well.
            lost = torch.where(self._met, 0.0, math.nan) * self.embeddings.sum()
            return tree_map(functools.partial(_plus, lost), out)
        if not self._met:
            others = " (it ran on others of their shape)" if self._others else ""
            raise LayerError(
                f"the embedding layer, {short(layer)}, did not run on the ids{others}; name "
                "another one, over_embeddings(model, 'path.of.it'), or give the ids as the layer "
                "gets them."
            )
        alike = [t for t in beside if isinstance(t, Tensor) and t.dtype is self.ids.dtype]
        if self._again and any(torch.equal(t, self.ids) for t in alike):
            raise LayerError(
                f"the embedding layer, {short(layer)}, ran more than once on these ids, which two "
                "arguments are, and whose call is whose cannot be told. Explain both: "
                "argnums=(0, 1), say."
            )
        return out


def _plus(lost: Tensor, value: Any) -> Any:
    floats = isinstance(value, Tensor) and value.is_floating_point()
    return value + lost.to(value.dtype) if floats else value


def _replaced(given: list[_Given], forward: Forward) -> Forward:
    """``forward`` of an embedding layer, which gives what is given for the ids, once."""

    def looked_up(*args: Any, **kwargs: Any) -> Any:
        ids = next(iter((*args, *kwargs.values())), None)
        out, taken = None, None
        for one in given:
            first = one.first(ids)
            if first is True:
                one.take(True)
                return one.embeddings
            if first is not False:
                out = forward(*args, **kwargs) if out is None else out
                first = first if taken is None else first.logical_and(taken.logical_not())
                taken = first if taken is None else taken.logical_or(first)
                one.take(first)
                out = torch.where(first, one.embeddings, out)
        return forward(*args, **kwargs) if out is None else out

    return looked_up


def _looks_up(module: nn.Module, named: str) -> nn.Module:
    """The module, which makes vectors of ids as far as torch's own are known.

    Raises:
        LayerError: it makes them of vectors.
    """
    if isinstance(module, ONE_OPERATION):
        raise LayerError(
            f"{named} is a {type(module).__name__}, which looks no ids up; name the "
            "embedding layer, over_embeddings(model, 'path.of.it')."
        )
    return module


def _found(module: nn.Module, embedding: Any) -> nn.Module:
    paths = {path: m for path, m in module.named_modules() if isinstance(m, nn.Embedding)}
    if isinstance(embedding, str):
        every = dict(module.named_modules())
        if embedding not in every:
            raise LayerError(f"the model has no {embedding!r}.{nearest(embedding, every)}")
        return _looks_up(every[embedding], repr(embedding))
    if isinstance(embedding, nn.Module):
        if not any(m is embedding for m in module.modules()):
            raise LayerError(f"{short(embedding)} is no module of the model.")
        return _looks_up(embedding, short(embedding))
    if embedding is not None:
        raise ArgumentError(
            f"embedding is a module of the model or the path of one; got {short(embedding)}."
        )
    get: Any = getattr(module, "get_input_embeddings", None)
    if callable(get):
        try:
            own = get()
        except (NotImplementedError, AttributeError):  # of a base class, for a model of no tokens
            own = None
        if isinstance(own, nn.Module):
            return own
    weights: dict[int, nn.Module] = {id(m.weight): m for m in paths.values()}
    if len(weights) == 1:
        return next(iter(weights.values()))
    there = f"several, {', '.join(map(repr, paths))}" if paths else "none"
    raise LayerError(
        f"the model's embedding layer is the only nn.Embedding that there is, and there are {there}"
        "; name it, over_embeddings(model, 'path.of.it')."
    )
