"""Functions of torch's that are written in Python, of which a mode sees but the one call."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch.nn.functional as F

_CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def _opened(*functions: Any) -> Iterator[tuple[Callable[..., Any], Callable[..., Any]]]:
    """Each function with its own body, which does not hand the whole call to a mode.

    One that torch has written in another way is left as it is; what it hides is then refused.
    """
    for f in functions:
        code = getattr(f, "__code__", None)
        checks = [name for name in _CHECKS if code is not None and name in code.co_names]
        if checks and code is not None:
            names = {**f.__globals__, **dict.fromkeys(checks, lambda *tensors: False)}
            body = types.FunctionType(code, names, f.__name__, f.__defaults__)
            body.__kwdefaults__ = f.__kwdefaults__
            yield f, body


#: What to call in their place, under the mode, which then sees the calls that they make.
OPENED: Mapping[Callable[..., Any], Callable[..., Any]] = dict(
    _opened(
        *(F.multi_head_attention_forward, F.normalize, F.local_response_norm),
        *(F.softmin, F.gumbel_softmax),
    )
)
