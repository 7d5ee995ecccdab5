"""The errors: one type per cause, each also the builtin that fits."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

_F = TypeVar("_F", bound=Callable[..., Any])


class FuncattrError(Exception):
    """Base of every error that funcattr raises on purpose.

    >>> import torch
    >>> import funcattr as fa
    >>> try:
    ...     fa.gradient(torch.nn.Linear(3, 2))(torch.ones(1, 3), target=5)
    ... except fa.FuncattrError as error:
    ...     print(type(error).__name__)
    TargetError
    """


class ArgumentError(FuncattrError, ValueError, TypeError):
    """An argument that a method cannot work with: its type, dtype, range or name.

    >>> import funcattr as fa
    >>> fa.gradient("model")
    Traceback (most recent call last):
        ...
    funcattr.errors.ArgumentError: func is a function, a module or the f of make_functional; got ...
    """


class NoSiteError(FuncattrError, ValueError):
    """A rule does not act where it should: `NoMatchError` or `HiddenSiteError`.

    >>> import torch
    >>> import funcattr as fa
    >>> fa.guided_backprop(torch.nn.Linear(3, 2))(torch.ones(1, 3), target=0)
    Traceback (most recent call last):
        ...
    funcattr.errors.NoMatchError: the forward pass of Linear met none of the activations ...
    """


class NoMatchError(NoSiteError):
    """A forward pass met no operation that a rule is for, or none that a gradient reaches.

    ``met`` says whether it is the latter.
    """

    met = False


class HiddenSiteError(NoSiteError):
    """A forward pass ran an operation that a rule is for where no rule can reach it."""


class TargetError(FuncattrError, ValueError, IndexError):
    """A target that does not fit the model's output.

    >>> import torch
    >>> import funcattr as fa
    >>> fa.gradient(torch.nn.Linear(3, 2))(torch.ones(1, 3), target=5)
    Traceback (most recent call last):
        ...
    funcattr.errors.TargetError: an index into dim 1 of the output, of shape (1, 2), ...
    """


class LayerError(FuncattrError, ValueError, LookupError):
    """A layer that does not exist, never runs, or does not give a float tensor.

    >>> import torch
    >>> import funcattr as fa
    >>> fa.grad_cam(torch.nn.Sequential(torch.nn.Linear(3, 2)), "1")
    Traceback (most recent call last):
        ...
    funcattr.errors.LayerError: ...
    """


class StoreError(FuncattrError, OSError):
    """A store of `funcattr.sweep_dataset` that cannot be read or written."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'a', 'b'?`` for the known names closest to ``name``, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {', '.join(map(repr, close))}?" if close else ""


def fused(paths: Sequence[str]) -> str:
    """What to say where attention's weights may be meant, which was one call at these paths."""
    if not paths:
        return ""
    return (
        f" Attention at {paths[-1]!r} is one call (scaled_dot_product_attention), whose weights "
        "are nowhere to be had: have it written out, by attn_implementation='eager' for a model of "
        "transformers, fused_attn=False for a block of timm, need_weights=True for "
        "nn.MultiheadAttention."
    )


def short(value: object) -> str:
    """How a value is shown in an error: its beginning, where it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


#: What a function of the user's raises that funcattr calls in a way that its author did not expect.
MISUSED = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)


def by_keyword(f: _F) -> _F:
    """``f``, which says so where what goes by its keyword is given by its place."""
    code = f.__code__
    places, names = code.co_argcount, code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]

    @functools.wraps(f)
    def called(*args: Any, **kwargs: Any) -> Any:
        if len(args) > places:
            raise ArgumentError(
                f"{f.__name__} takes {', '.join(names)} by their names, as {names[0]}=...; got "
                f"{len(args) - places} more by position, of type {type(args[places]).__name__}."
            )
        return f(*args, **kwargs)

    return cast(_F, called)


def check_flags(**flags: object) -> None:
    """Raises where what is a yes or no is something else."""
    for name, value in flags.items():
        if not isinstance(value, int) and type(value).__name__ not in ("bool_", "bool"):  # numpy's
            raise ArgumentError(f"{name} is True or False; got {short(value)}.")


def uninitialised(name: str) -> ArgumentError:
    """The error of a parameter of a lazy module, which has no values yet."""
    return ArgumentError(f"{name!r} is not initialised yet; run the model once on an input before.")


def first_line(error: BaseException) -> str:
    """The type of an error and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
