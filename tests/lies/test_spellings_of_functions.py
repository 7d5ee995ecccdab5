"""A rule for a function of torch's: it was for the one spelling alone, and the others had none."""

import pickle

import pytest
import torch
from conftest import VERSION
from torch import nn

import funcattr as fa

X = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

MODELS = {
    "function": lambda x: torch.exp(x),
    "method": lambda x: x.exp(),
    "in place": lambda x: (x * 1).exp_(),
    "function in place": lambda x: torch.exp_(x * 1),
    "several": lambda x: torch.exp(x / 2) * (x / 2).exp(),
}
KEYS = [torch.exp, torch.Tensor.exp, torch.exp_, torch.Tensor.exp_]


def seven(x, g):
    return 7 * g


@pytest.mark.parametrize("key", KEYS, ids=lambda key: torch.overrides.resolve_name(key))
@pytest.mark.parametrize("name", MODELS)
def test_any_spelling_stands_for_all(name, key):
    attr = fa.rule_backprop(MODELS[name], seven, sites={key: seven})
    expected = 7 * X.exp() if name == "several" else torch.full_like(X, 7)
    maps = attr(X, target=0)
    assert torch.equal(maps[:, 1:], torch.zeros(2, 2))
    if name == "several":  # 7 / 2 of either factor, times the other
        expected = 7 * (X / 2).exp()
    torch.testing.assert_close(maps[:, 0], expected[:, 0])


def test_rows_of_composites_and_their_copies():
    composite = fa.composites.Composite([(torch.Tensor.expm1, fa.rules.pass_through)])
    again = pickle.loads(pickle.dumps(composite))
    for rows in composite, again:
        ruled = fa.with_rules(lambda x: torch.special.expm1(x), rows)
        grad = fa.gradient(ruled)(X, target=0)
        torch.testing.assert_close(grad[:, 0], (torch.expm1(X) / X)[:, 0], rtol=1e-5, atol=0)


def test_other_functions_are_none_of_it():
    with pytest.raises(fa.NoSiteError):
        fa.rule_backprop(lambda x: torch.exp2(x), seven, sites={torch.exp: seven})(X, target=0)


@pytest.mark.compiled
@pytest.mark.skipif(VERSION < (2, 13), reason="funcattr refuses to be compiled before")
def test_compiled_as_well():
    class Net(nn.Module):
        def forward(self, x):
            return torch.exp(x / 2) * (x / 2).exp() + (x * 1).expm1_()

    torch.compiler.reset()
    attr = fa.rule_backprop(Net(), seven, sites={torch.exp: seven, torch.Tensor.expm1: seven})
    compiled = torch.compile(attr, backend="aot_eager", fullgraph=True)
    maps = compiled(X, target=torch.tensor(0))
    torch.testing.assert_close(maps, attr(X, target=0))
    torch.testing.assert_close(maps[:, 0], (7 * (X / 2).exp() + 7)[:, 0])
