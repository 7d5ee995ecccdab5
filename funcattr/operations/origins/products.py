"""Functions that multiply what depends on the input, beside those that are operations of a kind.

Some are written as products that have rules, with torch's own value; the others are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.graft import graft
from ...errors import HiddenSiteError
from ..kinds.outcome import spelled
from ..operation import Args, Kwargs

if TYPE_CHECKING:
    from ..intercept import Intercept

Body = Callable[..., Any]


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    kept, gate = x.chunk(2, dim)
    return kept * torch.sigmoid(gate)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out = torch.matmul(x, weight.mT if weight.dim() > 1 else weight)
    return out if bias is None else out + bias


def _dot(a: Tensor, b: Tensor, *, dim: int = -1) -> Tensor:
    return (a * b).sum(dim)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    if not (a.dim() and b.dim()):
        return a * b
    out: Tensor = torch.tensordot(a, b, dims=([-1], [-1]))
    return out


def _cosine(a: Tensor, b: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    shape = torch.broadcast_shapes(a.shape, b.shape)  # of which the lengths are
    a, b = a.expand(shape), b.expand(shape)
    a, b = (t / t.norm(dim=dim, keepdim=True).clamp(min=eps) for t in (a, b))
    return (a * b).sum(dim)


def _plus(multiply: Body) -> Body:
    def body(x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        out: Tensor = beta * x + alpha * multiply(a, b)
        return out

    return body


def _times(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b[:, None])[:, 0]


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a[:, None] * b[None]


def _addcmul(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    return x + value * (a * b)


def _lerp(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    return start + weight * (end - start)


_BODIES: Mapping[Any, tuple[tuple[str, ...], int]] = {
    _linear: (("linear",), 0),
    _dot: (("dot", "vdot", "vecdot"), 0),
    _inner: (("inner",), 0),
    _times: (("mv",), 0),
    _outer: (("outer", "ger"), 0),
    _plus(torch.matmul): (("addmm", "baddbmm"), 1),
    _plus(lambda a, b: (a @ b).sum(0)): (("addbmm",), 1),
    _plus(_times): (("addmv",), 1),
    _plus(_outer): (("addr",), 1),
    _addcmul: (("addcmul",), 1),
    _lerp: (("lerp",), 1),
}
#: How functions are written, and from which argument on they multiply.
_WRITTEN = {f: (body, at) for body, (names, at) in _BODIES.items() for f in spelled(*names)}
_ALONE: Mapping[Body, Body] = {
    F.glu: _glu,
    F.cosine_similarity: _cosine,
    torch.cosine_similarity: _cosine,
}
_EINSUMS = spelled("einsum")
_CONVOLUTIONS = [f"{name}{dims}d" for name in ("conv", "conv_transpose") for dims in (1, 2, 3)]
#: What has no rule where several of its tensors depend on the input.
_WITHOUT = spelled(
    *("bilinear", "cross", "kron", "chain_matmul", "multi_dot", "cdist"),
    *("prelu", "xlogy", "xlogy_", "xlog1py", "ldexp", "ldexp_", "__rpow__"),
    *("pow", "pow_", "__pow__", "__ipow__", "float_power", "float_power_"),
    *("trapz", "trapezoid", "cumulative_trapezoid"),
    *_CONVOLUTIONS,
)
_PLACED = spelled("addmm_", "baddbmm_", "addbmm_", "addmv_", "addr_", "addcmul_")
#: What has none where any does: products, and functions of whole matrices.
_OF_ONE = spelled(
    *("prod", "cumprod", "cumprod_", "std_mean", "cov", "corrcoef", "polar", "renorm", "renorm_"),
    *("mse_loss", "smooth_l1_loss", "huber_loss", "cosine_embedding_loss", "gaussian_nll_loss"),
    *("kl_div", "det", "logdet", "slogdet", "inverse", "inv", "inv_ex", "pinverse", "pinv"),
    *("cholesky", "cholesky_ex", "cholesky_inverse", "matrix_power", "matrix_exp", "tensorinv"),
    *("lu", "lu_factor", "lu_factor_ex", "qr", "geqrf", "householder_product", "vander", "cond"),
    *("eig", "eigh", "eigvals", "eigvalsh", "svd", "svdvals", "svd_lowrank", "pca_lowrank"),
)
#: What is linear in one of its arguments alone, by the place of that.
_LINEAR_IN = {
    **dict.fromkeys(spelled("solve", "solve_ex", "solve_triangular", "tensorsolve", "lstsq"), 1),
    **dict.fromkeys(spelled("cholesky_solve", "triangular_solve", "stft", "istft"), 0),
    **dict.fromkeys((torch.lu_solve, torch.Tensor.lu_solve, F.grid_sample, torch.grid_sampler), 0),
    **dict.fromkeys(spelled("grid_sampler_2d", "grid_sampler_3d"), 0),
    **dict.fromkeys((torch.linalg.lu_solve, *spelled("ormqr")), 2),
}
#: What reduces by a product, if that is said.
_REDUCTIONS = spelled(
    *("scatter", "scatter_", "scatter_reduce", "scatter_reduce_", "segment_reduce"),
    *("index_reduce", "index_reduce_"),
)


def flat(args: Args) -> list[Any]:
    """The arguments, with those in lists by themselves."""
    lists = (list, tuple)
    return [t for a in args for t in (a if isinstance(a, lists) else (a,))]


def as_products(
    mode: Intercept, func: Callable[..., Any], args: Args, kwargs: Kwargs
) -> tuple[Tensor, Tensor] | None:
    """What a call returns, and the same as products that have rules; None where it is no such call.

    Raises:
        HiddenSiteError: it multiplies what depends on the input, in a way that no rule knows.
    """
    if func in _ALONE and mode.groups.issuperset(("product", "deviation")):
        return _both(mode, func, _ALONE[func], args, kwargs)
    body, first = _WRITTEN.get(func, (None, 0))
    if body is not None and sum(map(mode.depends, args[first : first + 2])) == 2:
        return _both(mode, func, body, args, kwargs)
    if mode.strict and "product" in mode.groups:
        _refuse(mode, func, args, kwargs)
    return None


def _both(
    mode: Intercept, func: Callable[..., Any], body: Body, args: Args, kwargs: Kwargs
) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        value = func(*args, **kwargs)
    with mode:
        written = body(*args, **{k: v for k, v in kwargs.items() if v is not None})
    return graft(value, written), written


#: All of these.
_LOOKED_AT = frozenset((*_WITHOUT, *_PLACED, *_OF_ONE, *_LINEAR_IN, *_REDUCTIONS, *_EINSUMS))


def _several(mode: Intercept, func: Callable[..., Any], args: Args, kwargs: Kwargs) -> bool:
    """Whether a call multiplies what depends on the input, in a way that no rule knows."""
    if func not in _LOOKED_AT or (func in _EINSUMS and len(args) <= 3):
        return False
    given, named = flat(args), flat(tuple(kwargs.values()))
    if func in _LINEAR_IN:
        place = _LINEAR_IN[func]
        return any(map(mode.depends, (*args[:place], *args[place + 1 :], *named)))
    if func in _REDUCTIONS:
        words = [v for v in (*given, *named) if isinstance(v, str)]
        return bool({"prod", "multiply"}.intersection(words)) and any(map(mode.depends, given))
    factors = (*given[func in _PLACED :], *named)
    return sum(map(mode.depends, factors)) > (0 if func in _OF_ONE else 1)


def _refuse(mode: Intercept, func: Callable[..., Any], args: Args, kwargs: Kwargs) -> None:
    if _several(mode, func, args, kwargs):
        where = f" at {mode.where!r}" if mode.where else ""
        raise HiddenSiteError(
            f"{func.__name__}{where} multiplies, or divides by, numbers that depend on the input, "
            "and no rule knows their parts. Write it by torch.matmul, an einsum of two, * or std, "
            "or pass require_match=False to let relevance pass it by its true derivative."
        )


_IN_PYTHON = (
    (torch.Tensor.__pow__, torch.pow),
    (torch.Tensor.__rsub__, torch.rsub),
    (torch.Tensor.norm, torch.norm),
    (torch.Tensor.unflatten, torch.unflatten),
)


def built_in(func: Callable[..., Any]) -> Callable[..., Any]:
    """The same, built in: the compiler fails to look up methods that are written in Python."""
    for one, other in _IN_PYTHON:
        if func is one:
            return other
    return func


def unlisted(func: Callable[..., Any], args: Args) -> Args:
    """The arguments of an einsum, whose tensors may come in a list."""
    several: Sequence[Any] = args[1] if func in _EINSUMS and len(args) == 2 else ()
    return (args[0], *several) if isinstance(several, (list, tuple)) and several else args
