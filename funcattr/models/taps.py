"""Taps: a layer's activation seen, and put in the reach of a derivative, without a hook."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..core.edges import EDGES
from ..core.graph import new_key, note_writes, refuse_writes
from ..core.layout import beside, twin
from ..core.levels import compiling, depth
from ..core.private import is_view, share_memory, version
from ..core.trees import leaves, pack
from ..errors import LayerError, fused
from ..operations.behind import overwrite
from ..operations.operation import Args, Kwargs
from .copies import Forward, Wraps
from .hooked import behind_hooks
from .layer import Tapped
from .readers import Readers

# (layer, call, tensors) -> the tensors to go on with; the call is None where it is a repetition
Visit = Callable[[int, int | None, Sequence[Tensor]], Sequence[Tensor]]


class Taps:
    """Lets ``visit`` see, and replace, what goes out of (or into) layers.

    A layer may write to its input, say so or not. What goes out of it is then in the place of its
    input, too, where others read it; what went into it is what was there before.

    ``marks`` says that ``visit`` returns others than it gets.

    After the forward pass `check` raises where a layer never ran. A checkpoint may run layers again
    later, where ``visit`` has to do as before, and note nothing.
    """

    def __init__(
        self, layers: Sequence[Tapped], at_input: bool, visit: Visit, *, marks: bool
    ) -> None:
        self.layers, self.at_input, self.visit, self.marks = layers, at_input, visit, marks
        self.calls = [0] * len(layers)
        self._depth = 0
        #: Is told what stands in the place of what.
        self.replaced: Callable[[Tensor, Tensor], None] = lambda old, new: None
        #: Is told what stands for a layer's output wherever it is read later, kept aside or not.
        self.stands: Callable[[Tensor, Tensor], None] = lambda old, new: None
        #: What goes on in the place of embeddings, which integers cannot be differentiated by.
        self.embedded: Callable[[Tensor], Tensor] | None = None
        self._readers = Readers()
        self._again = False
        # Pairs of what a layer got and its output, where that is a view of it, with how often each
        # was written to by then. What stands in the place of the output is no view.
        self._views: list[tuple[int, Tensor, int, Tensor, int]] = []
        # What must not be written to later, in traced code, and what to say then.
        self._noted: list[tuple[Tensor, str, str]] = []
        # What is itself the place of a derivative, and how often it was written to.
        self._places: list[tuple[int, Tensor, int]] = []

    def wraps(self) -> Wraps:
        """For `functional.call`, under the transforms that are under way now."""
        self._depth = depth()
        return [(tap.module, self._wrap(i)) for i, tap in enumerate(self.layers)]

    def _wrap(self, i: int) -> Callable[[Forward], Forward]:
        around = self._around_input if self.at_input else self._around_output

        def wrap(forward: Forward) -> Forward:
            return lambda *args, **kwargs: around(i, forward, args, kwargs)

        tap = self.layers[i]
        return wrap if self.at_input else behind_hooks(wrap, tap.module, tap.name)

    def _visited(self, i: int, tensors: Sequence[Tensor], whole: Any) -> list[Tensor]:
        floats = [n for n, t in enumerate(tensors) if t.is_floating_point() or t.is_complex()]
        place = f"the {'input' if self.at_input else 'output'} of layer {self.layers[i].name!r}"
        if depth() != self._depth and not self._again:
            raise LayerError(
                f"{place} is made inside of a transform of torch.func that the model makes (vmap, "
                "grad), as another tensor for each example or level. Explain a layer outside of it."
            )
        if not floats:
            came = ", ".join(str(t.dtype) for t in tensors) or type(whole).__name__
            raise LayerError(f"{place} holds no float tensor to explain; it is {came}.")
        sparse = [tensors[n].layout for n in floats if tensors[n].layout is not torch.strided]
        if sparse:
            raise LayerError(
                f"{place} holds a tensor of layout {sparse[0]}, of which there is no map; explain "
                "another layer, or what goes out of the one before."
            )
        call = None if self._again else self.calls[i]
        self.calls[i] += 1
        new = list(tensors)
        for n, tensor in zip(floats, self.visit(i, call, [tensors[n] for n in floats])):
            self.replaced(new[n], tensor)
            new[n] = tensor
        return new

    def _around_output(self, i: int, forward: Forward, args: Args, kwargs: Kwargs) -> Any:
        if not self.marks:
            out = forward(*args, **kwargs)
            self._visited(i, pack(out)[0], out)
            return out
        if compiling():
            return self._traced_output(i, forward, args, kwargs)
        given = [t for t in leaves((args, kwargs)) if isinstance(t, Tensor)]
        # What it saves for its backward must stay as it is when its output is put in that place.
        taken = [twin(t) if is_view(t) else t.clone() for t in given]
        stands = dict(zip(map(id, given), taken))
        args, kwargs = tree_map(lambda v: stands.get(id(v), v), (args, kwargs))
        before = list(map(version, taken))
        out = forward(*args, **kwargs)
        outs, unpack = pack(out)
        new = self._visited(i, outs, out)
        for old, own, count in zip(given, taken, before):
            where = [n for n, t in enumerate(outs) if t is own]
            if version(own) == count:
                shared = [new[n] for n, t in enumerate(outs) if share_memory(t, own)]
                if shared and not self._again:
                    self._views += [(i, old, version(old), t, version(t)) for t in shared]
            else:
                overwrite(old, new[where[0]] if where else own)
                for n in where:
                    new[n] = old
        for t, other in zip(outs, new):
            self.stands(t, other)
        return unpack(new)

    def _around_input(self, i: int, forward: Forward, args: Args, kwargs: Kwargs) -> Any:
        given, unpack = pack((args, kwargs))
        early = self._readers.read(given)
        new = self._visited(i, given, (args, kwargs))
        if compiling():
            return self._guarded(i, given, lambda: forward(*args, **kwargs))
        aside = self._aside(given, new)
        before = list(map(version, new))
        if self.marks and not EDGES and not self._again:
            own = [a for a, b in zip(given, new) if a is b and a.requires_grad]
            self._places += [(i, t, version(t)) for t in own]
        replaced = [a for a, b in zip(given, new) if a is not b]
        if replaced:
            args, kwargs = unpack(new)
        # Beside a tensor that depends on the input, others are masks and their kin.
        if self.marks and not self._again and not any([t.requires_grad for t in given]):
            self._readers.replaced(replaced, (i, self.calls[i] - 1), early)
        out = forward(*args, **kwargs)
        written = [n for n, count in enumerate(before) if version(new[n]) != count]
        changed = {*written, *aside}
        outs, unpack = pack(out) if changed else ([], pack)
        for n in changed:
            if n in written and new[n] is not given[n]:
                overwrite(beside(given[n]), new[n])
            elif n in aside and not self._again:
                self._places.append((i, given[n], version(given[n])))
            if new[n] is not given[n]:
                outs = [given[n] if t is new[n] else t for t in outs]
            if n in aside and not self._again:
                views = [t for t in outs if t is not given[n] and share_memory(t, new[n])]
                self._views += [(i, given[n], version(given[n]), t, version(t)) for t in views]
        return unpack(outs) if changed else out

    def _aside(self, given: Sequence[Tensor], new: list[Tensor]) -> list[int]:
        """Which of a layer's inputs it gets as copies: views, whose nodes are explained.

        Written to, a view has another node, which goes round the one that it had.
        """
        if not self.marks or not EDGES:
            return []
        found = []
        for n, t in enumerate(given):
            if new[n] is t and t.requires_grad and is_view(t):
                found.append(n)
                new[n] = twin(t)
                self.replaced(t, new[n])
        return found

    def _traced_output(self, i: int, forward: Forward, args: Args, kwargs: Kwargs) -> Any:
        """`_around_output` in code that is compiled, which has no count of writes."""
        if self.layers[i].writes and args:
            out = forward(args[0].clone(), *args[1:], **kwargs)
            outs, unpack = pack(out)
            return args[0].copy_(unpack(self._visited(i, outs, out)))
        given = pack((args, kwargs))[0]
        out = self._guarded(i, given, lambda: forward(*args, **kwargs))
        outs, unpack = pack(out)
        new = self._visited(i, outs, out)
        for a, b, own in [(a, b, own) for a in given for b, own in zip(outs, new)]:
            for t in (a, own):
                self._noted.append((t, new_key(), _VIEW.format(self.layers[i].name)))
                note_writes(t, self._noted[-1][1], a, b)
        for t, other in zip(outs, new):
            self.stands(t, other)
        return unpack(new)

    def _guarded(self, i: int, given: Sequence[Tensor], forward: Callable[[], Any]) -> Any:
        """What ``forward`` returns, in traced code, where it must not write to its input."""
        name, keys = self.layers[i].name, [new_key() for _ in given]
        for t, key in zip(given, keys):
            note_writes(t, key)
        out = forward()
        outs = pack(out)[0]
        way = "explain the output of the layer before it" if self.at_input else "set inplace = True"
        for t, key in zip(given, keys):
            if self.at_input or any([o is t for o in outs]):
                refuse_writes(t, key, _OWN.format(name, way), True)
            if self.at_input:
                self._noted.append((t, key, _LATER.format(name)))
        return out

    def watch(self, used: Any, func: Callable[..., Any] | None = None) -> None:
        """Is shown what each call gets, and what the model returns.

        Raises where a tensor is used that should have been written to as a view of another.
        """
        if self.at_input:
            self._readers.note(used, func)
        for i, a, count_a, b, count_b in self._views:
            stale = [t for t, w in ((a, version(b) != count_b), (b, version(a) != count_a)) if w]
            tensors = [t for t in leaves(used) if isinstance(t, Tensor)] if stale else []
            if any([share_memory(t, s) for t in tensors for s in stale]):
                raise LayerError(
                    f"layer {self.layers[i].name!r} gives a view of its own input, the model then "
                    "writes to one of both, and goes on with the other, which cannot be followed. "
                    "Choose the layer before or behind it."
                )

    def check(self, escaped: bool = False, fused_at: Sequence[str] = ()) -> list[int]:
        """The number of the call that each layer stands for.

        ``escaped`` says that modules of the model ran by references that cannot be followed, and
        ``fused_at`` in which attention was one call.
        """
        for t, key, why in self._noted:
            refuse_writes(t, key, why, True)
        for i, t, count in self._places:
            if version(t) != count:
                how = "a view, which the model" if EDGES else "what the layer or the model"
                raise LayerError(
                    f"what goes into layer {self.layers[i].name!r} is {how} writes to later, and "
                    f"torch{'' if EDGES else ' before 2.1'} then has no place for its derivative; "
                    "explain the output of the layer before it."
                )
        chosen = []
        for tap, calls in zip(self.layers, self.calls):
            if calls == 0 and escaped:
                raise LayerError(
                    f"layer {tap.name!r} exists, and was not called as an attribute of the model; "
                    "this one calls modules by other references, which cannot be followed (a "
                    "closure of a C function, say). Choose a layer that is called by its attribute."
                )
            if calls == 0:
                raise LayerError(
                    f"layer {tap.name!r} exists, but this forward pass never calls it. "
                    "Choose a layer that runs (a module that is only a container does not)."
                    + fused([p for p in fused_at if _within(tap.name, p)])
                )
            if tap.occurrence >= calls:
                raise LayerError(
                    f"layer {tap.name!r} is called {calls} time{'s' if calls > 1 else ''}; "
                    f"{tap.name}:{tap.occurrence} "
                    f"does not exist, the last is {tap.name}:{calls - 1}."
                )
            chosen.append(calls - 1 if tap.occurrence < 0 else tap.occurrence)
            if (len(chosen) - 1, chosen[-1]) in self._readers.elsewhere:
                raise LayerError(
                    f"what goes into layer {tap.name!r} does not depend on the input, and is read "
                    "in other places as well, which its derivative would miss. Explain the output "
                    "of the layer that it comes from, or an input that it depends on."
                )
        self._again, self._views, self._places, self._noted = True, [], [], []
        return chosen


_WAY = "call the attribution without torch.compile."
_OWN = "layer {!r} writes to its own input, which compiled code cannot follow; {}, or " + _WAY
_LATER = (
    "the model writes to what goes into layer {!r} later, which compiled code cannot follow; "
    "explain the output of the layer before it, or " + _WAY
)
_VIEW = (
    "layer {!r} gives a view of its own input (or that itself), and the model writes to one of "
    "both, which compiled code cannot follow; choose the layer before or behind it, or " + _WAY
)


def _within(name: str, path: str) -> bool:
    """Whether a layer is a part of the module at ``path``."""
    return name.startswith(f"{path}.") or name.rpartition(".")[0] == path
