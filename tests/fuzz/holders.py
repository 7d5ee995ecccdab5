"""Every place where people keep a module: containers, objects, functions, hooks."""

import functools
import weakref
from collections import ChainMap, OrderedDict, UserDict, UserList, defaultdict, deque, namedtuple
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace

import numpy as np
from torch import nn

from .activations import RELUS
from .pieces import Piece, kind

Step = namedtuple("Step", "name module")


class Slots:
    __slots__ = ("module", "name")

    def __init__(self, module):
        self.module, self.name = module, "slots"


class Base:
    __slots__ = ("module",)


class Derived(Base):
    """Slots of a base class, and a dict of its own."""

    def __init__(self, module):
        self.module, self.more = module, {"module": module}


@dataclass
class Config:
    module: nn.Module
    name: str = "config"


@dataclass(frozen=True)
class Frozen:
    module: nn.Module


class Calls:
    """A callable object."""

    def __init__(self, module):
        self.module = module

    def __call__(self, h):
        return self.module(h)


class Lazy:
    """Gives its module through a property."""

    def __init__(self, module):
        self._module = module

    @property
    def module(self):
        return self._module


class OwnList(list):
    """A subclass of a container."""


def closure(m):
    return lambda h: m(h)


def nested(m):
    def outer():
        def run(h):
            return m(h)

        return run

    return outer()


def in_a_list_in_a_closure(m):
    steps = [("first", m)]

    def run(h):
        for _, step in steps:
            h = step(h)
        return h

    return run


def default(m):
    def run(h, m=m):
        return m(h)

    return run


def keyword(m):
    def run(h, *, m=m):
        return m(h)

    return run


def decorated(m):
    @functools.wraps(m.forward)
    def run(h):
        return m(h)

    return run


def _call(m, h):
    return m(h)


def attribute_of_a_function(m):
    def run(h):
        return run.module(h)

    run.module = m
    return run


def with_a_class(m):
    class Holder:
        module = m

    return Holder


REGISTRY = {}


def registry(m):
    while len(REGISTRY) > 1000:  # those of networks long gone; the one under way has the last
        REGISTRY.pop(next(iter(REGISTRY)))
    REGISTRY[id(m)] = m
    return id(m)


# name -> (what holds a module, how it is called from there)
HOLDERS = {
    "list": (lambda m: [m], lambda held, h: held[0](h)),
    "list of tuples": (lambda m: [("first", m)], lambda held, h: held[0][1](h)),
    "tuple": (lambda m: (m,), lambda held, h: held[0](h)),
    "dict": (lambda m: {"m": m}, lambda held, h: held["m"](h)),
    "key of a dict": (lambda m: {m: 1}, lambda held, h: next(iter(held))(h)),
    "deep": (lambda m: {"a": [({"b": (m,)},)]}, lambda held, h: held["a"][0][0]["b"][0](h)),
    "set": (lambda m: {m}, lambda held, h: next(iter(held))(h)),
    "frozenset": (lambda m: frozenset((m,)), lambda held, h: next(iter(held))(h)),
    "OrderedDict": (lambda m: OrderedDict(m=m), lambda held, h: held["m"](h)),
    "defaultdict": (lambda m: defaultdict(list, m=[m]), lambda held, h: held["m"][0](h)),
    "deque": (lambda m: deque([m], 3), lambda held, h: held[0](h)),
    "ChainMap": (lambda m: ChainMap({"m": m}), lambda held, h: held["m"](h)),
    "mappingproxy": (lambda m: MappingProxyType({"m": m}), lambda held, h: held["m"](h)),
    "UserList": (lambda m: UserList([m]), lambda held, h: held[0](h)),
    "UserDict": (lambda m: UserDict(m=m), lambda held, h: held["m"](h)),
    "subclass of list": (lambda m: OwnList([m]), lambda held, h: held[0](h)),
    "array": (lambda m: np.array([m, None], dtype=object), lambda held, h: held[0](h)),
    "namedtuple": (lambda m: Step("a", m), lambda held, h: held.module(h)),
    "slots": (Slots, lambda held, h: held.module(h)),
    "slots of a base": (Derived, lambda held, h: held.module(h) + 0 * held.more["module"](h)),
    "dataclass": (Config, lambda held, h: held.module(h)),
    "frozen dataclass": (Frozen, lambda held, h: held.module(h)),
    "namespace": (lambda m: SimpleNamespace(m=m), lambda held, h: held.m(h)),
    "callable": (Calls, lambda held, h: held(h)),
    "property": (Lazy, lambda held, h: held.module(h)),
    "class": (with_a_class, lambda held, h: held.module(h)),
    "weakref": (weakref.ref, lambda held, h: held()(h)),
    "closure": (closure, lambda held, h: held(h)),
    "nested closure": (nested, lambda held, h: held(h)),
    "list in a closure": (in_a_list_in_a_closure, lambda held, h: held(h)),
    "closure in a list": (lambda m: [("a", closure(m))], lambda held, h: held[0][1](h)),
    "default argument": (default, lambda held, h: held(h)),
    "keyword default": (keyword, lambda held, h: held(h)),
    "decorated": (decorated, lambda held, h: held(h)),
    "attribute of a function": (attribute_of_a_function, lambda held, h: held(h)),
    "partial": (lambda m: functools.partial(_call, m), lambda held, h: held(h)),
    "partial in a dict": (lambda m: {"f": functools.partial(m)}, lambda held, h: held["f"](h)),
    "cached": (lambda m: functools.lru_cache(lambda: m), lambda held, h: held()(h)),
    "bound method": (lambda m: m.forward, lambda held, h: held(h)),
    "bound call": (lambda m: m.__call__, lambda held, h: held(h)),
    "generator": (lambda m: lambda: (s for s in (m,)), lambda held, h: next(held())(h)),
    "registry": (registry, lambda held, h: REGISTRY[held](h)),
}
FORWARDS = ("patched by a lambda", "patched by a partial", "patched in the part", "hook")


@kind(4.0)
class Held(Piece):
    """A part that is registered, and called from somewhere else."""

    def __init__(self, options, h, make):
        super().__init__()
        self.how, self.act = options["how"], make.relu(options["relu"])
        self.part = nn.Sequential(make.mix(h), nn.Tanh(), make.mix(h))
        if self.how in HOLDERS:
            self.held = HOLDERS[self.how][0](self.part)
        elif self.how == "patched by a lambda":
            self.forward = lambda h: self.act(self.part(h)) + 0.5 * h
        elif self.how == "patched by a partial":
            self.forward = functools.partial(Held._patched, self, scale=0.5)
        elif self.how == "patched in the part":
            first = self.part[0]
            own = first.forward
            first.forward = lambda h: own(h) * 1.5
        else:
            self.tap = nn.Identity()
            self.tap.register_forward_hook(lambda module, args, out: self.part(out))

    @staticmethod
    def draw(random, depth):
        return {
            "how": random.choice((*HOLDERS, *FORWARDS)),
            "relu": random.choice(list(RELUS)),
        }

    def _patched(self, h, scale):
        return self.act(self.part(h)) + scale * h

    def forward(self, h):
        if self.how in HOLDERS:
            out = HOLDERS[self.how][1](self.held, h)
        elif self.how == "hook":
            out = self.tap(h)
        else:
            out = self.part(h)
        return self.act(out) + 0.5 * h
