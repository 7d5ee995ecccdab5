"""Calls of torch functions that become sites of linear operations, or of max pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _layout
from ._convolution import Convolution, Folded
from ._linear import Linear, LinearSite, Mean, Norm, Pad, Shape
from ._max_pool import MaxPool
from ._scope import Replay, Scope, Token, applied, compiling, is_raw, transforming

Call = Callable[..., Any]
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


OPS: Mapping[str, Callable[..., Linear]] = {
    "convolution": Convolution,
    "norm": Norm,
    "mean": Mean,
    "pad": Pad,
}


def linear(
    name: str,
    options: tuple[Any, ...],
    *tensors: Tensor | None,
    scope: Scope | None = None,
    kept: Tensor | None = None,
) -> Tensor:
    """The output of a fresh site, asked for in tensors and constants (in a graph, those alone)."""
    op, token = OPS[name](*options), Token(0, scope)
    return applied(LinearSite, scope, op, token, kept, *tensors)  # type: ignore[no-any-return]


def _named(defaults: Kwargs, args: Args, kwargs: Kwargs) -> Kwargs:
    return {**defaults, **dict(zip(defaults, args)), **kwargs}


def _left_alone(*tensors: Tensor | None) -> bool:
    """Whether a call has to do with no derivative, or is a site's own."""
    if not compiling() and is_raw():
        return True
    return not all(t is None or t.is_floating_point() for t in tensors)


def _per_dim(value: Any, dims: int) -> Shape:
    values = (int(value),) if hasattr(value, "__index__") else tuple(value)
    return values * dims if len(values) == 1 else values


def _site(
    name: str, options: tuple[Any, ...], scope: Scope | None, replay: Replay | None, *tensors: Any
) -> Tensor:
    if compiling():
        # Imported while the compiler traces, since it imports the compiler (about a second).
        from ._graph import linear_in_graph

        kept = None if replay is None else replay.next()
        return linear_in_graph(name, options, *tensors, kept=kept)  # type: ignore[no-any-return]
    if scope is not None and scope.record is not None:
        x, *rest = tensors
        scope.note(OPS[name](*options).prepared(_layout.suits(x), *rest))
    return _written_to(linear(name, options, *tensors, scope=scope), scope)


def _written_to(out: Tensor, scope: Scope | None) -> Tensor:
    """``out``, fit for what the model may write to it.

    Under ``torch.vmap``, and for subclasses of tensors, it can be a view that a Function returned,
    which torch, or old versions of it, let nobody write to.
    """
    return out if scope is not None and scope.alone and type(out) is Tensor else out.clone()


_DIMS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_CONV_ARGS = dict.fromkeys(("input", "weight", "bias"))
_CONV_ARGS |= {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}


def _convolution(
    func: Call, args: Args, kwargs: Kwargs, scope: Scope | None, replay: Replay | None
) -> Any:
    named = _named(_CONV_ARGS, args, kwargs)
    tensors = [named[name] for name in ("input", "weight", "bias")]
    if isinstance(named["padding"], str) or _left_alone(*tensors):
        return func(*args, **kwargs)
    dims = _DIMS[func]
    stride, padding, dilation = (
        _per_dim(named[name], dims) for name in ("stride", "padding", "dilation")
    )
    options = (stride, padding, dilation, named["groups"])
    out = _site("convolution", options, scope, replay, *tensors)
    if scope is not None and scope.folds and scope.record is None:
        scope.convolved = _Convolved.of(out, options, *tensors)
    return out


class _Convolved(NamedTuple):
    """A convolution whose output may be on its way to a batch norm."""

    out: Tensor
    x: Tensor
    weight: Tensor
    options: tuple[Shape, Shape, Shape, int]
    versions: tuple[int, ...]

    @classmethod
    def of(
        cls,
        out: Tensor,
        options: tuple[Shape, Shape, Shape, int],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> _Convolved | None:
        """That of this convolution, where only its input is differentiated, and only once."""
        own = weight.requires_grad or (bias is not None and bias.requires_grad)
        whole = x.dim() == len(options[0]) + 2
        if own or not (whole and x.requires_grad and out.requires_grad) or transforming():
            return None
        return cls(out, x, weight, options, (out._version, x._version, weight._version))

    def folded(self, scope: Scope, eps: float, *tensors: Tensor) -> Tensor | None:
        """The output of both, if the batch norm is of just that output."""
        out, x = tensors[0], self.x
        if out is not self.out or not out.requires_grad or transforming():
            return None
        untouched = (out._version, x._version, self.weight._version) == self.versions
        watched = out._backward_hooks or out.retains_grad
        own = any(t is not None and t.requires_grad for t in tensors[1:])
        if not untouched or watched or own:
            return None
        norm = Norm(eps)
        with torch.no_grad():
            value, scale = norm(*tensors), norm.prepared(False, *tensors[1:])
        op = Folded(*self.options, [value])
        return applied(LinearSite, scope, op, Token(0, scope), None, x, self.weight, scale)  # type: ignore[no-any-return]


_NORM_ARGS = ("input", "running_mean", "running_var", "weight", "bias")
_BATCH_NORM_ARGS = {**dict.fromkeys(_NORM_ARGS), "training": False, "momentum": 0.1, "eps": 1e-5}
_INSTANCE_NORM_ARGS = {
    **dict.fromkeys(_NORM_ARGS),
    "use_input_stats": True,
    "momentum": 0.1,
    "eps": 1e-5,
}


def _batch_norm(
    func: Call, args: Args, kwargs: Kwargs, scope: Scope | None, replay: Replay | None
) -> Any:
    named = _named(_BATCH_NORM_ARGS, args, kwargs)
    if named["training"]:
        if not transforming():
            return func(*args, **kwargs)
        # The output is the same without them, and vmap need not refuse to write to them.
        return func(**{**named, "running_mean": None, "running_var": None})
    tensors = [named[name] for name in _NORM_ARGS]
    if _left_alone(*tensors):
        return func(*args, **kwargs)
    if compiling() and replay is None:
        # The compiler fails on the forward-mode derivative of batch_norm itself.
        return Norm(named["eps"]).written_out(*tensors)
    if scope is not None and scope.convolved is not None:
        convolved, scope.convolved = scope.convolved, None
        folded = convolved.folded(scope, named["eps"], *tensors)
        if folded is not None:
            return folded
    return _site("norm", (named["eps"],), scope, replay, *tensors)


def _instance_norm(
    func: Call, args: Args, kwargs: Kwargs, scope: Scope | None, replay: Replay | None
) -> Any:
    named = _named(_INSTANCE_NORM_ARGS, args, kwargs)
    if named["use_input_stats"] and transforming():  # as for batch norm
        return func(**{**named, "running_mean": None, "running_var": None})
    return func(*args, **kwargs)


_POOL_ARGS = dict.fromkeys(("input", "kernel_size", "stride"))
_POOL_ARGS |= {"padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}


def _max_pool(
    func: Call, args: Args, kwargs: Kwargs, scope: Scope | None, replay: Replay | None
) -> Any:
    named = _named(_POOL_ARGS, args, kwargs)
    x = named["input"]
    native = compiling() and replay is None
    if native or named["return_indices"] or x.dim() != 4 or _left_alone(x):
        return func(*args, **kwargs)
    stride = named["kernel_size"] if named["stride"] is None else named["stride"]
    sizes = (named["kernel_size"], stride, named["padding"], named["dilation"])
    window = (*(_per_dim(size, 2) for size in sizes), named["ceil_mode"])
    if replay is not None:
        from ._graph import max_pool_in_graph

        shape = func(*args, **kwargs).shape  # of what nobody uses, hence left out of the graph
        return max_pool_in_graph(window, replay.next(shape), x)
    out, winners = applied(MaxPool, scope, window, Token(0, scope), None, x)
    if scope is not None and scope.record is not None:
        scope.note(winners)
    return _written_to(out, scope)


_AVG_POOL_ARGS = dict.fromkeys(("input", "kernel_size", "stride"))
_AVG_POOL_ARGS |= {
    "padding": 0,
    "ceil_mode": False,
    "count_include_pad": True,
    "divisor_override": None,
}


def _avg_pool(
    func: Call, args: Args, kwargs: Kwargs, scope: Scope | None, replay: Replay | None
) -> Any:
    named = _named(_AVG_POOL_ARGS, args, kwargs)
    x = named.pop("input")
    if x.dim() != 4 or _left_alone(x):
        return func(*args, **kwargs)
    stride = named["kernel_size"] if named["stride"] is None else named["stride"]
    kernel, stride, padding = (
        _per_dim(size, 2) for size in (named["kernel_size"], stride, named["padding"])
    )
    rest = (named["ceil_mode"], named["count_include_pad"], named["divisor_override"])
    whole = kernel == tuple(x.shape[-2:]) and padding == (0, 0) and rest[2] is None
    return _site("mean", ((kernel, stride, padding, *rest), whole), scope, replay, x)


_ADAPTIVE_ARGS = dict.fromkeys(("input", "output_size"))


def _adaptive_avg_pool(
    func: Call, args: Args, kwargs: Kwargs, scope: Scope | None, replay: Replay | None
) -> Any:
    named = _named(_ADAPTIVE_ARGS, args, kwargs)
    x, sizes = named["input"], _per_dim(named["output_size"], 2)
    if x.dim() != 4 or None in sizes or _left_alone(x):
        return func(*args, **kwargs)
    return _site("mean", ((sizes,), sizes == (1, 1)), scope, replay, x)


_PAD_ARGS = {"input": None, "pad": (), "mode": "constant", "value": None}


def _pad(func: Call, args: Args, kwargs: Kwargs, scope: Scope | None, replay: Replay | None) -> Any:
    named = _named(_PAD_ARGS, args, kwargs)
    x, sizes = named["input"], tuple(named["pad"])
    pictures = x.dim() == 4 and named["mode"] == "constant" and len(sizes) in (2, 4)
    recorded = scope is not None and scope.record is not None
    if compiling() or recorded or not pictures or min(sizes) < 0 or _left_alone(x):
        return func(*args, **kwargs)  # in a graph, the compiler's own is as good
    return _site("pad", ((*sizes, 0, 0)[:4], named["value"] or 0.0), scope, None, x)


LINEAR: Mapping[Call, Callable[[Call, Args, Kwargs, Scope | None, Replay | None], Any]] = {
    **dict.fromkeys(_DIMS, _convolution),
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    F.max_pool2d: _max_pool,
    F.avg_pool2d: _avg_pool,
    F.adaptive_avg_pool2d: _adaptive_avg_pool,
    F.pad: _pad,
}
