"""Every form of target against indexing by hand, and every wrong one against its error."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import assert_close, tiny, tiny_input
from torch.func import vmap

import funcattr as fa

X = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.randn(5, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def flat(x):
    return torch.sin(x @ WEIGHT)[:, :4]


def deep(x):
    return torch.sin(x @ WEIGHT).reshape(-1, 2, 3, 4)


def by_hand(f, select):
    x = X.clone().requires_grad_()
    select(f(x)).sum().backward()
    return x.grad


def rows(indices):
    return lambda out: sum(out[i][index] for i, index in enumerate(indices))


FORMS = {
    "None": (lambda x: flat(x)[:, 0], None, lambda o: o),
    "None, [B, 1]": (lambda x: flat(x)[:, :1], None, lambda o: o),
    "None, a scalar": (lambda x: flat(x).sum(), None, lambda o: o),
    "int": (flat, 2, lambda o: o[:, 2]),
    "negative int": (flat, -1, lambda o: o[:, -1]),
    "numpy int": (flat, np.int64(2), lambda o: o[:, 2]),
    "int of more dims": (deep, 1, lambda o: o[:, 1]),
    "tuple": (deep, (1, -1, 2), lambda o: o[:, 1, -1, 2]),
    "part of a tuple": (deep, (1, 2), lambda o: o[:, 1, 2]),
    "tuple of tensors": (deep, (1, torch.tensor(2)), lambda o: o[:, 1, 2]),
    "0-d tensor": (flat, torch.tensor(3), lambda o: o[:, 3]),
    "one-element tensor": (flat, torch.tensor([-2]), lambda o: o[:, 2]),
    "int32 tensor": (flat, torch.tensor(3, dtype=torch.int32), lambda o: o[:, 3]),
    "list": (flat, [0, 3, -1], rows([0, 3, -1])),
    "tensor": (flat, torch.tensor([0, 3, -1]), rows([0, 3, -1])),
    "array": (flat, np.array([0, 3, 1]), rows([0, 3, 1])),
    "small integers": (flat, torch.tensor([1, 0, 1], dtype=torch.uint8), rows([1, 0, 1])),
    "list of more dims": (deep, [0, 1, 1], rows([0, 1, 1])),
    "list of tuples": (
        deep,
        [(0, 1, 2), (1, 2, 3), (0, 0, -1)],
        rows([(0, 1, 2), (1, 2, 3), (0, 0, -1)]),
    ),
    "callable": (deep, lambda o: o[:, 1].exp(), lambda o: o[:, 1].exp()),
    "dict": (lambda x: {"a": flat(x), "n": 3}, lambda o: o["a"][:, 1], lambda o: o["a"][:, 1]),
    "tuple output": (lambda x: (x, [flat(x)]), lambda o: o[1][0][:, 1], lambda o: o[1][0][:, 1]),
    "integers in it": (
        lambda x: (flat(x), flat(x).argmax(1)),
        lambda o: o[0].gather(1, o[1][:, None]),
        lambda o: o[0].gather(1, o[1][:, None]),
    ),
    "object": (
        lambda x: SimpleNamespace(logits=flat(x), loss=None, more={"h": [deep(x)]}),
        lambda o: o.logits[:, 0] * o.more["h"][0][:, 0, 0, 0],
        lambda o: o.logits[:, 0] * o.more["h"][0][:, 0, 0, 0],
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name):
    f, target, select = FORMS[name]
    assert_close(fa.gradient(f)(X, target=target), by_hand(f, select))
    out, explain = fa.gradient(f).linearize(X)
    assert type(out) is type(f(X))
    assert_close(explain(target), by_hand(f, select))


def test_real_numbers_of_complex_outputs():
    """By an int they are refused (`wrong_targets`); the real part alone was explained."""
    wave = lambda x: torch.exp(1j * flat(x)) * flat(x)
    for target in (lambda o: o[:, 1].abs(), lambda o: o[:, 1].imag):
        assert_close(fa.gradient(wave)(X, target=target), by_hand(wave, target))
        assert_close(fa.sweep(fa.gradient(wave), X, targets=[target])[0], by_hand(wave, target))


def test_outputs_of_linearize_are_whole():
    out, _ = fa.gradient(FORMS["object"][0]).linearize(X)
    assert_close(out.logits, flat(X))
    assert_close(out.more["h"][0], deep(X))
    assert out.loss is None


def test_a_callable_target_is_differentiated_too():
    """The map of a nonlinear target depends on the output, which an outer derivative must see."""

    def f(x):
        return fa.gradient(flat)(x, target=lambda o: o[:, 0] ** 3)

    v = torch.ones_like(X)
    numeric = (f(X + 1e-6 * v) - f(X - 1e-6 * v)) / 2e-6
    assert_close(torch.func.jvp(f, (X,), (v,))[1], numeric, 1e-6)


@pytest.mark.parametrize("target", [torch.tensor([0, 1, -1]), torch.tensor([[0, 1, 2], [2, 1, 0]])])
def test_under_vmap(target):
    attr = fa.gradient(flat)
    assert_close(
        vmap(lambda t: attr(X, target=t))(target),
        torch.stack([attr(X, target=t) for t in target]),
    )


def test_under_vmap_with_one_target_per_input():
    attr = fa.gradient(flat)
    maps = vmap(lambda x, t: attr(x[None], target=t)[0])(X, torch.tensor([0, 1, -1]))
    assert_close(maps, attr(X, target=[0, 1, -1]))


BAD = {
    "missing": (flat, None, r"shape \(3, 4\), several numbers per example"),
    "out of range": (flat, 4, r"dim 1 of the output, of shape \(3, 4\), lies in -4\.\.3"),
    "negative out of range": (flat, -5, "lies in -4..3"),
    "out of range in a tuple": (deep, (1, 3, 0), "dim 2"),
    "out of range in a list": (flat, [0, 1, 9], "index 9"),
    "word": (flat, "cat", "a target is None"),
    "float": (flat, 1.0, "got 1.0 of type float"),
    "bool": (flat, True, "got True of type bool"),
    "float tensor": (flat, torch.tensor(1.0), r"\.long\(\)"),
    "bool tensor": (flat, torch.tensor(True), "integers"),
    "2-d tensor": (flat, torch.tensor([[0, 1]]), "list of tuples"),
    "length of a list": (flat, [0, 1], "has 3 of them"),
    "length of a tensor": (flat, torch.tensor([0, 1]), "got 2"),
    "empty list": (flat, [], "got 0"),
    "empty tuple": (flat, (), "at least one"),
    "ragged": (flat, [(0,), (1, 2), (0,)], "one length"),
    "too many dims": (flat, (1, 2), "2 indices"),
    "no dim to index": (lambda x: flat(x)[:, 0], 1, "target=None"),
    "no tensor": (lambda x: {"a": flat(x)}, 1, "callable"),
    "callable without tensor": (flat, lambda o: 3.0, "float tensor"),
    "integers": (lambda x: flat(x).argmax(1), None, "no derivative"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_targets(name):
    f, target, message = BAD[name]
    with pytest.raises(fa.TargetError, match=message) as error:
        fa.gradient(f)(X, target=target)
    assert isinstance(error.value, ValueError)
    assert isinstance(error.value, IndexError)


def test_out_of_range_under_vmap_is_an_error_too():
    with pytest.raises(fa.TargetError, match="lies in"):
        vmap(lambda t: fa.gradient(flat)(X, target=t))(torch.tensor([0, 7]))


def test_an_empty_batch():
    assert fa.gradient(flat)(X[:0], target=[]).shape == (0, 5)


def test_dataclasses_with_slots():
    @dataclass(slots=True)
    class Out:
        logits: torch.Tensor
        more: list

    f = lambda x: Out(flat(x), [deep(x)])
    come = fa.gradient(f)(X, target=lambda o: o.logits[:, 1] + o.more[0][:, 0, 0, 0])
    assert_close(come, by_hand(f, lambda o: o.logits[:, 1] + o.more[0][:, 0, 0, 0]))


@pytest.mark.parametrize("target", [1, [0, 1], (0,)], ids=str)
def test_a_target_without_its_keyword(target):
    attr = fa.guided_backprop(tiny())
    with pytest.raises(fa.ArgumentError, match=r"attr\(x, target="):
        attr(tiny_input(), target)
    with pytest.raises(TypeError, match="positional"):  # the model's own, where it is no target
        attr(tiny_input(), tiny_input())
