"""Threads: each gets what a single thread gets, bit for bit, whatever the others do."""

import asyncio
import copy
import functools
import itertools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import SINCE_2_3
from helpers import METHODS, assert_close, assert_unchanged, snapshot, tiny, tiny_input
from torch import nn
from torch.utils._pytree import tree_flatten

import funcattr as fa
from funcattr.core import levels

THREADS = 6
X = tiny_input()
MIXED = (
    "guided_backprop",
    "deconvnet",
    "grad_cam",
    "guided_grad_cam",
    "layer_gradient_x_activation",
    "bundle",
    "epsilon",
    "smooth_grad",
)


@pytest.fixture(autouse=True)
def _often_switched():
    """Has the interpreter change threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def jobs(model):
    """Functions without arguments, by what they do with the model."""
    attrs = {name: METHODS[name](model) for name in MIXED}
    every = {name: functools.partial(attr, X, target=1) for name, attr in attrs.items()}
    for name in ("guided_backprop", "guided_grad_cam", "bundle"):
        every[f"sweep of {name}"] = functools.partial(
            fa.sweep, attrs[name], X, targets=range(4), chunk_size=3
        )
    every["under vmap"] = lambda: torch.vmap(lambda t: attrs["deconvnet"](X, target=t))(
        torch.arange(4)
    )
    every["under grad"] = lambda: torch.func.grad(
        lambda x: (attrs["guided_backprop"](x, target=1) ** 2).sum()
    )(X)
    every["the model itself"] = lambda: model(X).detach()
    return every


def same(came, expected):
    """Whether two trees of tensors are equal, bit for bit."""
    came, expected = tree_flatten(came)[0], tree_flatten(expected)[0]
    return len(came) == len(expected) and all(map(torch.equal, came, expected))


def in_threads(work):
    """What ``work(i)`` returns in each of the threads, which all begin at once."""
    start = threading.Barrier(THREADS)

    def begin(i):
        start.wait()
        return work(i)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(begin, range(THREADS)))


def wrong(every, expected, first, rounds):
    """The names of jobs that came out otherwise; each thread begins with another one."""
    names = list(every)
    names = names[first % len(names) :] + names[: first % len(names)]
    return [n for _ in range(rounds) for n in names if not same(every[n](), expected[n])]


def test_many_methods_of_one_model():
    model = tiny()
    every = jobs(model)
    expected = {name: job() for name, job in every.items()}
    before = snapshot(model)
    assert in_threads(lambda i: wrong(every, expected, 2 * i, 2)) == [[]] * THREADS
    assert_unchanged(model, before)


def test_models_of_their_own():
    models = [tiny(seed) for seed in range(THREADS)]
    every = [jobs(model) for model in models]
    expected = [{name: job() for name, job in mine.items()} for mine in every]
    before = [snapshot(model) for model in models]
    came = in_threads(lambda i: wrong(every[i], expected[i], i, 2))
    assert came == [[]] * THREADS
    for model, old in zip(models, before):
        assert_unchanged(model, old)


def test_attributions_that_are_made_in_the_threads():
    model = tiny()
    expected = {name: METHODS[name](model)(X, target=1) for name in METHODS}

    def work(i):
        names = list(itertools.islice(itertools.cycle(METHODS), i, i + len(METHODS)))
        return [n for n in names if not same(METHODS[n](model)(X, target=1), expected[n])]

    assert in_threads(work) == [[]] * THREADS


@pytest.mark.parametrize("name", ["bundle", "guided_grad_cam", "epsilon", "guided_backprop"])
def test_one_forward_pass_that_all_explain(name):
    """The sites of one pass are told which composite to follow, and keep what they derive."""
    expected = [METHODS[name](tiny())(X, target=t) for t in range(4)]
    _, explain = METHODS[name](tiny()).linearize(X)
    swept = torch.vmap(METHODS[name](tiny()).linearize(X)[1])(torch.arange(4))

    def work(i):
        for _ in range(10):
            found = [explain((t + i) % 4) for t in range(4)]
            assert same(found, [expected[(t + i) % 4] for t in range(4)])
            assert same(torch.vmap(explain)(torch.arange(4)), swept)

    in_threads(work)


def test_a_failure_stays_where_it_is():
    model = tiny()
    attr = fa.guided_backprop(model)
    expected = attr(X, target=1)

    def rule(x, g):
        raise KeyboardInterrupt

    failing = fa.rule_backprop(model, rule)

    def work(i):
        for _ in range(30):
            if i % 2:
                with pytest.raises(KeyboardInterrupt):
                    failing(X, target=1)
                with pytest.raises(fa.TargetError):
                    attr(X, target=9)
            assert torch.equal(attr(X, target=1), expected)
        return torch.overrides._get_current_function_mode()

    assert in_threads(work) == [None] * THREADS


def test_what_a_thread_is_inside_of_is_its_own():
    """Gradient modes, transforms and ruled calls of one thread do not reach the others."""
    model = tiny()
    attr, ruled = fa.guided_backprop(model), fa.relu_rule(model)
    expected = attr(X, target=1)
    slopes = torch.func.jacrev(lambda x: attr(x, target=1).sum((1, 2, 3)))(X)
    values = model(X).detach()

    def work(i):
        for _ in range(8):
            if i % 3 == 0:
                with torch.inference_mode():
                    assert torch.equal(attr(X.clone(), target=1), expected)
            elif i % 3 == 1:
                f = lambda x: attr(x, target=1).sum((1, 2, 3))
                assert torch.equal(torch.func.jacrev(f)(X), slopes)
            else:
                x = X.clone().requires_grad_()
                out = ruled(x)
                assert torch.equal(out, values)
                assert torch.equal(torch.autograd.grad(out[:, 1].sum(), x)[0], expected)

    in_threads(work)


def test_rules_of_their_own_at_any_function():
    """Functions get names when they are first met; here by all threads at once."""
    functions = [torch.sin, torch.cos, torch.exp, torch.atan, torch.erf, torch.expm1]
    x = torch.randn(2, 4)

    def attr(i):
        f = functions[i]
        scaled = lambda x, g: (i + 2) * g
        return fa.gradient(fa.relu_rule(lambda x: f(torch.relu(x)), sites={f: scaled}))

    expected = [(i + 2.0) * (x > 0) * hot(x) for i in range(THREADS)]
    assert all(map(torch.equal, in_threads(lambda i: attr(i)(x, target=1)), expected))


def hot(x):
    return torch.nn.functional.one_hot(torch.ones(len(x), dtype=torch.long), x.shape[1])


def test_streams_side_by_side():
    """In one thread, too: a stream that waits has nothing open."""
    model = tiny()
    attrs = [METHODS[name](model) for name in MIXED[:4]]
    expected = [fa.sweep(attr, X, targets=range(4)) for attr in attrs]
    streams = [fa.stream(attr, X, targets=range(4), chunk_size=1) for attr in attrs]
    for chunks in zip(*streams):
        assert torch.overrides._get_current_function_mode() is None
        for (targets, maps), whole in zip(chunks, expected):
            assert_close(maps, whole[targets.start : targets.stop], 1e-12)
    # Begun in one thread, and carried on by others.
    stream, lock = (
        fa.stream(attrs[3], X, targets=list(range(4)) * 6, chunk_size=1),
        threading.Lock(),
    )
    next(stream)

    def work(i):
        with lock:
            return next(stream)

    for (target,), maps in in_threads(work):
        assert_close(maps[0], expected[3][target], 1e-12)


def test_copies_of_an_attribution_in_use():
    """A copy of a model that others call is a model, and what is copied is not disturbed."""
    attr = fa.guided_grad_cam(tiny(), "relu:0")
    expected = attr(X, target=1)

    def work(i):
        for _ in range(5):
            mine = copy.deepcopy(attr) if i % 2 else attr
            assert torch.equal(mine(X, target=1), expected)

    in_threads(work)


def test_asyncio():
    every = jobs(tiny())
    expected = {name: job() for name, job in every.items()}

    async def one(name):
        came = await asyncio.to_thread(every[name])
        await asyncio.sleep(0)
        # In the thread of the loop, between the others.
        return same(came, expected[name]) and same(every[name](), expected[name])

    async def main():
        return await asyncio.gather(*[one(name) for name in list(every) * 3])

    assert all(asyncio.run(main()))


@pytest.mark.compiled
def test_compiled_code_that_is_shared():
    torch.compiler.reset()
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x = torch.randn(2, 4, dtype=torch.float64)
    attr = fa.guided_backprop(model)
    eager = [attr(x, target=t) for t in range(3)]
    compiled = torch.compile(attr, fullgraph=True, backend="aot_eager")
    targets = [torch.tensor(t) for t in range(3)]

    def work(i):
        """The first call of each thread finds nothing compiled; some go on in eager."""
        call = (lambda t: attr(x, target=t)) if i == 5 else (lambda t: compiled(x, target=t))
        return [[call(targets[(t + i) % 3]) for t in range(3)] for _ in range(5)]

    for i, rounds in enumerate(in_threads(work)):
        for maps in rounds:
            assert_close(maps, [eager[(t + i) % 3] for t in range(3)], 1e-12)
    alone = [compiled(x, target=t) for t in targets]
    for i, rounds in enumerate(in_threads(work)):
        if i != 5:
            assert all(same(maps, [alone[(t + i) % 3] for t in range(3)]) for maps in rounds)
    torch.compiler.reset()


@pytest.mark.skipif(not SINCE_2_3, reason="torch has no flag for a compilation to be asked for")
def test_an_eager_map_while_another_thread_compiles(monkeypatch):
    """Torch's flag for a compilation is the process's, so it goes up and down meanwhile."""
    attr = METHODS["guided_backprop"](tiny())
    expected = attr(X, target=1)
    asked = []
    for first in range(30):
        for length in (1, 3, 10, 100):

            def flag(window=range(first, first + length)):
                asked.append(None)
                return len(asked) - 1 in window

            asked.clear()
            monkeypatch.setattr(levels, "_is_compiling", flag)
            assert same(attr(X, target=1), expected), (first, length)
            assert asked
