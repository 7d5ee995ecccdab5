"""Every rule against the formula of its paper, and as a function that can be differentiated."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import FORMULAS

from funcattr import rules

NAMED = {
    **{name: (getattr(rules, name), formula) for name, formula in FORMULAS.items()},
    "guided_inclusive": (rules.guided_inclusive, lambda x, g: g * (x >= 0) * (g > 0)),
}
numbers = st.lists(
    st.tuples(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]), st.floats(-5, 5, width=32)),
    min_size=1,
    max_size=20,
)


@pytest.mark.parametrize("name", NAMED)
@given(pairs=numbers)
@settings(deadline=None, max_examples=50)
def test_equals_the_formula(name, pairs):
    rule, formula = NAMED[name]
    x, g = torch.tensor(pairs, dtype=torch.float64).T
    assert torch.equal(rule(x, g), formula(x, g))


@given(pairs=numbers)
@settings(deadline=None, max_examples=50)
def test_guided_is_deconvnet_gated_by_a_positive_input(pairs):
    x, g = torch.tensor(pairs, dtype=torch.float64).T
    assert torch.equal(rules.guided(x, g), rules.deconvnet(x, g) * (x > 0))


@given(pairs=numbers)
@settings(deadline=None, max_examples=50)
def test_standard_is_autograd(pairs):
    x, g = torch.tensor(pairs, dtype=torch.float64).T
    leaf = x.clone().requires_grad_()
    torch.relu(leaf).backward(g)
    assert torch.equal(rules.standard(x, g), leaf.grad)


@pytest.mark.parametrize("name", NAMED)
def test_a_rule_is_differentiable_by_its_cotangent(name):
    rule, formula = NAMED[name]
    x = torch.tensor([-1.0, 0.0, 2.0, 2.0], dtype=torch.float64)
    g = torch.tensor([1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
    expected = torch.diag((formula(x, g + 1e-6) - formula(x, g - 1e-6)) / 2e-6)
    torch.testing.assert_close(torch.func.jacrev(rule, argnums=1)(x, g), expected)
    torch.testing.assert_close(torch.func.jacfwd(rule, argnums=1)(x, g), expected)


def test_a_nan_at_the_input_lets_standard_pass_as_autograd_does():
    x = torch.tensor([float("nan")], requires_grad=True)
    torch.relu(x).backward(torch.ones(1))
    assert torch.equal(rules.standard(x.detach(), torch.ones(1)), x.grad)
