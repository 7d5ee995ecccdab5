"""Small things: a map of a perceptron, and what it takes to build an attribution."""

from __future__ import annotations

import copy
import warnings
from functools import partial

import torch
from captum.attr import GuidedBackprop
from torch import Tensor

import funcattr as fa

from . import rivals
from .harness import Case, Record, Setting, check, interleaved, ratios, seconds, statistics
from .networks import inputs, network

TARGET, NUMBER, CALLS = 3, 200, 1000


def perceptron(setting: Setting) -> Record:
    """One guided map of a perceptron of three layers, ours eager and compiled, and Captum's.

    Captum 0.9 never forgets a hook that it has removed, so an object of it takes longer with every
    call. It is timed twice: with an object for each call, and with one for the first `CALLS`.
    """
    torch.compiler.reset()
    model, x = network("perceptron").to(setting.device), inputs("perceptron").to(setting.device)
    attr, theirs = fa.guided_backprop(model), copy.deepcopy(model)
    compiled, target = torch.compile(attr, fullgraph=True), torch.tensor(TARGET, device=x.device)

    def captum() -> Tensor:
        return GuidedBackprop(theirs).attribute(x, target=TARGET)

    def kept() -> float:
        method = GuidedBackprop(theirs)
        return seconds(lambda: method.attribute(x, target=TARGET), CALLS)

    @torch.compile
    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            return model(x)

    runs = {
        "ours": partial(attr, x, target=TARGET),
        "ours compiled": lambda: compiled(x, target=target),
        "Captum": captum,
        "plain autograd": lambda: rivals.gradients(model, x, [TARGET])[0],
        "compiled forward pass": lambda: forward(x),
    }
    maps = ("ours", "ours compiled", "Captum")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum's, on every call
        expected = rivals.reference(model, x, [TARGET])[0]
        checked = check({label: runs[label]() for label in maps}, expected, tolerance=1e-5)
        ways = {label: partial(seconds, run, NUMBER) for label, run in runs.items()}
        ways["Captum kept"] = kept
        samples = interleaved(ways, setting, allowed=8.0, least=5, most=15)
    return {
        "network": "perceptron",
        "targets": 1,
        "batch": 1,
        "checked": checked,
        "note": f"Captum kept: one object for {CALLS} calls.",
        "seconds": statistics(samples, setting),
        "ratios": ratios(
            samples,
            [
                ("Captum", "ours"),
                ("Captum kept", "ours"),
                ("Captum", "ours compiled"),
                ("Captum kept", "ours compiled"),
                ("ours", "plain autograd"),
                ("Captum", "compiled forward pass"),
            ],
        ),
    }


def build(setting: Setting) -> Record:
    """Building an attribution of ResNet-50, Captum's, and a copy of the model, as surgery needs."""
    model = network("resnet50").to(setting.device)
    x = inputs("resnet50").to(setting.device)
    runs = {
        "ours": partial(fa.guided_backprop, model),
        "Captum": partial(GuidedBackprop, model),
        "copy of the model": partial(copy.deepcopy, model),
    }
    answers = {"ours": runs["ours"]()(x, target=TARGET)}
    checked = check(answers, rivals.reference(model, x, [TARGET])[0], tolerance=1e-3)
    numbers = {"ours": NUMBER, "Captum": NUMBER, "copy of the model": 1}
    ways = {label: partial(seconds, run, numbers[label]) for label, run in runs.items()}
    samples = interleaved(ways, setting, allowed=4.0, least=5, most=15)
    return {
        "network": "resnet50",
        "checked": checked,
        "seconds": statistics(samples, setting),
        "ratios": ratios(samples, [("ours", "Captum"), ("copy of the model", "ours")]),
    }


def cases() -> dict[str, Case]:
    """By name."""
    return {
        "small/perceptron": Case(perceptron, quick=True),
        "small/build-resnet50": Case(build, quick=True),
    }
