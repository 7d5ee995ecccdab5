"""Baselines are for the tensors at their own places: they went by the order of leaves alone."""

from collections import OrderedDict, namedtuple

import pytest
import torch
from conftest import VERSION
from torch.testing import assert_close

import funcattr as fa

D = torch.float64
X, Y = torch.randn(2, 3, 4, dtype=D, generator=torch.Generator().manual_seed(0))
Pair = namedtuple("Pair", "x y")


def squares(d):
    return d["x"].square() + 3 * d["y"].square()


def ways(func, baseline, argnums=0):
    ig = fa.integrated_gradients(func, steps=8, baseline=baseline, argnums=argnums)
    return ig, fa.deep_lift(func, baseline=baseline, argnums=argnums)


def expected(x0, y0):
    """Of the squares, by hand: of each its difference."""
    maps = [X.square() - x0**2, 3 * (Y.square() - y0**2)]
    return [torch.nn.functional.one_hot(torch.tensor(1), 4) * m for m in maps]


@pytest.mark.parametrize("order", ["x y", "y x"])
@pytest.mark.parametrize("given", ["x y", "y x"])
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_dicts_by_their_keys(order, given, kind):
    values, baseline = {"x": X, "y": Y}, {"x": 0.25, "y": torch.tensor(0.5)}
    arg = kind((k, values[k]) for k in order.split())
    for attr in ways(squares, kind((k, baseline[k]) for k in given.split())):
        maps = attr(arg, target=1)
        for key, want in zip("xy", expected(0.25, 0.5)):
            assert_close(maps[key], want)


@pytest.mark.parametrize("baseline, x0, y0", [
    ((None, 0.5), 0.0, 0.5),
    ((0.5, None), 0.5, 0.0),
    ([0.25, 0.5], 0.25, 0.5),
    (0.5, 0.5, 0.5),
    (None, 0.0, 0.0),
    ((X[:1], Y[0]), X[:1], Y[0]),
])  # fmt: skip
def test_none_is_zeros_where_it_stands(baseline, x0, y0):
    for attr in ways(lambda x, y: x.square() + 3 * y.square(), baseline, (0, 1)):
        for got, want in zip(attr(X, Y, target=1), expected(x0, y0)):
            assert_close(got, want)


def test_trees_of_several_kinds():
    def func(p):
        return p[0].x.square() + 3 * p[0].y.square() * p[1]

    arg = [Pair(X, Y), 1]
    for baseline in ([Pair(0.25, 0.5), 7], [Pair(0.25, 0.5), None], [Pair(0.25, 0.5), "any"]):
        for attr in ways(func, baseline):
            maps = attr(arg, target=1)
            for got, want in zip(maps[0], expected(0.25, 0.5)):
                assert_close(got, want)
    for attr in ways(func, [0.5, None]):
        assert_close(attr(arg, target=1)[0].x, expected(0.5, 0.5)[0])


@pytest.mark.parametrize("baseline, words", [
    ({"p": 0.0, "q": 0.5}, "baseline has the keys of what is explained, 'x', 'y'; got 'p', 'q'"),
    ({"x": 0.0}, "the keys of what is explained"),
    ([0.0, 0.5], "baseline has the form of what is explained, a dict"),
    ({"x": [0.0], "y": 0.0}, "baseline has the form of what is explained, a tensor"),
    ({"x": "zero", "y": 0.0}, "baseline has the form of what is explained, a tensor"),
    ({"x": float("nan"), "y": 0.0}, "made of finite numbers; got nan"),
])  # fmt: skip
def test_other_forms_are_refused(baseline, words):
    for attr in ways(squares, baseline):
        with pytest.raises(fa.ArgumentError, match=words):
            attr({"x": X, "y": Y}, target=1)


@pytest.mark.parametrize("baseline", [(0.5,), {"a": 0.5}, (0.5, 0.5, 0.5), "zeros"])
def test_of_several_arguments_there_are_as_many(baseline):
    for attr in ways(lambda x, y: x.square() + 3 * y.square(), baseline, (0, 1)):
        with pytest.raises(fa.ArgumentError, match="baseline of 2 arguments"):
            attr(X, Y, target=1)


@pytest.mark.compiled
@pytest.mark.skipif(VERSION < (2, 13), reason="funcattr refuses to be compiled before")
def test_compiled_as_well():
    torch.compiler.reset()
    attr = ways(squares, {"x": 0.25, "y": 0.5})[0]
    maps = torch.compile(attr, backend="aot_eager")({"y": Y, "x": X}, target=torch.tensor(1))
    assert_close(maps["x"], expected(0.25, 0.5)[0])
