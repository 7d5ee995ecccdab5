"""What a rule reads is as fresh in compiled code as in eager, or it is refused."""

import functools

import pytest
import torch
from helpers import assert_close, tiny, tiny_input

import funcattr as fa

pytestmark = pytest.mark.compiled
X, MODEL = tiny_input(), tiny()
SCALE = 2.0


@pytest.fixture(autouse=True)
def _reset():
    torch.compiler.reset()


class Scaled:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, x, g):
        return self.scale * g * (x > 0)

    def method(self, x, g):
        return self(x, g)


class Gated:
    """A pair: prepare and pull."""

    reads_x = False

    def __init__(self, scale):
        self.scale = scale

    def prepare(self, operation):
        return (operation.value(),)

    def pull(self, operation, g, z):
        return operation.pull(self.scale * g * torch.sigmoid(z))


def by_global(x, g):
    return SCALE * g * (x > 0)


def attribute():
    rule = Scaled(2.0)
    return rule, lambda: setattr(rule, "scale", 3.0)


def method():
    rule = Scaled(2.0)
    return rule.method, lambda: setattr(rule, "scale", 3.0)


def a_global():
    return by_global, lambda: globals().update(SCALE=SCALE + 1)


def closure():
    scale = [2.0]
    return lambda x, g: scale[0] * g * (x > 0), lambda: scale.__setitem__(0, 3.0)


def partial():
    rule = Scaled(2.0)
    late = functools.partial(lambda rule, x, g: rule(x, g), rule)
    return late, lambda: setattr(rule, "scale", 3.0)


@pytest.mark.parametrize("kind", [attribute, method, a_global, closure, partial])
def test_a_rule_that_changed(kind):
    rule, change = kind()
    attr = fa.rule_backprop(MODEL, rule)
    compiled = torch.compile(attr, backend="aot_eager", fullgraph=True)
    before = compiled(X, target=1)
    assert_close(before, attr(X, target=1))
    change()
    after = attr(X, target=1)
    assert not torch.allclose(before, after)
    assert_close(compiled(X, target=1), after)


def test_a_pair_that_changed():
    rule = Gated(2.0)
    attr = fa.gradient(fa.with_rules(MODEL, fa.Composite([("convolution", rule)])))
    compiled = torch.compile(attr, backend="aot_eager", fullgraph=True)
    before = compiled(X, target=1)
    assert_close(before, attr(X, target=1))
    rule.scale = 3.0
    assert not torch.allclose(before, attr(X, target=1))
    assert_close(compiled(X, target=1), attr(X, target=1))


def test_a_compiled_sweep_sees_it_too_on_a_single_picture():
    rule = Scaled(2.0)
    attr = fa.rule_backprop(MODEL, rule)
    for scale in (2.0, 3.0):
        rule.scale = scale
        sweep = functools.partial(fa.sweep, attr, X[:1], targets=range(3))
        assert_close(sweep(compile=True), sweep())


def test_a_rule_that_looks_at_its_whole_tensor():
    attr = fa.rule_backprop(MODEL, lambda x, g: g * (x > x.mean()) / (1 + g.abs().max()))
    sweep = functools.partial(fa.sweep, attr, X, targets=range(3))
    assert_close(sweep(compile=True), sweep())


SHIFT = torch.tensor(2.0, dtype=torch.float64)


def by_tensor(x, g):
    return SHIFT * g


class OfTensor(Scaled):
    pass


@pytest.mark.parametrize(
    "rule",
    [
        by_tensor,
        lambda x, g, shift=SHIFT: shift * g,
        OfTensor(SHIFT),
        OfTensor(SHIFT).method,
        functools.partial(lambda shift, x, g: shift * g, SHIFT),
    ],
    ids=["global", "default", "attribute", "method", "partial"],
)
def test_a_tensor_is_refused(rule):
    attr = fa.rule_backprop(MODEL, rule)
    with pytest.raises(fa.ArgumentError, match="reads the tensor"):
        fa.sweep(attr, X, targets=[0], compile=True)
    assert attr(X, target=0).shape == X.shape
