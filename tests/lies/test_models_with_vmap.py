"""Models that run a part under ``torch.vmap``, where a tensor does not say that it requires grad.

Rules of products, sums, means and norms were left out there, in silence. The oracle is the same
model with a loop.
"""

import pytest
import torch
import torch.nn.functional as F
from conftest import VERSION
from helpers import assert_close
from torch import nn

import funcattr as fa
from funcattr import composites

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")  # of an old torch
X = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
V = X.flip(0).cos()


def gate_written(net, q, k, v):
    gate = torch.sigmoid(q)
    return gate.add_(1) * v


def view_written(net, q, k, v):
    gate = torch.sigmoid(q)
    gate[:].add_(1)
    return gate * v


PARTS = {
    "attention": lambda net, q, k, v: torch.softmax(q @ k.mT, -1) @ v,
    "sdpa": lambda net, q, k, v: F.scaled_dot_product_attention(q[None], k[None], v[None])[0],
    "sdpa, mask": lambda net, q, k, v: F.scaled_dot_product_attention(
        q[None], k[None], v[None], attn_mask=(q @ v.mT)[None]
    )[0],
    "einsum": lambda net, q, k, v: torch.einsum("ij,jk->ik", torch.softmax(q @ k.mT, -1), v),
    "heads": lambda net, q, k, v: net.heads(q[None], k[None], v[None])[0][0],
    "gate": lambda net, q, k, v: torch.sigmoid(q) * v,
    "gate written": gate_written,
    "view written": view_written,
    "glu": lambda net, q, k, v: F.glu(torch.cat([q, k], -1), -1),
    "rms": lambda net, q, k, v: q * torch.rsqrt(q.square().mean(-1, keepdim=True) + 1e-6),
    "layer norm": lambda net, q, k, v: net.norm(q),
    "conv": lambda net, q, k, v: net.batch_norm(net.conv(q[None]))[0],
    "in place": lambda net, q, k, v: net.batch_norm(F.relu(net.conv(q[None]), inplace=True))[0],
    "max pool": lambda net, q, k, v: F.max_pool1d(net.conv(q[None]), 2)[0].repeat(1, 2),
    "sum": lambda net, q, k, v: q + k - v.sum(-1, keepdim=True),
}
LOOPS = {
    "loop": lambda f, x: torch.stack([f(row) for row in x]),
    "vmap": lambda f, x: torch.vmap(f)(x),
    "in_dims": lambda f, x: torch.vmap(f, in_dims=1)(x.transpose(0, 1)),
    "nested": lambda f, x: torch.vmap(torch.vmap(f))(x[None])[0],
}


class Net(nn.Module):
    def __init__(self, part, loop):
        super().__init__()
        torch.manual_seed(0)
        self.part, self.loop = PARTS[part], LOOPS[loop]
        self.qkv, self.out, self.norm = nn.Linear(4, 12), nn.Linear(4, 3), nn.LayerNorm(4)
        self.heads = nn.MultiheadAttention(4, 2, batch_first=True)
        self.conv, self.batch_norm = nn.Conv1d(5, 5, 3, padding=1), nn.BatchNorm1d(5)
        with torch.no_grad():
            for t in (self.batch_norm.running_mean, self.batch_norm.bias, self.batch_norm.weight):
                t.normal_()

    def one(self, x):
        y = self.part(self, *self.qkv(x).chunk(3, -1))
        return self.out(F.gelu(F.relu(y) + y).mean(0))

    def forward(self, x):
        return self.loop(self.one, x)


METHODS = {
    "attn_lrp": lambda net: fa.lrp(net, composites.attn_lrp()),
    "cp_lrp": lambda net: fa.lrp(net, composites.cp_lrp()),
    "epsilon_plus": lambda net: fa.lrp(net, composites.epsilon_plus(1e-3)),
    "guided_backprop": lambda net: fa.guided_backprop(net, sites=("relu", "gelu")),
    "deep_lift": fa.deep_lift,
}


def of(method, part, loop):
    return METHODS[method](Net(part, loop).double().eval())


def fails_in_torch(method, part):
    if part == "sdpa, mask" and VERSION >= (2, 15):
        # Under torch.vmap torch takes a kernel there that has no derivative by a mask.
        return method not in ("attn_lrp", "cp_lrp")
    return "written" in part and method == "guided_backprop"  # torch's own gradient fails there


@pytest.mark.parametrize("loop", ["vmap", "in_dims", "nested"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("method", METHODS)
def test_its_maps_are_those_of_a_loop(method, part, loop):
    if fails_in_torch(method, part):
        pytest.skip("torch has no derivative of a sigmoid that is written to, or by a mask")
    expected, attr = of(method, part, "loop")(X, target=1), of(method, part, loop)
    assert_close(attr(X, target=1), expected, 1e-9)
    assert_close(fa.sweep(attr, X, targets=[0, 1], chunk_size=2)[1], expected, 1e-9)


@pytest.mark.parametrize("part", ["attention", "gate", "rms", "conv", "in place"])
@pytest.mark.parametrize("method", ["attn_lrp", "epsilon_plus"])
def test_so_are_their_derivatives(method, part):
    one, other = (of(method, part, loop) for loop in ("loop", "vmap"))
    forward = [torch.func.jvp(lambda x, a=a: a(x, target=1), (X,), (V,))[1] for a in (one, other)]
    assert_close(forward[1], forward[0], 1e-9)
    back = [torch.func.grad(lambda x, a=a: (a(x, target=1) * V).sum())(X) for a in (one, other)]
    assert_close(back[1], back[0], 1e-9)
    outer = torch.vmap(lambda x: other(x[None], target=1)[0])(X)
    assert_close(outer, one(X, target=1), 1e-9)


def test_what_is_reached_is_said_to_be():
    ruled = fa.with_rules(Net("attention", "vmap").double(), composites.attn_lrp())
    report = fa.sites(ruled, X)
    assert all(row.reached for row in report)
    assert "no gradient" not in str(report)


@pytest.mark.compiled
@pytest.mark.skipif(VERSION < (2, 13), reason="funcattr refuses to be compiled before")
def test_compiled_it_is_python_or_an_error():
    torch.compiler.reset()
    attr = of("attn_lrp", "gate", "vmap")
    expected = of("attn_lrp", "gate", "loop")(X, target=1)
    assert_close(
        torch.compile(attr, backend="aot_eager")(X, target=torch.tensor(1)), expected, 1e-9
    )
    with pytest.raises(fa.FuncattrError, match=r"under torch\.vmap.*without torch\.compile"):
        fa.sweep(attr, X, targets=[0, 1], compile=True)
    guided = of("guided_backprop", "gate", "vmap")
    maps = fa.sweep(guided, X, targets=[0, 1], compile=True)
    assert_close(maps[1], of("guided_backprop", "gate", "loop")(X, target=1), 1e-9)


def test_a_book_of_its_relevance_is_refused():
    with pytest.raises(fa.ArgumentError, match=r"conserved keeps a book.*torch\.vmap of the model"):
        fa.conserved(of("epsilon_plus", "conv", "vmap"), X, target=1)
