"""Which torch functions are operations of which kind: one line per file of kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..operation import Args, Kwargs, Recognise
from . import (
    activation,
    convolution,
    group_norm,
    linear,
    norm,
    outcome,
    padding,
    pooling,
    products,
    transposed,
)
from .others.operators import function_of
from .outcome import spelled
from .transformer import attention, layer_norm

_GROUPS: Mapping[str, Mapping[Callable[..., Any], Recognise]] = {
    "activation": activation.CALLS,
    "convolution": {**convolution.CALLS, **transposed.CALLS},
    "linear": {**linear.CALLS, **products.CALLS},
    "norm": {**norm.CALLS, **layer_norm.CALLS},
    "group_norm": group_norm.CALLS,
    "max_pool": pooling.CALLS,
    "mean": {**pooling.MEANS, **outcome.MEANS},
    "sum": outcome.SUMS,
    "product": outcome.PRODUCTS,
    "pad": padding.CALLS,
    "attention": attention.CALLS,
    "softmax": attention.SOFTMAXES,
}

#: How a call of a torch function is taken apart.
CALLS = {func: recognise for calls in _GROUPS.values() for func, recognise in calls.items()}
#: The group of kinds that a torch function belongs to.
GROUP_OF = {func: group for group, calls in _GROUPS.items() for func in calls}
#: The kinds that a row of a composite can name, with the group that each belongs to.
KINDS = {group: group for group in _GROUPS} | dict.fromkeys(
    ("relu", *activation.ACTIVATIONS), "activation"
)
KINDS |= {"matmul": "linear", "deviation": "deviation", "elementwise": "elementwise"}
KINDS |= dict.fromkeys(("batch_norm", "layer_norm", "rms_norm"), "norm")

#: Copies, of which all is known that is of what they are copies of.
CLONES = spelled("clone")
#: The functions whose tensors `Recognise` takes by their place, and how these are called.
_ORDER: Mapping[Callable[..., Any], tuple[str, ...]] = {
    **dict.fromkeys((*outcome.SUMS, *outcome.PRODUCTS, *outcome.MEANS), ("input", "other")),
    **dict.fromkeys(spelled("matmul", "inner", "kron", "vdot"), ("input", "other")),
    **dict.fromkeys(spelled("mm", "bmm"), ("input", "mat2")),
    **dict.fromkeys(spelled("outer", "ger"), ("input", "vec2")),
    **dict.fromkeys(spelled("lerp"), ("input", "end", "weight")),
    **dict.fromkeys(spelled("addcmul"), ("input", "tensor1", "tensor2")),
    **dict.fromkeys(spelled("grid_sample"), ("input", "grid")),
    **dict.fromkeys(spelled("solve", "solve_ex", "solve_triangular"), ("A", "B")),
    **dict.fromkeys(spelled("var", "var_mean"), ("input",)),
    **dict.fromkeys(spelled("mv"), ("input", "vec")),
    **dict.fromkeys(spelled("dot"), ("input", "tensor")),
    **dict.fromkeys(spelled("vecdot"), ("x", "y")),
    **dict.fromkeys(spelled("addmm"), ("input", "mat1", "mat2")),
    **dict.fromkeys(spelled("addmv"), ("input", "mat", "vec")),
    **dict.fromkeys(spelled("addr"), ("input", "vec1", "vec2")),
    **dict.fromkeys(spelled("baddbmm", "addbmm"), ("input", "batch1", "batch2")),
}


def in_order(
    func: Callable[..., Any], args: Args, kwargs: Kwargs
) -> tuple[Callable[..., Any], Args, Kwargs]:
    """A call by the function that an operator is, with tensors that it names in their place."""
    func = function_of(func)
    if "self" in kwargs and not args:  # what operators call their first
        args, kwargs = (kwargs["self"],), {k: v for k, v in kwargs.items() if k != "self"}
    for name in _ORDER.get(func, ())[len(args) :] if kwargs else ():
        if name not in kwargs:
            break
        args = (*args, kwargs[name])
        kwargs = {key: value for key, value in kwargs.items() if key != name}
    return func, args, kwargs
