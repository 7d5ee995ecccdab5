"""One map of one batch, as most people ask for it first: funcattr, Captum and plain autograd."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import captum.attr
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import funcattr as fa
from funcattr.models.copies import Copy

from . import rivals
from .harness import (
    Case,
    Record,
    Setting,
    check,
    clock,
    interleaved,
    ratios,
    seconds,
    statistics,
)
from .limit import dense_limit
from .networks import inputs, model_of

TARGET, TOLERANCE = 3, 1e-3  # of the norm
LATE = {  # the layers of Grad-CAM
    "resnet18": "features.stage4",
    "resnet50": "features.stage4",
    "mobilenetv2": "features.final_block",
    "densenet121": "features.post_activ",
    "unet": "deepest",
}
Run = Callable[[], Tensor]


def _captum(make: Callable[..., Any], *args: Any, **options: Any) -> Tensor:
    """A fresh object for each call: one that is kept takes longer with every call."""
    return make().attribute(*args, **options).detach()


def runs_of(name: str, x: Tensor) -> dict[str, Run]:
    """Every way to every map of one target, ours and theirs in turn."""
    model = model_of(name, str(x.device))
    theirs, by_hand = copy.deepcopy(model), rivals.surgery(model)
    late, target = LATE[name], (TARGET, 100, 100) if name == "unet" else TARGET
    layer = theirs.get_submodule(late)
    made = {
        "guided": (fa.guided_backprop(model), partial(captum.attr.GuidedBackprop, theirs), {}),
        "gradient": (fa.gradient(model), partial(captum.attr.Saliency, theirs), {"abs": False}),
        "Grad-CAM": (
            fa.grad_cam(model, late, relu=False),
            partial(captum.attr.LayerGradCam, theirs, layer),
            {},
        ),
        "guided Grad-CAM": (
            fa.guided_grad_cam(model, late),
            partial(captum.attr.GuidedGradCam, theirs, layer),
            {},
        ),
    }
    runs: dict[str, Run] = {}
    for what, (ours, make, options) in made.items():
        runs[what] = partial(ours, x, target=target)
        if name == "mobilenetv2" and "guided" in what:
            continue  # Captum 0.9 does not see its nn.ReLU6, and gives the plain gradient
        runs[f"Captum {what}"] = partial(_captum, make, x, target=target, **options)
    runs["guided by hand"] = partial(_gradient, by_hand, x, target)
    runs["gradient by hand"] = partial(_gradient, theirs, x, target)
    return runs


def _gradient(model: nn.Module, x: Tensor, target: Any) -> Tensor:
    leaf = x.clone().requires_grad_()
    out = model(leaf)
    some = out[(slice(None), *target)] if isinstance(target, tuple) else out[:, target]
    return torch.autograd.grad(some.sum(), leaf)[0]


PAIRS = (
    *((what, f"Captum {what}") for what in ("guided", "gradient", "Grad-CAM", "guided Grad-CAM")),
    ("guided", "guided by hand"),
    ("gradient", "gradient by hand"),
)


def one_map(
    name: str, batch: int, setting: Setting, time: Callable[..., float] | None = None
) -> Record:
    """All of them, by ``time``; in CPU seconds without, where there is no GPU."""
    x = inputs(name, batch).to(setting.device)
    runs = runs_of(name, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum's, on every call
        checked = {}
        for what, rival in PAIRS:
            if rival not in runs:
                continue
            checked |= check({f"{what}, {rival}": runs[what]()}, runs[rival](), TOLERANCE)
        ways = {label: partial(time or clock(setting), run) for label, run in runs.items()}
        samples = interleaved(ways, setting, allowed=20.0, least=3, most=9)
    return {
        "network": name,
        "targets": 1,
        "batch": batch,
        "checked": checked,
        "seconds": statistics(samples, setting),
        "ratios": ratios(samples, PAIRS),
    }


def on_two_threads(name: str, batch: int, setting: Setting) -> Record:
    """The same by the clock on the wall, where what is Python weighs twice."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return one_map(name, batch, replace(setting, threads=2), seconds)
    finally:
        torch.set_num_threads(before)


class _Bare(TorchFunctionMode):
    """The least that sees every call."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def floor(name: str, setting: Setting) -> Record:
    """What no interception can do without: calls that are seen, and a copy of what may change."""
    model, x = model_of(name, setting.device), inputs(name).to(setting.device)
    attr = fa.gradient(model)

    def bare() -> Tensor:
        with _Bare():
            return _gradient(model, x, TARGET)

    runs: dict[str, Run] = {
        "ours": partial(attr, x, target=TARGET),
        "a bare mode": bare,
        "by hand": partial(_gradient, model, x, TARGET),
    }
    expected = runs["by hand"]()
    checked = check({label: run() for label, run in runs.items()}, expected, TOLERANCE)
    number = 100 if name == "perceptron" else 3
    ways = {label: partial(clock(setting), run, number) for label, run in runs.items()}
    ways["a copy of the modules"] = partial(
        clock(setting), partial(Copy, model, {}, [""], (), True), number
    )
    samples = interleaved(ways, setting, allowed=15.0, least=5, most=15)
    record = {"network": name, "targets": 1, "batch": 1, "checked": checked}
    pairs = [("ours", "by hand"), ("a bare mode", "by hand"), ("a copy of the modules", "by hand")]
    return record | {"seconds": statistics(samples, setting), "ratios": ratios(samples, pairs)}


class _Guided(TorchFunctionMode):
    """The least that puts a rule in the place of every ReLU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.relu:
            return rivals.guided_relu(args[0])
        return func(*args, **(kwargs or {}))


def guided_floor(name: str, setting: Setting) -> Record:
    """A guided map by a copy of the modules and a mode with Functions alone, beside Captum's."""
    model, x = model_of(name, setting.device), inputs(name).to(setting.device)
    attr, theirs, by_hand = fa.guided_backprop(model), copy.deepcopy(model), rivals.surgery(model)

    def least() -> Tensor:
        with _Guided():
            return _gradient(Copy(model, {}, [""], (), True).root, x, TARGET)

    runs: dict[str, Run] = {
        "ours": partial(attr, x, target=TARGET),
        "a copy and a mode with Functions": least,
        "by hand": partial(_gradient, by_hand, x, TARGET),
        "Captum": partial(_captum, partial(captum.attr.GuidedBackprop, theirs), x, target=TARGET),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum's, on every call
        checked = check({label: run() for label, run in runs.items()}, runs["by hand"](), TOLERANCE)
        ways = {label: partial(clock(setting), run, 100) for label, run in runs.items()}
        samples = interleaved(ways, setting, allowed=15.0, least=5, most=15)
    record = {"network": name, "targets": 1, "batch": 1, "checked": checked}
    pairs = [(label, "Captum") for label in runs if label != "Captum"]
    return record | {"seconds": statistics(samples, setting), "ratios": ratios(samples, pairs)}


def compiled(name: str, batch: int, setting: Setting) -> Record:
    """A guided map by ``torch.compile(attr)``, beside eager, Captum's and the dense limit."""
    torch.compiler.reset()
    x = inputs(name, batch).to(setting.device)
    runs = runs_of(name, x)
    attr = torch.compile(fa.guided_backprop(model_of(name, setting.device)), fullgraph=True)
    target = torch.tensor(TARGET, device=x.device)
    runs = {
        "ours": runs["guided"],
        "ours compiled": lambda: attr(x, target=target),
        "Captum": runs["Captum guided"],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checked = check({"ours compiled": runs["ours compiled"]()}, runs["ours"](), TOLERANCE)
        ways = {label: partial(seconds, run) for label, run in runs.items()}
        ways["limit"] = dense_limit(model_of(name, setting.device), x, 1)
        samples = interleaved(ways, setting, allowed=10.0, least=3, most=9)
    return {
        "network": name,
        "targets": 1,
        "batch": batch,
        "checked": checked,
        "seconds": statistics(samples, setting),
        "ratios": ratios(samples, [(way, "Captum") for way in ("ours", "ours compiled", "limit")]),
    }


def cases() -> dict[str, Case]:
    """By name."""
    found = {
        f"one/{name}-B{batch}": Case(partial(one_map, name, batch), quick=name == "resnet18")
        for name in LATE
        for batch in (1, 8)
    }
    for name, batch in (("resnet18", 1), ("resnet18", 8), ("resnet50", 1)):
        found[f"two/{name}-B{batch}"] = Case(partial(on_two_threads, name, batch))
    for name in ("perceptron", "resnet18", "mobilenetv2"):
        found[f"one/floor-{name}"] = Case(partial(floor, name))
    found["one/floor-guided-perceptron"] = Case(partial(guided_floor, "perceptron"))
    return found | {
        f"one/compiled-resnet18-B{batch}": Case(partial(compiled, "resnet18", batch))
        for batch in (1, 8)
    }
