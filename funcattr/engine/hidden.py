"""What a rule should have acted on and did not: never in silence."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

import torch
import torch.utils.checkpoint

from ..core.contexts import raw
from ..core.edges import reaches
from ..core.private import OPERATORS
from ..errors import FuncattrError, HiddenSiteError, NoMatchError
from ..models.functional import module_of, takes_parameters
from ..operations.composite import Composite
from ..operations.kinds.activation import ACTIVATIONS
from ..operations.origins.origin import Origins
from ..operations.place import Place

Func = Callable[..., Any]

_WAY_OUT = (
    "Use the Python module in its place (before torch.jit.script or torch.jit.trace), or pass "
    "require_match=False to differentiate through it as it is."
)


def refuse_none(func: Func, composite: Composite, met: int, others: Sequence[str]) -> None:
    """Raises since the forward pass met no operation of the composite's that a gradient reaches."""
    if met:
        error = NoMatchError(
            f"no gradient reaches any of the operations in the forward pass of {_name(func)} that "
            f"the rule is for ({composite.described()}, {met} of them): what is explained is not "
            "computed from them, or only where gradients are switched off "
            "(torch.no_grad, detach). Pass require_match=False to take the plain gradient."
        )
        error.met = True
        raise error
    seen = f"it met {', '.join(sorted(set(others)))}" if others else "it met no activation"
    held = ", where the predicate holds" if composite.asks_for_paths() else ""
    raise NoMatchError(
        f"the forward pass of {_name(func)} met none of the activations that the rule is "
        f"for ({composite.described()}{held}); {seen}. "
        "Name other activations in sites=..., or pass require_match=False to take the plain "
        "gradient. funcattr.sites(func, *args) lists what a forward pass meets."
    )


def refuse_rows(func: Func, composite: Composite) -> None:
    """Raises where a row is for modules that the model does not have."""
    model = module_of(func)
    row = None if model is None else next(composite.unmet(model), None)
    if row is not None:
        raise NoMatchError(
            f"a row of the composite, {row}, is for modules of which this {_name(func)} has none. "
            "Mend its predicate or its class, or pass require_match=False; "
            "funcattr.sites(func, *args) lists the paths of the operations."
        )


def refuse_scripted(parts: Sequence[tuple[str, torch.nn.Module]], composite: Composite) -> None:
    """Raises where a part of the model is TorchScript with an activation of the composite's."""
    for path, module in parts:
        found = [name for name in scripted(module) if composite.names(name, path, True)]
        if found:
            raise HiddenSiteError(
                f"{path or 'the model'!r} is TorchScript and runs its own "
                f"{', '.join(sorted(found))}, where no rule can reach. {_WAY_OUT}"
            )


#: How nodes are called of which nobody knows what they run.
_KERNELS = ("CompiledFunction", "DifferentiableGraph", "GraphedBackward")


def refuse_unseen(func: Func, composite: Composite, graph: Iterable[Any]) -> None:
    """Raises where autograd's graph has an activation of the composite's that is no site.

    Those that a mode sees are sites, which leave a node of their own.
    """
    names = composite.activations
    for node in graph:
        name = node.name()
        if any([kernel in name for kernel in _KERNELS]) or _is_one(node, names):
            raise HiddenSiteError(
                f"the forward pass of {_name(func)} has {name} in autograd's graph, which "
                "no Python call made in this pass: a TorchScript or compiled function, a CUDA "
                "graph, or one of torch's own (lp_pool has a ReLU), where no rule can reach, or "
                "the past of a tensor that is no argument and was not detached. "
                f"{_WAY_OUT}"
            )


def refuse_unseen_pools(func: Func, graph: Iterable[Any]) -> None:
    """Raises where autograd's graph has a max pooling that is no site."""
    for node in graph:
        if "MaxPool" in node.name():
            raise HiddenSiteError(
                f"the forward pass of {_name(func)} has a max pooling in autograd's graph "
                f"({node.name()}) that the rule does not know: an adaptive one, or one that "
                "returns indices. Use torch.nn.functional.max_pool1d, 2d or 3d without."
            )


_PRODUCTS = tuple(
    f"{name}Backward"
    for name in ("Convolution", "Addmm", "Mm", "Bmm", "Baddbmm", "Mv", "GroupedMm", "Dot", "Addmv")
)


def refuse_unseen_products(
    func: Func, composite: Composite, graph: Iterable[Any], roots: Container[tuple[Any, int]]
) -> None:
    """Raises where autograd's graph has a product with a weight that should have had a rule.

    The input's part of the graph goes back to the ``roots``.
    """
    # What is inside of a whole module is its own.
    kinds = set() if composite.classes() else composite.everywhere()
    known: dict[Any, bool] = {}
    hint = ""
    if takes_parameters(func):
        hint = " Where parameters come first, the input is explained by argnums=1."
    for node in graph if kinds else ():
        name = str(node.name()).rstrip("0123456789")
        recurrent = "Rnn" in name and "linear" in kinds
        if not recurrent and name not in _PRODUCTS:
            continue
        kind = "convolution" if name == "ConvolutionBackward" else "linear"
        # Where both factors depend on the input it is no linear operation.
        factors = node.next_functions[:2] if kind == "convolution" else node.next_functions[-2:]
        of_input = [edge in roots or reaches(edge[0], roots, known) for edge in factors]
        linear = kind in kinds and sum(of_input) == 1
        if recurrent or linear:
            raise HiddenSiteError(
                f"the forward pass of {_name(func)} has a {kind} operation in autograd's graph "
                f"({name}) that no call made which a rule can see: inside of TorchScript, a "
                "recurrent layer or an attention kernel. Write it by torch.nn.functional.linear "
                "(conv), or pass require_match=False to let relevance pass it by its true "
                f"derivative.{hint}"
            )


def refuse_norms(func: Func, composite: Composite, number: int, origins: Origins) -> None:
    """Raises where a module that is called a norm has none that the composite would know."""
    if "deviation" not in composite.groups:
        return
    module = module_of(func)
    modules = {} if module is None else dict(module.named_modules())
    for path, called, within in origins.odd:
        kind = type(modules.get(path)).__name__
        inside = any([p == path or p.startswith(f"{path}.") for p in origins.normed])
        if within[number] or inside or not (called or "norm" in kind.lower()):
            continue
        raise HiddenSiteError(
            f"{called or kind} at {path!r} has no norm that a rule can tell from a product: what "
            "it divides by is no standard deviation, root mean square or length. Put a row for it "
            f"in front, Composite([({kind}, rules.pass_through)]) + ..., or pass "
            "require_match=False to let relevance pass it by its parts."
        )


def refuse_kernels(func: Func, composite: Composite, graph: Iterable[Any]) -> None:
    """Raises where an autograd.Function, or a registered operator, may hide attention or a norm."""
    if "attention" not in composite.kinds():
        return
    for node in graph:
        own = getattr(type(node), "_forward_cls", None)
        # Torch makes classes of its own of all Functions that run under a transform, and of the
        # derivatives of operators that others register.
        module = "" if own is None else own.__module__
        registered = module.startswith(OPERATORS)
        if own is None or (module.partition(".")[0] in ("funcattr", "torch") and not registered):
            continue
        raise HiddenSiteError(
            f"the forward pass of {_name(func)} has {node.name()} in autograd's graph, a kernel "
            "with a derivative of its own, which may hide attention or a norm from the rules. "
            'Switch to the plain implementation (attn_implementation="sdpa"), put a row for the '
            "class of the module in front (rules.pass_through), or pass require_match=False to "
            "let relevance pass it by that derivative."
        )


def refuse_checkpoint(error: RuntimeError) -> None:
    """Says what to do where ``error`` comes from a checkpoint, which no transform can run."""
    frames = [
        frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    if torch.utils.checkpoint.__name__ in frames and not isinstance(error, FuncattrError):
        raise FuncattrError(
            "a checkpoint of the model cannot run under torch.vmap, torch.func.grad and their "
            "kin, where torch has no saved-tensor hooks. Switch the model's checkpoints off, or "
            "call the attribution outside of them: funcattr.sweep for many targets, a batch for "
            "many inputs, an x that requires grad for the derivative of a map."
        ) from error


def matched(graph: Iterable[Any], composite: int) -> bool:
    """Whether the graph has a site with a rule of the composite of this number."""
    return any(map(ruled_by(composite), graph))


def ruled_by(composite: int) -> Callable[[Any], bool]:
    """Whether a node of the graph is a site with a rule of this composite.

    Its cotangent goes to the first of its inputs, ``x``; the others are what the rule was made of.
    """

    def ruled(node: Any) -> bool:
        place = getattr(node, "place", None)
        if not isinstance(place, Place) or not place.rules:
            return False
        return place.rules[composite] is not None

    return ruled


def followed_by(composite: int) -> Callable[[Any], Sequence[Any]]:
    """The edges of a node by which the composite of this number gets to the input.

    Those are none that lead to what rules have prepared.
    """
    ruled = ruled_by(composite)

    def edges(node: Any) -> Sequence[Any]:
        inputs: Sequence[Any] = node.next_functions
        place = getattr(node, "place", None)
        if ruled(node):
            return inputs[:1]
        prepared = sum(place.sizes[1:]) if isinstance(place, Place) else 0
        return inputs[: len(inputs) - prepared]

    return edges


def scripted(module: torch.nn.Module) -> list[str]:
    """The activations in the graph of a TorchScript module."""
    if not isinstance(module, torch.jit.ScriptModule):
        return []
    graph = str(module.inlined_graph)
    return [n for n in ACTIVATIONS if f"aten::{n}(" in graph or f"aten::{n}_(" in graph]


def _name(func: Func) -> str:
    return getattr(func, "__name__", None) or type(module_of(func) or func).__name__


def _is_one(node: Any, names: frozenset[str]) -> bool:
    """Whether a node of autograd stands for one of these activations."""
    if node.name() in _nodes(names):
        return True
    clipped = node.name() == "HardtanhBackward0" and getattr(node, "_saved_min_val", None) == 0
    return clipped and "relu6" in names


@functools.cache
def _nodes(names: frozenset[str]) -> frozenset[str]:
    """How autograd names the nodes of activations, asked of autograd itself."""
    # Nobody but torch may see these calls: the pass that asks first may be inside of another.
    return frozenset(raw(_node, name) for name in names)


def _node(name: str) -> str:
    x = torch.zeros(1, requires_grad=True)
    more = {"threshold": (0.0, 0.0), "clamp": (0.0, 1.0), "prelu": (torch.zeros(1),)}
    function = getattr(torch.nn.functional, name, None) or getattr(torch, name)
    with torch.enable_grad():
        return str(function(x, *more.get(name, ())).grad_fn.name())
