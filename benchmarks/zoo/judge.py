"""What one model gets: funcattr's maps beside the judge's, and Captum's."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from typing import Any

import captum.attr
import torch
from torch import Tensor, nn

import funcattr as fa

from . import oracle
from .subject import Subject, stir

CLOSE = 1e-6  # of the largest number of a map, in double precision
Record = dict[str, Any]


class NotCounted(Exception):
    """The model says nothing about a library: it fails by itself, or no gradient is to be had."""


def relative(a: Tensor, b: Tensor) -> float:
    """The largest difference by the largest number of ``b``; infinity for another shape or NaN."""
    if a.shape != b.shape or not a.isfinite().all():
        return float("inf")
    scale = b.abs().max().item()
    return (a - b).abs().max().item() / (scale or 1.0)


class Expected:
    """The true maps of a model for three targets, and the plain facts about it."""

    def __init__(self, subject: Subject):
        self.subject = subject
        leaf = subject.x.clone().requires_grad_()
        try:
            out, again = self.run(leaf), self.run(leaf)
        except Exception as error:
            raise NotCounted(f"fails in plain torch: {first_line(error)}") from error
        self.out = out.detach()
        if not self.out.isfinite().all():
            raise NotCounted("its output is not finite")
        if not torch.equal(self.out, again.detach()):
            raise NotCounted("two forward passes differ")
        columns = out.shape[1]
        self.targets = sorted({columns // 3, columns // 2, columns - 1})
        if not out.requires_grad:
            raise NotCounted("no gradient reaches the input")
        try:
            chosen = out[:, self.targets[0]].sum()
            (plain,) = torch.autograd.grad(chosen, leaf, allow_unused=True)
        except Exception as error:
            raise NotCounted(f"no gradient in plain torch: {first_line(error)}") from error
        if plain is None or not plain.isfinite().all() or not plain.any():
            raise NotCounted("no finite gradient reaches the input")
        self.plain = plain
        self.maps = self.by_patches()

    def run(self, leaf: Tensor) -> Tensor:
        """One forward pass; the input itself is safe from functions in place."""
        return self.subject.module(leaf.clone(), *self.subject.args)

    def frozen(self) -> Tensor:
        """The output with frozen parameters: torch multiplies matrices in another way then."""
        owned = [p for p in self.subject.module.parameters() if p.requires_grad]
        try:
            for p in owned:
                p.requires_grad_(False)
            return self.run(self.subject.x.clone().requires_grad_()).detach()
        finally:
            for p in owned:
                p.requires_grad_()

    def by_patches(self) -> dict[str, list[Tensor]]:
        """Of each rule the maps of all targets, from one forward pass with everything replaced."""
        self.judge = judge = oracle.Judge()
        leaf = self.subject.x.clone().requires_grad_()
        maps = {}
        with oracle.judged(judge, self.subject.module):
            out = self.run(leaf)

            def of(target: int) -> Tensor:
                chosen = out[:, target].sum()
                return torch.autograd.grad(chosen, leaf, retain_graph=True)[0].clone()

            maps["standard"] = [of(self.targets[0])]
            self.sites = [name for name in oracle.SITES if judge.passed[name]]
            judge.site = self.sites[0] if self.sites else ""
            if self.sites:
                judge.rule = "guided"
                maps["guided"] = [of(t) for t in self.targets]
                judge.rule = "deconvnet"
                maps["deconvnet"] = [of(self.targets[0])]
        self.off = max(relative(maps["standard"][0], self.plain), relative(out, self.out))
        maps["standard"] = [self.plain]
        return maps

    def second_opinions(self, rule: str, i: int) -> dict[str, Tensor]:
        """The map by the graph's nodes, and with batch norms written out."""
        target, found = self.targets[i], {}
        leaf = self.subject.x.clone().requires_grad_()
        chosen = self.run(leaf)[:, target].sum()
        if rule != "standard":
            found["graph"] = oracle.by_graph(chosen, leaf, rule, self.judge.site)
        with oracle.norms_written_out():
            if rule == "standard":
                chosen = self.run(leaf)[:, target].sum()
                found["norms"] = torch.autograd.grad(chosen, leaf)[0]
            else:
                found["norms"] = self.by_patches()[rule][i]
        return found

    def numeric(self, target: int, way: Tensor, eps: float = 1e-6) -> float:
        """The derivative of a target along ``way`` by central differences."""
        with torch.no_grad():
            x = self.subject.x
            up, down = (self.run(x + s * eps * way)[:, target].sum() for s in (1, -1))
        return ((up - down) / (2 * eps)).item()


def check(expected: Expected, rule: str, i: int, got: Tensor) -> tuple[str, float, str]:
    """The verdict on a map, how far it is off, and who else was asked."""
    right = expected.maps[rule][i]
    off = relative(got, right)
    if off < CLOSE:
        return "right", off, ""
    for name, other in expected.second_opinions(rule, i).items():
        if relative(got, other) < CLOSE:
            return "right", relative(got, other), f"by {name} ({off:.1e} from the first judge)"
    if rule == "standard" and got.shape == right.shape:
        way = torch.randn_like(right)
        slope = expected.numeric(expected.targets[i], way)
        ours, plain = (got * way).sum().item(), (right * way).sum().item()
        note = f"along one way {ours:.6g}, autograd {plain:.6g}, differences {slope:.6g}"
        if abs(ours - slope) < 1e-4 * abs(slope) < abs(plain - slope):
            return "right", off, note
        return "wrong", off, f"off by {off:.1e}; {note}"
    return "wrong", off, f"off by {off:.1e} of the largest number"


def first_line(error: BaseException) -> str:
    """What an error says, in short."""
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0][:220]}"


def tries(expected: Expected, record: Record) -> None:
    """Every way of funcattr's to a map; the verdicts go into the record."""
    model, (x, args) = expected.subject.module, (expected.subject.x, expected.subject.args)
    site, targets = expected.judge.site, expected.targets
    make: dict[str, tuple[Callable[..., Any], str]] = {"gradient": (fa.gradient, "standard")}
    if site:
        by = {"sites": site} if site != "relu" else {}
        make["guided"] = (lambda model: fa.guided_backprop(model, **by), "guided")
        make["deconvnet"] = (lambda model: fa.deconvnet(model, **by), "deconvnet")
    attempts: dict[str, tuple[str, Callable[[], list[Tensor]]]] = {}
    for name, (method, rule) in make.items():
        call = lambda method=method: [method(model)(x, *args, target=targets[0])]
        attempts[name] = (rule, call)
    method, rule = make.get("guided", make["gradient"])
    if rule == "standard":
        expected.maps["standard"] += [grad_of(expected, t) for t in targets[1:]]
    attempts["sweep"] = (rule, lambda: list(fa.sweep(method(model), x, *args, targets=targets)))
    for name, (rule, call) in attempts.items():
        record["doing"] = name
        try:
            maps = call()
            found = [check(expected, rule, i, got) for i, got in enumerate(maps)]
        except fa.errors.FuncattrError as error:
            found = [("refused", 0.0, first_line(error))]
        except Exception as error:
            found = [("crashed", 0.0, first_line(error))]
        worst = max(found, key=lambda f: ("right", "refused", "crashed", "wrong").index(f[0]))
        record["checks"][name] = worst[0]
        record["off"] = max(record["off"], *(f[1] for f in found if f[0] == "right"), 0.0)
        if worst[2]:
            record["notes"][name] = worst[2]
    record["doing"] = "values"
    try:
        out = fa.gradient(model).linearize(x, *args)[0]
        if not torch.equal(out, expected.out) and not torch.equal(out, expected.frozen()):
            verdict = "right" if relative(out, expected.out) < CLOSE else "wrong"
            record["checks"]["values"] = verdict
            record["notes"]["values"] = f"output off by {relative(out, expected.out):.1e}"
    except Exception as error:
        record["notes"]["values"] = first_line(error)


def grad_of(expected: Expected, target: int) -> Tensor:
    """The plain gradient of one more target."""
    leaf = expected.subject.x.clone().requires_grad_()
    return torch.autograd.grad(expected.run(leaf)[:, target].sum(), leaf)[0]


def by_captum(expected: Expected, record: Record) -> None:
    """What Captum's guided backprop makes of a model with ReLUs."""
    subject, targets = expected.subject, expected.targets
    model: nn.Module = subject.module
    try:
        model = copy.deepcopy(model)  # its hooks may stay where it fails
    except Exception:
        record["notes"]["copy"] = "cannot be deep-copied"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            method = captum.attr.GuidedBackprop(model)
            got = method.attribute(
                subject.x.clone(), targets[0], additional_forward_args=subject.args or None
            )
        verdict, _, note = check(expected, "guided", 0, got.detach())
    except Exception as error:
        verdict, _, note = "refused", 0.0, first_line(error)
    record["captum"] = verdict
    if note:
        record["notes"]["captum"] = note


def examine(build: Callable[[], Subject], record: Record) -> None:
    """Fills the record of one model."""
    torch.manual_seed(0)
    record.update(checks={}, notes={}, off=0.0, doing="build")
    begin = time.perf_counter()
    try:
        subject = build()
        subject.module.eval()
        stir(subject.module)
        record["doing"] = "plain torch"
        subject = subject.ready()
    except Exception as error:
        raise NotCounted(f"fails in plain torch: {first_line(error)}") from error
    record["doing"] = "plain torch"
    expected = Expected(subject)
    site = expected.judge.site
    record.update(site=site, activations=dict(expected.judge.passed))
    record["parameters"] = sum(p.numel() for p in subject.module.parameters())
    if expected.off > CLOSE:
        record["notes"]["judge"] = f"the first judge is off by {expected.off:.1e}"
    if site:
        record["differs"] = relative(expected.maps["guided"][0], expected.plain)
    before = {k: v.clone() for k, v in subject.module.state_dict().items()}
    x = subject.x.clone()
    record["plain"] = time.perf_counter() - begin
    tries(expected, record)
    after = subject.module.state_dict()
    same = all(torch.equal(v.nan_to_num(), after[k].nan_to_num()) for k, v in before.items())
    if not (same and torch.equal(x, subject.x)):
        record["checks"]["unchanged"] = "wrong"
        record["notes"]["unchanged"] = "the model or its input was changed"
    record["ours"] = time.perf_counter() - begin - record["plain"]
    if site == "relu":
        record["doing"] = "captum"
        by_captum(expected, record)
    record["doing"] = "done"
