"""The kernels of a run by themselves: recorded, and called again without what called them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest import mock

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from funcattr.engine import backward


@dataclass(frozen=True)
class _Made:
    """Stands for the tensor that is this output of this call."""

    call: int
    output: int


class _Call(NamedTuple):
    """A call of an operator of torch, with what stands for tensors that calls have made."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    last: list[int]  # the calls whose outputs nobody reads after this one


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.made: dict[int, _Made] = {}
        self.read: dict[int, int] = {}
        self._alive: list[Tensor] = []  # so that no two have one id

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        number = len(self.calls)

        def noted(t: Tensor) -> Any:
            made = self.made.get(id(t))
            if made is None:
                return t.detach()
            self.read[made.call] = number
            return made

        self.calls.append(_Call(func, *tree_map_only(Tensor, noted, (args, kwargs or {})), []))
        for i, t in enumerate(tree_flatten(out)[0]):
            if isinstance(t, Tensor) and id(t) not in self.made:
                self.made[id(t)] = _Made(number, i)
                self._alive.append(t)
        return out


def replayed(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """``run()`` as the operators that it calls, in its order; what nobody reads is freed."""
    # Below a mode nothing is kept from chunk to chunk, since a mode may see other tensors.
    with mock.patch.object(backward, "below_a_mode", lambda: False), _Recorder() as recorder:
        result = recorder.made[id(run())]
    calls = recorder.calls
    for number in set(range(len(calls))) - {result.call}:
        calls[recorder.read.get(number, number)].last.append(number)

    def replay() -> Tensor:
        outs: dict[int, list[Any]] = {}

        def got(value: Any) -> Any:
            if isinstance(value, _Made):
                return outs[value.call][value.output]
            return [got(each) for each in value] if isinstance(value, list) else value

        for number, call in enumerate(calls):
            kwargs = {name: got(value) for name, value in call.kwargs.items()}
            out = call.func(*map(got, call.args), **kwargs)
            outs[number] = [out] if isinstance(out, Tensor) else tree_flatten(out)[0]
            for read in call.last:
                del outs[read]
        return outs[result.call][result.output]

    return replay
