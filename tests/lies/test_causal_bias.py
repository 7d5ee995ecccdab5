"""Masks of `torch.nn.attention.bias`: empty tensors, by whose class torch knows what they mean.

A sweep of CP-LRP added the empty tensor to the scores.
"""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close
from torch import nn

import funcattr as fa

bias = pytest.importorskip("torch.nn.attention.bias")
torch.manual_seed(0)
QKV, LAST = nn.Linear(8, 24).double(), nn.Linear(8, 3).double()
X = torch.randn(2, 5, 8, dtype=torch.float64)
METHODS = {
    "gradient": fa.gradient,
    "attn_lrp": lambda f: fa.lrp(f, fa.composites.attn_lrp()),
    "cp_lrp": lambda f: fa.lrp(f, fa.composites.cp_lrp()),
    "epsilon_plus": lambda f: fa.lrp(f, fa.composites.epsilon_plus()),
}


def network(mask, queries):
    def f(x):
        q, k, v = (t.unsqueeze(1) for t in QKV(x).chunk(3, -1))
        a = F.scaled_dot_product_attention(q[:, :, -queries:], k, v, attn_mask=mask)
        return LAST(F.gelu(a[:, 0])).mean(1)

    return f


@pytest.mark.filterwarnings("ignore:.*CausalBias")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("queries", [3, 5])
@pytest.mark.parametrize("name", ["causal_upper_left", "causal_lower_right"])
def test_it_is_the_mask_that_it_means(name, queries, method):
    shift = 5 - queries if name == "causal_lower_right" else 0
    whole = torch.ones(queries, 5, dtype=torch.bool).tril(shift)
    attr = METHODS[method](network(getattr(bias, name)(queries, 5), queries))
    known = METHODS[method](network(whole, queries))
    expected = torch.stack([known(X, target=t) for t in range(3)])
    assert_close(torch.stack([attr(X, target=t) for t in range(3)]), expected)
    assert_close(fa.sweep(attr, X, targets=range(3)), expected)
    assert_close(torch.vmap(lambda x: attr(x[None], target=1)[0])(X), expected[1])
