"""Interrupts at every place of a call: nothing of the user's is changed, no mode is left on, and
the next call gives what it always gave, bit for bit."""

import os
import random
import subprocess
import sys
import threading

import pytest
import torch
from helpers import METHODS, assert_unchanged, snapshot, tiny, tiny_input
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

import funcattr as fa
from funcattr.core import contexts

X = tiny_input()
PACKAGE = os.path.dirname(fa.__file__) + os.sep


class Interrupt(KeyboardInterrupt):
    """One of ours."""


def same(came, expected):
    came, expected = tree_flatten(came)[0], tree_flatten(expected)[0]
    return len(came) == len(expected) and all(map(torch.equal, came, expected))


class Guarded:
    """A call, and what must be as before after each try that fails."""

    def __init__(self, model, call):
        self.model, self.call = model, call
        self.expected = call()
        self.before, self.x = snapshot(model), X.clone()

    def check(self):
        assert_unchanged(self.model, self.before)
        assert torch.equal(X, self.x) and not X.requires_grad and X.grad is None
        assert torch.overrides._get_current_function_mode() is None
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        assert not any(vars(contexts._local).values())
        x = torch.ones(2, requires_grad=True)  # no transform is under way
        assert torch.equal(torch.autograd.grad(torch.relu(x).sum(), x)[0], torch.ones(2))
        assert same(self.call(), self.expected)


def calls(model):
    attr, explained = METHODS["guided_backprop"](model), METHODS["bundle"](model).linearize(X)[1]
    return {
        **{name: lambda name=name: METHODS[name](model)(X, target=1) for name in METHODS},
        "sweep": lambda: fa.sweep(METHODS["guided_grad_cam"](model), X, targets=range(4)),
        "chunks": lambda: fa.sweep(attr, X, targets=range(4), chunk_size=3),
        "automatic": lambda: fa.sweep(attr, X, targets=range(4), chunk_size="auto"),
        "explain": lambda: explained(2),
        "explain, many": lambda: torch.vmap(explained)(torch.arange(3)),
        "grad": lambda: torch.func.grad(lambda x: (attr(x, target=1) ** 2).sum())(X),
        "jvp": lambda: torch.func.jvp(lambda x: attr(x, target=1), (X,), (X,)),
        "vmap": lambda: torch.vmap(lambda x: attr(x[None], target=1))(X),
        "a ruled function": lambda: fa.relu_rule(model)(X).detach(),
        "a layer": lambda: fa.layer_output(model, "same:0")(X).detach(),
        "sites": lambda: [torch.tensor(site.shape) for site in fa.sites(model, X)],
    }


def in_a_thread(work):
    """``work()`` in a thread of its own, which takes along what a failed test leaves in it."""
    errors = []

    def begin():
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    for error in errors:
        raise error


class At(TorchFunctionMode):
    """Raises at the call of a torch function with this number; counts them.

    Those that switch gradients on and off are left out: torch's own contexts leave by them.
    """

    def __init__(self, number=-1):
        super().__init__()
        self.number, self.count = number, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if "_set_grad_enabled" not in func.__name__:
            self.count += 1
            if self.count - 1 == self.number:
                raise Interrupt
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", calls(tiny()))
def test_at_every_torch_function(name):
    def work():
        model = tiny()
        guarded = Guarded(model, calls(model)[name])
        with At() as counted:
            came = guarded.call()
        assert same(came, guarded.expected) and counted.count > 10
        step = 1 if counted.count < 300 else 3
        for number in range(0, counted.count, step):
            with pytest.raises(Interrupt), At(number):
                guarded.call()
            if number % 4 == 0:
                guarded.check()
        guarded.check()

    in_a_thread(work)


class Traced:
    """Raises where the function of the package with this number begins; counts them.

    The interpreter looks for interrupts there, and where a loop goes on. Generators are left out:
    an interrupt in one that nobody waits for any more is printed, not raised.
    """

    def __init__(self, number=-1, *, leaving=False):
        self.number, self.leaving, self.count = number, leaving, 0

    def __enter__(self):
        sys.settrace(self._enter)
        return self

    def __exit__(self, *exc):
        sys.settrace(None)

    def _enter(self, frame, event, arg):
        code = frame.f_code
        # What is raised where a tensor goes (`gone`), Python prints and forgets.
        counts = (code.co_name == "__exit__") == self.leaving
        counts = counts and code.co_name not in ("<genexpr>", "gone")
        if counts and code.co_filename.startswith(PACKAGE):
            self.count += 1
            if self.count - 1 == self.number:
                sys.settrace(None)
                raise Interrupt


def interrupted(guarded, numbers, leaving=False):
    """Tries at functions with these numbers, of how many there are."""
    with Traced(leaving=leaving) as counted:
        came = guarded.call()
    assert same(came, guarded.expected)
    for number in numbers(counted.count):
        with pytest.raises(Interrupt), Traced(number, leaving=leaving):
            guarded.call()
        guarded.check()


def small():
    model = nn.Sequential(nn.Linear(18, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    attr = fa.guided_backprop(model)
    return Guarded(model, lambda: attr(X.flatten(1), target=1))


def test_at_every_function_of_a_small_call():
    in_a_thread(lambda: interrupted(small(), range))


def test_where_a_context_is_left():
    in_a_thread(lambda: interrupted(small(), range, leaving=True))


@pytest.mark.parametrize("name", calls(tiny()))
def test_at_functions_here_and_there(name):
    def work():
        model = tiny()
        guarded = Guarded(model, calls(model)[name])
        interrupted(guarded, lambda count: random.Random(name).sample(range(count), min(count, 25)))

    in_a_thread(work)


SIGNALS = """
import random, signal, threading, time
import torch, funcattr as fa
from helpers import assert_unchanged, snapshot, tiny, tiny_input

torch.set_num_threads(1)
x, model = tiny_input(), tiny()
attrs = [fa.guided_backprop(model), fa.bundle(fa.deconvnet(model), fa.grad_cam(model, "same:0"))]
expected = [attr(x, target=1) for attr in attrs]
start = time.perf_counter()
for attr in attrs:
    attr(x, target=1)
whole, rng, count, before = time.perf_counter() - start, random.Random(0), 0, snapshot(model)
signal.signal(signal.SIGALRM, signal.default_int_handler)

def check():
    assert_unchanged(model, before)
    (guided, both), (other, many) = expected, [attr(x, target=1) for attr in attrs]
    assert torch.equal(guided, other) and all(map(torch.equal, both, many))
    right.append(True)

while count < 60:
    try:
        signal.setitimer(signal.ITIMER_REAL, max(1e-6, whole * rng.random()))
        for attr in attrs:
            attr(x, target=1)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except (KeyboardInterrupt, RuntimeError):
        count += 1
    # What torch's own contexts leave behind, where they are interrupted while they are left.
    torch.set_grad_enabled(True)
    while torch.overrides._get_current_function_mode() is not None:
        torch.overrides._pop_mode()
    right = []
    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    assert right
print("interrupted", count)
"""


@pytest.mark.skipif(not hasattr(__import__("signal"), "setitimer"), reason="no timers here")
def test_signals():
    """Real ones, anywhere, in a process of their own; another thread goes on as before."""
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS], env=where, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "interrupted 60\n", done.stderr
