"""A mask of attention that depends on the input had its whole derivative, whatever the rule.

So have relative positions that come of the queries (SAM, Transformer-XL), as the mask of one call.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import VERSION
from helpers import assert_close
from torch import nn

import funcattr as fa

torch.manual_seed(0)
QKV, BIAS, LAST = nn.Linear(8, 24).double(), nn.Linear(8, 5).double(), nn.Linear(8, 3).double()
X = torch.randn(2, 5, 8, dtype=torch.float64)
ROLES = ("query", "key", "value", "mask")
DEPENDING = [
    (*some, "value", "mask")
    for count in range(3)
    for some in itertools.combinations(("query", "key"), count)
]
METHODS = {
    "gradient": fa.gradient,
    "attn_lrp": lambda f: fa.lrp(f, fa.composites.attn_lrp()),
    "cp_lrp": lambda f: fa.lrp(f, fa.composites.cp_lrp()),
}


def by_call(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def by_place(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, mask.masked_fill(mask > 1, -torch.inf))


def by_hand(q, k, v, mask):
    return ((q / 8**0.5) @ k.mT + mask).softmax(-1) @ v


def by_hand_too(q, k, v, mask):
    return by_hand(q, k, v, mask.masked_fill(mask > 1, -torch.inf))


def network(attend, depending):
    def f(x):
        tensors = [t.unsqueeze(1) for t in (*QKV(x).chunk(3, -1), BIAS(x))]
        parts = [t if role in depending else t.detach() for role, t in zip(ROLES, tensors)]
        return LAST(attend(*parts)[:, 0] + x).mean(1)

    return f


@pytest.mark.parametrize("attend, known", [(by_call, by_hand), (by_place, by_hand_too)])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("depending", DEPENDING, ids="-".join)
def test_as_written_out(depending, method, attend, known):
    attr, by = METHODS[method](network(attend, depending)), METHODS[method]
    expected = fa.sweep(by(network(known, depending)), X, targets=range(3))
    assert_close(torch.stack([attr(X, target=t) for t in range(3)]), expected)
    assert_close(fa.sweep(attr, X, targets=range(3)), expected)
    assert_close(torch.vmap(lambda x: attr(x[None], target=1)[0])(X), expected[1])


NORMS = {
    "layer_norm": lambda x, w: F.layer_norm(x, [8], w),
    "group_norm": lambda x, w: F.group_norm(x, 2, w),
    "batch_norm": lambda x, w: F.batch_norm(x, torch.zeros(8).double(), torch.ones(8).double(), w),
    "merged": lambda x, w: F.batch_norm(x @ SQUARE, *torch.eye(8)[:2].double().abs(), w),
}
SQUARE = torch.randn(8, 8, dtype=torch.float64)


@pytest.mark.parametrize("composite", ["attn_lrp", "cp_lrp", "epsilon_plus"])
@pytest.mark.parametrize("name", NORMS)
def test_weights_of_norms_that_depend_on_the_input_are_refused(name, composite):
    """They are a product, of which both had the whole relevance."""
    if composite == "epsilon_plus" and name in ("layer_norm", "group_norm"):
        pytest.skip("which has no rule for it")
    rows, x = getattr(fa.composites, composite)(), X[:, 0]
    f = lambda x: LAST(NORMS[name](x, x.mean(0)) + x)
    with pytest.raises(fa.FuncattrError, match="weight that depends on the input"):
        fa.lrp(f, rows)(x, target=1)
    fa.lrp(lambda x: LAST(NORMS[name](x, x.mean(0).detach()) + x), rows)(x, target=1)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", ["conv", "conv_transpose"])
def test_convolutions_with_kernels_of_the_input_are_refused(name, dims):
    """That of `conv_transpose3d` was not, and gave both the whole relevance."""
    convolve = getattr(F, f"{name}{dims}d")
    f = lambda x: convolve(*(t.reshape(1, 1, *[1] * (dims - 1), -1) for t in (x, x * 2))).flatten(1)
    with pytest.raises(fa.FuncattrError, match="multiplies, or divides by, numbers that depend"):
        fa.lrp(lambda x: f(x).relu(), fa.composites.attn_lrp())(X[:1, 0], target=0)


@pytest.mark.compiled
@pytest.mark.skipif(VERSION < (2, 13), reason="funcattr refuses to be compiled before")
@pytest.mark.parametrize("method", ["attn_lrp", "cp_lrp"])
def test_compiled_as_well(method):
    torch.compiler.reset()
    attr = METHODS[method](network(by_call, ROLES))
    expected = fa.sweep(METHODS[method](network(by_hand, ROLES)), X, targets=range(3))
    assert_close(fa.sweep(attr, X, targets=range(3), compile=True), expected)
