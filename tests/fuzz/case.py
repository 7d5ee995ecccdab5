"""One network with all that its checks ask of it, and what they found."""

import contextlib
import re
import signal
import threading
import warnings
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from random import Random

import torch
from torch.utils._pytree import tree_flatten, tree_map

import funcattr as fa

from . import networks, oracles
from .flow_pieces import Inside
from .spec import Spec

TOLERANCE = 1e-9
# Remarks on what is slow, and on a map over tokens, which is asked for here on purpose.
_REMARKS = (
    "There is a performance drop because we have not yet implemented the batching rule",
    "Using padding='same' with even kernel lengths",
    ".*looks like tokens",
)


class Wrong(AssertionError):
    """A number that is not what the oracle says, or something changed."""


class Hang(BaseException):
    """A check that takes longer than any of them should."""


class Skip(Exception):
    """A check that has nothing to say about this network."""


@dataclass
class Layer:
    """A layer as a forward pass met it."""

    name: str
    calls: int = 0
    dims: int = 0
    outputs: int = 0
    inputs: int = 0
    alias: bool = False  # what it gives is, in memory, what it got
    writes: bool = False  # to what it got, without saying so
    shares: bool = False  # what it gives is what somebody keeps


class Case:
    """A network, its inputs, its oracle, and random choices of what to ask."""

    def __init__(self, spec: Spec):
        self.spec, self.random = spec, Random(spec.seed)
        self.model = networks.build(spec)
        self.args, self.kwargs = networks.inputs(spec)
        self.argnums = networks.argnums(spec)
        self.oracle = oracles.Oracle(spec)
        self.indexed = spec.outputs in ("tensor", "map")

    def target(self):
        """A target in one of its forms: ``(for the library, for the oracle)``."""
        random, batch = self.random, self.spec.batch
        k = random.randrange(networks.CLASSES)
        if not self.indexed:
            return (lambda out: networks.scores(out)[:, k]), k
        many = [random.randrange(networks.CLASSES) for _ in range(batch)]
        pair = (k, random.randrange(2)) if self.spec.outputs == "map" else (k,)
        choices = [
            (k, k),
            (k - networks.CLASSES, k),
            (torch.tensor(k), k),
            (pair, pair),
            (many, many),
            (torch.tensor(many), many),
            ([(i,) for i in many], many),
            ((lambda out: out[:, k]), k),
        ]
        if batch == 1:  # where a list of one is a class for the only example
            choices = choices[:5]
        return random.choice(choices)

    def rule(self):
        return self.random.choice(list(RULES))

    def maps(self, attr, target, args=None):
        """The library's maps as a list of tensors."""
        args = self.args if args is None else args
        return oracles.tensors(attr(*args, **self.kwargs, target=target))

    def by_params(self, method, **how):
        """An attribution of ``f(params, ...)``, and the parameters."""
        f, _ = fa.make_functional(self.model)
        nums = self.argnums
        shifted = tuple(n + 1 for n in nums) if isinstance(nums, tuple) else nums + 1
        return method(f, argnums=shifted, **how), {
            name: p.detach() for name, p in self.model.named_parameters()
        }

    def others(self, seed=1):
        """Parameters that are not the model's own."""
        g = torch.Generator().manual_seed(self.spec.seed + seed)
        return {
            name: p.detach() + 0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype)
            for name, p in self.model.named_parameters()
        }

    def directions(self, like, seed=3):
        g = torch.Generator().manual_seed(self.spec.seed + seed)
        return [torch.randn(t.shape, generator=g, dtype=t.dtype) for t in like]

    @cached_property
    def layers(self):
        """All layers that run, as hooks on a network of the same spec meet them."""
        net, found, handles = networks.build(self.spec), {}, []
        names = {id(m): name for name, m in net.named_modules()}
        closed = {id(m) for p in net.modules() if isinstance(p, Inside) for m in p.modules()}

        def before(module, args, kwargs):
            module.__dict__["_came"] = [(t, t._version) for t in oracles.tensors((args, kwargs))]

        def after(module, args, kwargs, out):
            layer = found.setdefault(names[id(module)], Layer(names[id(module)]))
            came, gave = module.__dict__.pop("_came"), oracles.tensors(out)
            layer.calls += 1
            layer.outputs, layer.inputs = len(gave), len(came)
            layer.dims = gave[0].dim() if gave else 0
            memory = {t.untyped_storage().data_ptr() for t, _ in came}
            layer.alias |= any(t.untyped_storage().data_ptr() in memory for t in gave)
            layer.writes |= any(t._version != version for t, version in came)

        for module in net.modules():
            if id(module) not in closed and module is not net:
                handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
                handles.append(module.register_forward_hook(after, with_kwargs=True))
        shown, _ = oracles.differentiable(self.args)
        net(*shown, **self.kwargs)
        for handle in handles:
            handle.remove()
        return [layer for layer in found.values() if layer.outputs and layer.inputs]


RULES = {
    "standard": fa.rules.standard,
    "guided": fa.rules.guided,
    "deconvnet": fa.rules.deconvnet,
    "guided_inclusive": fa.rules.guided_inclusive,
    "own": lambda x, g: g * torch.sigmoid(x),
}


def close(ours, theirs, what, tolerance=TOLERANCE):
    """Lists of tensors are the same but for rounding."""
    if len(ours) != len(theirs):
        raise Wrong(f"{what}: {len(ours)} maps for {len(theirs)}")
    for a, b in zip(ours, theirs):
        if a.shape != b.shape:
            raise Wrong(f"{what}: shape {tuple(a.shape)} for {tuple(b.shape)}")
        if not b.numel():
            continue
        if not torch.isfinite(b).all():
            raise Skip("the oracle is not finite")
        if not torch.isfinite(a).all():
            raise Wrong(f"{what}: not finite")
        scale = max(1.0, b.abs().max().item())
        if (a - b).abs().max() > tolerance * scale:
            share = (a - b).abs().max().item() / scale
            raise Wrong(f"{what}: off by {share:.1e} of the largest")


def same(ours, theirs, what):
    """Two trees hold the same numbers, bit for bit."""
    a, b = tree_flatten(ours), tree_flatten(theirs)
    if a[1] != b[1]:
        raise Wrong(f"{what}: another structure")
    for one, other in zip(a[0], b[0]):
        alike = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        if not alike:
            raise Wrong(f"{what}: not bit for bit")


def snapshot(case):
    """All of a model and its inputs that a call could change."""

    def plain(value):
        return value.clone() if isinstance(value, torch.Tensor) else value

    model = case.model
    state = {name: (t.detach().clone(), t._version) for name, t in model.state_dict().items()}
    other = []
    for m in model.modules():
        hooks = (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
        own = {k: v for k, v in vars(m).items() if isinstance(v, (int, float, str, type(None)))}
        sizes = {k: len(v) for k, v in vars(m).items() if isinstance(v, (list, dict))}
        tensors = {k: (id(v), v._version) for k, v in vars(m).items() if torch.is_tensor(v)}
        table = {k: id(v) for k, v in vars(m).items()}
        other.append(([len(h) for h in hooks], m.training, own, sizes, tensors, table))
    ids = [id(t) for t in (*model.parameters(), *model.buffers())]
    grads = [p.grad is None and p.requires_grad for p in model.parameters()]
    came = tree_map(plain, (case.args, case.kwargs))
    flags = [(t._version, t.requires_grad) for t in oracles.tensors((case.args, case.kwargs))]
    return state, other, ids, grads, came, flags, torch.get_rng_state().clone()


@contextlib.contextmanager
def unchanged(case):
    """What the block does changes nothing of the user's, and leaves no mode behind."""
    before = snapshot(case)
    yield
    same(snapshot(case), before, "something of the user's changed")
    if torch.overrides._get_current_function_mode() is not None:
        raise Wrong("a mode was left behind")


@dataclass
class Tally:
    """What came of many checks."""

    networks: int = 0
    discarded: int = 0
    checks: int = 0
    right: int = 0
    by_check: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)
    examples: dict = field(default_factory=dict)  # of refusals: cause -> (check, spec)
    torch_cannot: Counter = field(default_factory=Counter)
    skipped: Counter = field(default_factory=Counter)
    wrong: list = field(default_factory=list)  # (check, what, spec)

    def add(self, other):
        for name in ("networks", "discarded", "checks", "right"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("by_check", "refused", "torch_cannot", "skipped"):
            getattr(self, name).update(getattr(other, name))
        self.examples = {**other.examples, **self.examples}
        self.wrong += other.wrong


def cause(error):
    """An error in few words: its type, and the beginning of what it says, without names."""
    text = re.sub(r"'[^']*'|\d+", "_", str(error).strip().split("\n")[0])
    return f"{type(error).__name__}: {text[:90]}"


@contextlib.contextmanager
def limited(seconds):
    """Raises `Hang` in the block after so many seconds, where the system has such an alarm."""

    def late(*args):
        raise Hang(f"more than {seconds} s")

    if not hasattr(signal, "setitimer") or threading.current_thread() is not _MAIN:
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # and again, where the first is swallowed
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_MAIN = threading.main_thread()


@contextlib.contextmanager
def quiet():
    """Without a few remarks; all other warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for remark in _REMARKS:
            warnings.filterwarnings("ignore", remark)
        warnings.filterwarnings("ignore", ".*jit.*deprecated.*", DeprecationWarning)
        yield
