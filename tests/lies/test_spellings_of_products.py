"""Each way to write a product with a weight follows the rule of linear layers, or is refused."""

import pytest
import torch
import torch.nn.functional as F
from conftest import VERSION
from helpers import assert_close
from torch import nn
from torch.func import grad

import funcattr as fa

R = fa.rules
W = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
V, B, SQUARE = W[:, 0].clone(), W[0].clone(), W[:3] + 2 * torch.eye(3, dtype=torch.float64)
ATEN = torch.ops.aten
RULES = (R.epsilon(0.3), R.z_plus(eps=0.1), R.alpha_beta(eps=0.1), R.gamma(eps=0.1))
RULES += (R.flat(), R.w_square(), R.z_box(-4, 4))
per_example = lambda f: lambda x: torch.stack([f(row) for row in x])

# (the spelling, the same by F.linear)
BY_W = lambda x: F.linear(x, W.T)
BY_V = lambda x: F.linear(x, V[None])
SHIFTED = lambda x: F.linear(x, W.T, B)
SPELLINGS = {
    "rmatmul": (lambda x: torch.Tensor.__rmatmul__(W, x), BY_W),
    "linalg.matmul": (lambda x: torch.linalg.matmul(x, W), BY_W),
    "aten.mm": (lambda x: ATEN.mm(x, W), BY_W),
    "aten.mm.default": (lambda x: ATEN.mm.default(x, W), BY_W),
    "aten.linear": (lambda x: ATEN.linear(x, W.T), BY_W),
    "mv": (lambda x: torch.mv(x, V)[:, None], BY_V),
    "Tensor.mv by name": (lambda x: x.mv(vec=V)[:, None], BY_V),
    "mv of a weight": (per_example(lambda x: torch.mv(W.T, x)), per_example(BY_W)),
    "dot": (per_example(lambda x: torch.dot(x, V)[None]), per_example(BY_V)),
    "Tensor.dot": (per_example(lambda x: V.dot(x)[None]), per_example(BY_V)),
    "vdot": (per_example(lambda x: torch.vdot(x, V)[None]), per_example(BY_V)),
    "inner": (lambda x: torch.inner(x, W.T), BY_W),
    "vecdot": (lambda x: torch.linalg.vecdot(x, V)[:, None], BY_V),
    "vecdot by name": (lambda x: torch.linalg.vecdot(x=V, y=x, dim=1)[:, None], BY_V),
    "tensordot": (lambda x: torch.tensordot(x, W, 1), BY_W),
    "tensordot of dims": (lambda x: torch.tensordot(W, x, dims=([0], [1])).T, BY_W),
    "einsum, batch last": (lambda x: torch.einsum("io,ib->ob", W, x.T).T, BY_W),
    "einsum of one": (per_example(lambda x: torch.einsum("i,io->o", x, W)), per_example(BY_W)),
    "linear by a vector": (lambda x: F.linear(x, V)[:, None], BY_V),
    "aten.linear by a vector": (lambda x: ATEN.linear(x, weight=V)[:, None], BY_V),
    "linear of one by a vector": (
        per_example(lambda x: F.linear(x, V, B[0])[None]),
        lambda x: F.linear(x, V[None], B[:1]),
    ),
    "sparse.mm": (lambda x: torch.sparse.mm(W.T.to_sparse(), x.T).T, BY_W),
    "sparse.mm by rows": (lambda x: torch.sparse.mm(W.T.to_sparse_csr(), x.T).T, BY_W),
    "sparse @": (lambda x: (W.T.to_sparse() @ x.T).T, BY_W),
    "baddbmm": (lambda x: torch.baddbmm(B, x[None], W[None])[0], SHIFTED),
    "addbmm": (lambda x: torch.addbmm(B, x[None], W[None]), SHIFTED),
    "addmv": (lambda x: torch.addmv(B[:1], x, V)[:, None], lambda x: F.linear(x, V[None], B[:1])),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", SPELLINGS)
def test_as_a_linear_layer(name, rule):
    sparse = name.startswith("sparse")
    spelled, expected = (fa.lrp(f, fa.Composite([("linear", rule)])) for f in SPELLINGS[name])
    x = torch.randn(2, 4, dtype=torch.float64)
    assert_close(spelled(x, target=0), expected(x, target=0))
    plain = fa.input_x_gradient(SPELLINGS[name][0])(x, target=0)
    assert not torch.allclose(spelled(x, target=0), plain)
    if not sparse:  # torch.vmap knows none
        assert_close(*(fa.sweep(attr, x, targets=[0, 0]) for attr in (spelled, expected)))
        assert_close(
            *(grad(lambda x, a=a: a(x, target=0).square().sum())(x) for a in (spelled, expected))
        )


OUTER = {
    "outer": lambda x: torch.outer(x, V),
    "ger": lambda x: torch.ger(x, V),
    "kron": lambda x: torch.kron(x, V).view(4, 4),
    "addr": lambda x: torch.addr(x.new_zeros(4, 4), x, V),
    "einsum": lambda x: torch.einsum("i,j->ij", x, V),
}


@pytest.mark.parametrize("name", OUTER)
def test_outer_products(name):
    """Each number is the weight times one input: epsilon by hand."""
    x, g = torch.randn(4, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    attr = fa.lrp(
        lambda x: (OUTER[name](x) * g).sum()[None], fa.Composite([("linear", R.epsilon(0.3))])
    )
    z = torch.outer(x, V)
    by_hand = (z / (z + 0.3 * z.sign()) * g * V).sum(1) * x
    assert_close(attr(x), by_hand)


class Cell(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell = kind(4, 3).double()

    def forward(self, x):
        out = self.cell(x)
        return out[0] if isinstance(out, tuple) else out


REFUSED = {
    "chain_matmul": lambda x: torch.chain_matmul(x, W, SQUARE),
    "multi_dot": lambda x: torch.linalg.multi_dot([x, W, SQUARE]),
    "einsum of three": lambda x: torch.einsum("bi,io,op->bp", x, W, SQUARE),
    "addmm by an alpha": lambda x: torch.addmm(B, x, W, alpha=0.5),
    "addmm in place": lambda x: B.expand(2, 3).clone().addmm_(x, W),
    "sparse.addmm": lambda x: torch.sparse.addmm(B[:, None].expand(3, 2), W.T.to_sparse(), x.T).T,
    "bilinear": lambda x: F.bilinear(x, x.new_ones(2, 4), W.T[:, :, None].expand(3, 4, 4)),
    "embedding_bag": lambda x: F.embedding_bag(
        torch.arange(4).expand(2, 4), W, per_sample_weights=x, mode="sum"
    ),
    "convolution": lambda x: torch.convolution(
        x[..., None], W.T[..., None], None, [1], [0], [1], False, [0], 1
    )[..., 0],
    "conv_tbc": lambda x: torch.conv_tbc(x[:, None], W[None], B)[:, 0],
    "lstm_cell": Cell(nn.LSTMCell),
    "gru": Cell(nn.GRU),
}


@pytest.mark.filterwarnings("ignore:torch.chain_matmul is deprecated")
@pytest.mark.parametrize("name", REFUSED)
def test_no_rule_and_an_error(name):
    if name == "embedding_bag" and VERSION < (2, 8):
        pytest.skip("torch itself crashes at the derivative by its weights")
    model, x = REFUSED[name], torch.randn(2, 4, dtype=torch.float64)
    composite = fa.composites.epsilon_plus()
    for call in (
        lambda: fa.lrp(model, composite)(x, target=0),
        lambda: torch.vmap(lambda x: fa.lrp(model, composite)(x, target=0))(x[None]),
    ):
        with pytest.raises(fa.errors.HiddenSiteError, match="that no rule can act on"):
            call()
    ruled = fa.with_rules(model, composite, require_match=False)
    assert_close(fa.input_x_gradient(ruled)(x, target=0), fa.input_x_gradient(model)(x, target=0))
    kinds = [row.activation for row in fa.sites(ruled, x) if row.rule is None]
    assert kinds and set(kinds) <= {"linear", "convolution"}


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="torch has none")
def test_a_mixture_of_experts_by_one_product_is_an_error():
    """As transformers has it. It knows no float64."""
    weights, x = torch.randn(2, 16, 16), torch.randn(4, 16)
    ends = torch.tensor([1, 4], dtype=torch.int32)
    for multiply in (F.grouped_mm, torch._grouped_mm, torch.ops.aten._grouped_mm.default):
        model = lambda x, multiply=multiply: multiply(x, weights, offs=ends)
        with pytest.raises(fa.errors.HiddenSiteError, match="that no rule can act on"):
            fa.lrp(model, fa.composites.epsilon_plus())(x, target=0)
        gates = fa.lrp(lambda x, model=model: F.silu(model(x)), fa.composites.attn_lrp())
        assert gates(x, target=0).abs().max() > 0  # which have no rule for linear layers


SCRIPTED = {
    "dot": lambda x, v: torch.dot(x[0], v)[None, None],
    "addmv": lambda x, v: torch.addmv(x.new_zeros(2), x, v)[:, None],
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("name", SCRIPTED)
def test_hidden_in_torchscript_is_an_error(name):
    x = torch.randn(2, 4, dtype=torch.float64)
    traced = torch.jit.trace(SCRIPTED[name], (x, V))
    with pytest.raises(fa.errors.HiddenSiteError, match="that no call made which a rule can see"):
        fa.lrp(lambda x: traced(x, V), fa.composites.epsilon_plus())(x, target=0)


PRODUCTS = {
    "addcdiv": lambda x: V.expand(2, 4).clone().addcdiv_(x, x.exp()),
    "addcmul_": lambda x: V.expand(2, 4).clone().addcmul_(x, x.exp()),
    "einsum of three": lambda x: torch.einsum("bi,bj,ij->bi", x, x.tanh(), SQUARE.new_ones(4, 4)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_inside_of_sums(name):
    """Shared among its factors each product has a rule: none can be told from the sum."""
    x = torch.randn(2, 4, dtype=torch.float64)
    with pytest.raises(fa.errors.HiddenSiteError, match=r"no rule (can act on|knows)"):
        fa.lrp(PRODUCTS[name], fa.composites.attn_lrp())(x, target=0)


WRITTEN = {
    "lerp": (torch.lerp, lambda a, b, w: a + w * (b - a)),
    "lerp by name": (lambda a, b, w: a.lerp(b, weight=w), lambda a, b, w: a + w * (b - a)),
    "addcmul": (torch.addcmul, lambda x, a, b: x + a * b),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_products_that_are_written_out(name):
    x = torch.randn(2, 4, dtype=torch.float64)
    fused, written = (
        fa.lrp(lambda x, f=f: f(x, x.tanh(), x.sigmoid()), fa.composites.attn_lrp())(x, target=0)
        for f in WRITTEN[name]
    )
    assert_close(fused, written, 1e-12)


def test_sums_in_other_spellings():
    x = torch.randn(2, 4, dtype=torch.float64)
    composite = fa.Composite([("sum", R.epsilon(0.3))])
    expected = fa.lrp(lambda x: V - x.tanh(), composite)(x, target=0)
    for f in (
        lambda x: torch.rsub(x.tanh(), V),
        lambda x: torch.Tensor.__rsub__(x.tanh(), V),
        lambda x: ATEN.sub(V, x.tanh()),
        lambda x: V.expand(2, 4).clone().subtract_(x.tanh()),
    ):
        assert_close(fa.lrp(f, composite)(x, target=0), expected)


def test_no_product_is_none():
    """What does not depend on the input may be multiplied in any way."""
    x = torch.randn(2, 4, dtype=torch.float64)
    model = lambda x: (
        x @ torch.linalg.multi_dot([W, SQUARE, SQUARE])
        + torch.addmm(B, W.T @ W, SQUARE, alpha=2.0).sum(0)
    )
    same = W @ SQUARE @ SQUARE
    composite = fa.Composite([("linear", R.epsilon(0.3))])
    expected = fa.lrp(lambda x: x @ same, composite)(x, target=0)
    assert_close(fa.lrp(model, composite)(x, target=0), expected)
