"""Calls that a mode has to watch: what holds a ReLU where no mode can see it, what looks at
gradients in the middle of a forward pass, and products in a form that no rule can act on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.edges import requires_grad
from ..core.graft import graft, steady
from ..core.layout import ambiguous, unambiguous
from ..core.levels import compiling, levels, transforming
from ..core.private import (
    forward_mode_active,
    inside_function,
    left_behind,
    set_grad_enabled,
)
from ..core.trees import leaves
from ..errors import HiddenSiteError
from .fold import Unfold
from .kinds import linear, norm, products
from .kinds.others.operators import overloads
from .kinds.outcome import Outcome, spelled
from .operation import Args, Call, Kwargs
from .place import Met

if TYPE_CHECKING:
    from .intercept import Intercept

_OPAQUE = {  # what holds a ReLU where no mode can see it
    torch.rnn_relu: "nn.RNN(nonlinearity='relu')",
    torch.rnn_relu_cell: "nn.RNNCell(nonlinearity='relu')",
}
_AUTOGRAD = (torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward)
_GRAD_FN: Any = torch.Tensor.grad_fn
_HOOKED = (torch.Tensor.register_hook, torch.Tensor.retain_grad, _GRAD_FN.__get__)
_BATCH_NORMS = (F.batch_norm, torch.batch_norm)
_INSTANCE_NORMS = (F.instance_norm, torch.instance_norm)
_EMBEDDINGS = (torch.embedding, F.embedding, F.embedding_bag)

#: Of a shift and two factors.
_SHIFTED = (
    *spelled("addmm", "addmv", "addr", "baddbmm", "addbmm"),
    *spelled("addmm_", "addmv_", "addr_", "baddbmm_", "addbmm_"),
    *(torch.sparse.addmm, torch.sspaddmm),
)
#: Of an input and a hidden state, and of weights.
_RECURRENT = spelled(
    *("lstm", "gru", "rnn_tanh", "rnn_relu"),
    *("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
)
_CONVOLUTIONS = spelled("convolution", "_convolution", "conv_tbc")
_OTHERS: tuple[Callable[..., Any], ...] = (
    *spelled("chain_matmul", "multi_dot", "linalg_multi_dot", "grouped_mm", "_grouped_mm"),
    *(F.bilinear, torch.hspmm),
)
#: Sums, of which a part may be a product of two that depend on the input.
_LERPS = spelled("lerp", "lerp_")
_BLENDS = _LERPS | spelled("addcmul", "addcmul_", "addcdiv", "addcdiv_")
#: What has a rule in the usual form, and may be called in another.
_KNOWN = {*linear.CALLS, *products.CALLS} - {F.linear}
#: Which of the arguments are multiplied with each other.
_FACTORS: Mapping[Callable[..., Any], slice] = {
    **dict.fromkeys((*_KNOWN, *_OTHERS), slice(None)),
    **dict.fromkeys((*_SHIFTED, *_BLENDS), slice(1, None)),
    **dict.fromkeys((*_RECURRENT, *_CONVOLUTIONS), slice(0, 2)),
}
_PRODUCTS = frozenset((*_FACTORS, F.embedding_bag))
_FUSED = (F.scaled_dot_product_attention, F.multi_head_attention_forward)
_NORMS = (*_BATCH_NORMS, *_INSTANCE_NORMS)
#: What norms and attention call in turn, which models call that were exported and decomposed.
_PARTS = spelled(
    *("native_layer_norm", "native_group_norm", "native_batch_norm", "cudnn_batch_norm"),
    *("miopen_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
    *("_batch_norm_impl_index", "_scaled_dot_product_attention_math"),
    *(f"_scaled_dot_product_{kind}_attention" for kind in ("flash", "efficient", "cudnn")),
    *("_scaled_dot_product_flash_attention_for_cpu", "_transformer_encoder_layer_fwd"),
    "_native_multi_head_attention",
).union(
    *map(overloads, ("_batch_norm_with_update", "_batch_norm_no_update", "_fused_rms_norm")),
    overloads("_scaled_dot_product_fused_attention_overrideable"),
)
#: The functions that are watched.
WATCHED = _PRODUCTS.union(_OPAQUE, _AUTOGRAD, _HOOKED, _NORMS, _EMBEDDINGS, _FUSED, _PARTS)


def watched(mode: Intercept, func: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
    """``func(*args, **kwargs)``, one of those.

    Raises:
        HiddenSiteError: a rule that must act could not be where it should.
    """
    if func in _PRODUCTS and not mode.groups.isdisjoint(("linear", "convolution", "product")):
        _without_rule(mode, func, args, kwargs)
    if func in _EMBEDDINGS:
        out = func(*args, **kwargs)
        return out if mode.embedded is None else mode.embedded(out)
    if func in _FUSED:
        mode.fused.append(mode.where)
    if func in _NORMS:
        return _normed(func, args, kwargs)
    if func in _HOOKED and mode.passing is not None and mode.passing.folds:
        raise Unfold
    ruled = mode.strict and not mode.groups.isdisjoint(("norm", "group_norm", "attention"))
    if func in _PARTS and ruled and any(map(mode.depends, leaves((args, kwargs)))):
        raise HiddenSiteError(
            f"the forward pass calls {func.__name__}, a part of a norm or of attention that no "
            "rule can act on. Call the whole of it, as torch.nn.functional has it (export models "
            "without run_decompositions), or pass require_match=False to let relevance pass it by "
            "its true derivative."
        )
    if func in _OPAQUE and mode.met is not None:
        path = mode.path[-1] if mode.path else ""
        mode.met.append(Met("relu", _OPAQUE[func], path, tuple(args[0].shape), None))
    if mode.strict and func in _OPAQUE:
        where = f" in {mode.path[-1]!r}" if mode.path and mode.path[-1] else ""
        raise HiddenSiteError(
            f"{_OPAQUE[func]}{where} runs its ReLUs inside of one kernel, where no rule can "
            "reach. Write the recurrence with torch.relu, or pass require_match=False to "
            "differentiate through it as it is."
        )
    # The function that torch.func.vjp returns runs when its level is over; it is of a level all
    # the same, where sites have their true derivative.
    own = func in _AUTOGRAD and levels() == mode.depth
    if mode.strict and own and not any(map(left_behind, leaves(args[:1]))):
        raise HiddenSiteError(
            "the function takes gradients of its own by plain autograd, and a rule cannot "
            "tell those from yours. Use torch.func.grad inside of it, or pass "
            "require_match=False to let the rule act on both."
        )
    return func(*args, **kwargs)


def _normed(func: Callable[..., Any], args: Args, kwargs: Kwargs) -> Any:
    """The output of a norm, whose derivative is right in every layout of memory.

    That of torch is not where strides of its input or of its cotangent say nothing.
    """
    named = norm.without_statistics(func, args, kwargs)
    if named is not None and transforming():
        args, kwargs = (), named
    out = func(*args, **kwargs)
    if not (out.requires_grad if compiling() else requires_grad(out)) or not ambiguous(out):
        return out
    x = args[0] if args else kwargs["input"]
    usual, last = unambiguous(x), func in _BATCH_NORMS
    if usual is x:
        plain = not (compiling() or transforming() or forward_mode_active())
        return steady(out, last=last) if plain else graft(out, out, last=last)
    # Again, for its derivative alone: statistics are not counted twice.
    if named is not None:
        again = func(**{**named, "input": usual})
    else:
        again = func(usual, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
    return graft(out.detach(), again, last=last)


def _without_rule(mode: Intercept, func: Callable[..., Any], args: Args, kwargs: Kwargs) -> None:
    """Notes a product in a form that no rule can act on.

    Raises:
        HiddenSiteError: a rule should have.
    """
    factors = _factors(func, args, kwargs)
    of_input = [t for factor in factors for t in factor if mode.depends(t)]
    if not of_input or mode.collected is not None:
        return
    count = sum([any(map(mode.depends, factor)) for factor in factors])
    several = count > 1
    if func in _BLENDS:
        names = ["product"] * several
    elif func in _CONVOLUTIONS:
        names = ["convolution"] * (not several)
    else:
        weighed = func in _RECURRENT or count < len(factors)
        names = ["linear"] * weighed + ["matmul"] * several
    spelling = getattr(func, "__name__", str(func))
    for name in names:
        call = Call(Outcome(name), of_input[0], (), spelling)
        if mode.strict and any([rule is not None for rule in mode.rules_of(call, func)]):
            where = f" in {mode.where!r}" if mode.where else ""
            what = f"a {name} operation in a form"
            if func in _RECURRENT:
                what = "a recurrent layer, linear operations inside of one kernel"
            raise HiddenSiteError(
                f"the forward pass calls {spelling}{where}, {what} that no rule can act on. Write "
                "it by torch.nn.functional.linear (conv), by matmul, einsum or mul of two tensors, "
                "or pass require_match=False to let relevance pass it by its true derivative."
            )
        mode.note(call)


def in_a_function(mode: Intercept, call: Call) -> HiddenSiteError:
    """The error of a call with a rule inside of an ``autograd.Function``."""
    where = f" in {mode.where!r}" if mode.where else ""
    return HiddenSiteError(
        f"an autograd.Function{where} calls {call.spelling} in its forward, and has a backward of "
        "its own, where no rule can reach. Use plain torch functions in its place (and checkpoints "
        "with use_reentrant=False), or pass require_match=False to differentiate through it as it "
        "is."
    )


def _factors(func: Callable[..., Any], args: Args, kwargs: Kwargs) -> list[Sequence[Tensor]]:
    """The tensors that a call multiplies with each other; those of one factor are added."""
    if func is F.embedding_bag:  # the vectors of ids, weighed
        weights = kwargs.get("per_sample_weights", args[8] if len(args) > 8 else None)
        table = args[1] if len(args) > 1 else kwargs["weight"]
        return [] if weights is None else [(weights,), (table,)]
    which = _FACTORS[func]
    named = [t for key, t in kwargs.items() if which.start is None or key not in ("input", "out")]
    factors = [t for t in leaves((args[which], named)) if isinstance(t, Tensor)]
    if func in _LERPS:  # start + weight * (end - start)
        return [(args[0], factors[0]), factors[1:]] if len(factors) == 2 else []
    return [(t,) for t in factors]


class Functions:
    """Follows whether a forward pass is inside of the ``forward`` of an autograd.Function.

    Torch switches gradients off there by itself, which no mode sees; it sees whoever else does.
    ``outermost`` is the code that the forward pass began with.
    """

    def __init__(self, outermost: CodeType) -> None:
        self._outermost = outermost
        self._recording = True  # what it would be if only Python code had switched it
        self.inside = self.finished = False

    def finish(self) -> None:
        """Says that the forward pass is over; what a checkpoint repeats comes later."""
        self.finished, self.inside = True, False

    def follow(self, func: Callable[..., Any], args: Args) -> None:
        """Is told of every call."""
        if self.finished:
            return
        if set_grad_enabled is None:
            off = not torch.is_grad_enabled()
            self.inside = off and inside_function(self._outermost)
            return
        if torch.is_grad_enabled():
            if not self._recording:
                self._recording, self.inside = True, False
        elif self._recording and not torch.is_inference_mode_enabled():
            self._recording, self.inside = False, True
        if func is set_grad_enabled and args:
            self._recording = bool(args[0])
