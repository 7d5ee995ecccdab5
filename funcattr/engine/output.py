"""Which part of an output is meant: `Output`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import ArgumentError, nearest
from ..models.functional import Inside, call
from ..operations.operation import Args, Kwargs

# The key or attribute, the place, or a function of the output.
Part = str | int | Callable[[Any], Any]


def check_part(part: Any) -> None:
    """Raises where ``part`` cannot name a part of an output."""
    if isinstance(part, bool) or not (isinstance(part, (str, int)) or callable(part)):
        raise ArgumentError(
            "output names the part of the output that is explained: a key or attribute "
            f"('logits'), a place (0), or a function of the output; got {part!r}."
        )


@dataclass(eq=False)
class Output(Inside):
    """A function that returns a part of what another returns."""

    func: Callable[..., Any]
    part: Part

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _part(self.func(*args, **kwargs), self.part)

    def call(self, args: Args, kwargs: Kwargs, **how: Any) -> Any:
        return _part(call(self.func, args, kwargs, **how), self.part)


def _part(out: Any, part: Part) -> Any:
    if callable(part):
        return part(out)
    if isinstance(out, Tensor):
        raise ArgumentError(
            f"output={part!r} names a part of a dict, a tuple or an output object, and the output "
            f"is a tensor of shape {tuple(out.shape)} by itself; leave it out, and say by target "
            "what is explained."
        )
    try:
        if isinstance(part, int) or isinstance(out, Mapping):
            return out[part]
        return getattr(out, part)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ArgumentError(
            f"the output, a {type(out).__name__}, has no {part!r}; it has {_names(out)}."
            f"{nearest(str(part), _named(out))}"
        ) from None


def _named(out: Any) -> list[str]:
    if isinstance(out, Mapping):
        return [str(key) for key in out]
    return list(getattr(out, "_fields", ())) or list(getattr(out, "__dict__", ()))


def _names(out: Any) -> str:
    if isinstance(out, (tuple, list)) and not _named(out):
        return f"{len(out)} of them"
    return ", ".join(map(repr, _named(out))) or "no parts"
