"""Attention as one call, and softmax."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...operation import Args, Call, Depends, Kind, Kwargs, Recognise, by_name
from ..outcome import Outcome, spelled


@dataclass(frozen=True)
class Attention(Kind):
    """``F.scaled_dot_product_attention(query, key, value)``, of which each has a rule."""

    names: ClassVar[tuple[str, ...]] = ("attention",)
    quick: ClassVar[bool] = True

    def value(self, x: Tensor, *tensors: Tensor | None) -> Tensor:
        raise NotImplementedError("attention is called as the model calls it")


ROLES = ("query", "key", "value")
_ARGS: Kwargs = dict.fromkeys((*ROLES, "attn_mask")) | {"dropout_p": 0.0, "is_causal": False}
_ARGS |= {"scale": None, "enable_gqa": False}


def _named(args: Args, kwargs: Kwargs) -> Kwargs:
    """All arguments of a call, with a `torch.nn.attention.bias.CausalBias` as the mask it means.

    It is an empty tensor of a class of its own, which acts where attention is called by torch.
    """
    named = by_name(_ARGS, args, kwargs)
    mask = named["attn_mask"]
    biases = sys.modules.get("torch.nn.attention.bias")  # who has one has imported it
    if biases is None or not isinstance(mask, biases.CausalBias):
        return named
    queries, keys = mask.seq_len_q, mask.seq_len_kv
    if queries == keys or mask.variant.name == "UPPER_LEFT":
        return {**named, "attn_mask": None, "is_causal": True}
    whole = torch.ones(queries, keys, dtype=torch.bool, device=named["query"].device)
    return {**named, "attn_mask": whole.tril(keys - queries)}


def named_arguments(args: Args, kwargs: Kwargs) -> Kwargs:
    """The arguments of a call that are not what they are by default, and its tensors."""
    named = _named(args, kwargs)
    lasting = (*ROLES, "attn_mask")
    return {n: v for n, v in named.items() if n in lasting or v != _ARGS[n]}


def _attention(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    named = _named(args, kwargs)
    operands = [named[role] for role in (*ROLES, "attn_mask")]
    if not any(map(depends, operands)):
        return None
    places = [(role, n if n < len(args) else role) for n, role in enumerate(ROLES)]
    if depends(operands[-1]):
        places.append(("mask", 3 if len(args) > 3 else "attn_mask"))
    spelling = "nn.functional.scaled_dot_product_attention"
    return Call(Attention(), operands[0], (), spelling, operands=tuple(places))


def written_out(args: Args, kwargs: Kwargs) -> Any:
    """Attention by products and a softmax, which has every derivative; dropout is left out."""
    named = _named(args, kwargs)
    query, key, value = (named[role] for role in ROLES)
    mask, scale = named["attn_mask"], named["scale"]
    if named["enable_gqa"]:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.mT
    if named["is_causal"]:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is None:
        return scores.softmax(-1) @ value
    if mask.dtype == torch.bool:  # a sum, through which many cotangents pass as they are
        mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -math.inf)
    if named["is_causal"]:
        return (scores + mask).softmax(-1) @ value
    # Who may look nowhere has zeros, and a softmax over nothing would have no derivative.
    nowhere = (mask == -math.inf).all(-1, keepdim=True)
    weights = (scores + mask.masked_fill(nowhere, 0)).softmax(-1)
    return (weights @ value).masked_fill(nowhere, 0)


def drops(args: Args, kwargs: Kwargs) -> bool:
    """Whether the call draws what to drop."""
    return bool(by_name(_ARGS, args, kwargs)["dropout_p"])


def _softmax(func: Any, args: Args, kwargs: Kwargs, depends: Depends) -> Call | None:
    x: Any = args[0] if args else kwargs.get("input")
    if not depends(x) or "out" in kwargs:
        return None
    return Call(Outcome("softmax"), func(*args, **kwargs), (), func.__name__)


CALLS: Mapping[Callable[..., Any], Recognise] = {F.scaled_dot_product_attention: _attention}
SOFTMAXES: Mapping[Callable[..., Any], Recognise] = dict.fromkeys(
    spelled("softmax", "_softmax", "_safe_softmax"), _softmax
)
