"""What attributions are a part of: functions, training steps, targets of one's own, batches."""

from __future__ import annotations

import copy
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import captum.attr
import torch
from torch import Tensor, nn

import funcattr as fa

from . import rivals
from .child import child
from .harness import (
    Case,
    Record,
    Setting,
    check,
    clock,
    interleaved,
    prepare,
    ratios,
    statistics,
)
from .memory import growth
from .networks import inputs, model_of, network

TARGET, TOLERANCE = 3, 1e-3  # of the norm


def timed(
    name: str,
    runs: Mapping[str, Callable[[], Tensor]],
    pairs: list[tuple[str, str]],
    setting: Setting,
    **more: Any,
) -> Record:
    """The record of some ways to one answer, that of the last, in CPU seconds without a GPU."""
    expected = list(runs.values())[-1]()
    checked = check({label: run() for label, run in runs.items()}, expected, TOLERANCE)
    ways = {label: partial(clock(setting), run) for label, run in runs.items()}
    samples = interleaved(ways, setting, allowed=15.0, least=3, most=9)
    found = {"network": name, "checked": checked, "seconds": statistics(samples, setting)}
    return found | {"ratios": ratios(samples, pairs)} | more


def function(setting: Setting) -> Record:
    """A map of a function that calls a trainable model, and of the model itself."""
    model, x = model_of("resnet18", setting.device), inputs("resnet18").to(setting.device)
    made = {"function": fa.guided_backprop(lambda x: model(x)), "module": fa.guided_backprop(model)}
    runs = {label: partial(attr, x, target=TARGET) for label, attr in made.items()}
    return timed("resnet18", runs, [("function", "module")], setting)


def tiny() -> nn.Module:
    """A network of the size of those that a prior is tried on first."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16 * 16, 10)),
    )


def flat(loss: Tensor, weights: list[Tensor]) -> Tensor:
    """The gradient by all weights; 0 by those that it does not depend on, biases most of all."""
    grads = torch.autograd.grad(loss, weights, allow_unused=True)
    return torch.cat(
        [w.new_zeros(w.numel()) if g is None else g.flatten() for g, w in zip(grads, weights)]
    )


def prior(name: str, compiled: bool, setting: Setting) -> Record:
    """The gradient of a guided prior by the weights, and a double backward by hand.

    That of the whole loss would be wrong by hand: its own gradient goes by the guided ReLUs, too.
    """
    torch.compiler.reset()
    model = (tiny() if name == "tiny" else network(name)).eval().to(setting.device)
    size, batch = (32, 16) if name == "tiny" else (224, 1)
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    x, labels = x.to(setting.device), torch.arange(batch, device=setting.device) % 10
    by_hand = rivals.surgery(model).requires_grad_(True)
    f, params = fa.make_functional(model)
    attr = fa.guided_backprop(f, argnums=1)

    def loss(params: dict[str, Tensor]) -> Tensor:
        return attr(params, x, target=labels).square().sum()

    step = torch.compile(loss) if compiled else loss

    def ours(loss: Callable[[dict[str, Tensor]], Tensor]) -> Tensor:
        leaves = {key: p.detach().requires_grad_() for key, p in params.items()}
        return flat(loss(leaves), list(leaves.values()))

    def double_backward() -> Tensor:
        leaf = x.clone().requires_grad_()
        chosen = by_hand(leaf).gather(1, labels[:, None]).sum()
        (maps,) = torch.autograd.grad(chosen, leaf, create_graph=True)
        return flat(maps.square().sum(), list(by_hand.parameters()))

    runs = {"ours": partial(ours, loss), "double backward by hand": double_backward}
    pairs = [("ours", "double backward by hand")]
    if compiled:
        runs = {"ours compiled": partial(ours, step)} | runs
        pairs.append(("ours compiled", "ours"))
    return timed(name, runs, pairs, setting, batch=batch)


def callables(setting: Setting) -> Record:
    """A sweep of 32 different functions of the output, of ints, and of ints of an output object."""
    model, x = model_of("resnet18", setting.device), inputs("resnet18").to(setting.device)
    attr = fa.guided_backprop(model)
    boxed = fa.guided_backprop(lambda x: {"logits": model(x)}, output=lambda out: out["logits"])
    own = [lambda out, t=t: out[:, t] for t in range(32)]
    sweep = partial(fa.sweep, chunk_size="auto")
    runs = {
        "callables": partial(sweep, attr, x, targets=own),
        "of an object": partial(sweep, boxed, x, targets=range(32)),
        "ints": partial(sweep, attr, x, targets=range(32)),
    }
    pairs = [("callables", "ints"), ("of an object", "ints")]
    return timed("resnet18", runs, pairs, setting, targets=32)


def batch_runs(batch: int, targets: int, device: str) -> dict[str, Callable[[], Tensor]]:
    """Ours and Captum's: maps ``[K, B, ...]`` of targets that each example has of its own."""
    model, x = model_of("resnet18", device), inputs("resnet18", batch).to(device)
    own = torch.arange(targets, device=device)[:, None] + torch.arange(batch, device=device)
    attr = fa.guided_backprop(model)
    theirs = copy.deepcopy(model)

    def ours() -> Tensor:
        if targets == 1:
            return attr(x, target=own[0])[None]
        return fa.sweep(attr, x, targets=own, chunk_size="auto")

    def captum_() -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one on every call
            maps = [captum.attr.GuidedBackprop(theirs).attribute(x, target=each) for each in own]
        return torch.stack([m.detach() for m in maps])

    return {"ours": ours, "Captum": captum_}


def batches(batch: int, targets: int, setting: Setting) -> Record:
    """Many inputs: times, and the peak of memory of each way in a process of its own."""
    peaks = {}
    for way in ("ours", "Captum"):
        asked = {"way": way, "batch": batch, "targets": targets, "device": setting.device}
        peaks[way] = child("benchmarks.everyday", asked | {"threads": setting.threads})
    runs = batch_runs(batch, targets, setting.device)
    record = timed("resnet18", runs, [("ours", "Captum")], setting, batch=batch, targets=targets)
    record["ratios"]["memory: ours / Captum"] = peaks["ours"] / peaks["Captum"]
    return record | {"peaks": peaks}


def peak(way: str, batch: int, targets: int, device: str, threads: int) -> int:
    """Of memory, in bytes, above what is held before."""
    prepare(threads)
    run = batch_runs(batch, targets, device)[way]
    measured = growth(device)
    run()
    return measured()


def cases() -> dict[str, Case]:
    """By name."""
    return {
        "everyday/function": Case(function, quick=True),
        "everyday/prior-tiny": Case(partial(prior, "tiny", True), quick=True),
        "everyday/prior-resnet18": Case(partial(prior, "resnet18", False)),
        "everyday/callables": Case(callables),
        "everyday/batches-B64-K1": Case(partial(batches, 64, 1)),
        "everyday/batches-B16-K10": Case(partial(batches, 16, 10)),
    }


if __name__ == "__main__":
    print(json.dumps(peak(**json.loads(sys.argv[1]))))
