"""Products, weights and norms in rarer spellings, against formulas put into autograd."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close

import funcattr as fa
from transformers_by_hand import models as M

COMPOSITES = {"attn": fa.composites.attn_lrp, "cp": fa.composites.cp_lrp}
A, B, C, D, E = (torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
                 / 2 for i in range(5))  # fmt: skip
X = M.example(M.BERT)


def part(t, share):
    """``t``, whose gradient is multiplied by a number."""
    return t * share + (t * (1 - share)).detach()


def agree(model, formula, name):
    """Of a map, of a sweep, and of a map that is differentiated."""
    attr = fa.lrp(lambda x: (model(x) @ E).sum(1), COMPOSITES[name]())
    leaf = X.clone().requires_grad_()
    (g,) = torch.autograd.grad((formula(leaf, name == "cp") @ E).sum(1)[:, 3].sum(), leaf)
    maps = lambda x: attr(x, target=3)
    assert_close(maps(X), X * g, 1e-9)
    assert_close(fa.sweep(attr, X, targets=[1, 3])[1], X * g, 1e-9)
    assert_close(torch.func.jvp(maps, (X,), (torch.zeros_like(X),))[0], X * g, 1e-9)


def each(f):
    """``f`` of the tensors of each example."""
    return lambda *tensors: torch.stack([f(*ts) for ts in zip(*tensors)])


HALF = 2**-0.5
TWO = {  # of what both depend on the input, half each
    "mm": each(lambda a, b: torch.mm(a, b.T) @ C[:5]),
    "mv": each(lambda a, b: torch.outer(torch.mv(a, b[0]), C[0])),
    "dot": each(lambda a, b: torch.dot(a[0], b[1]) * C[:5]),
    "inner": each(lambda a, b: torch.inner(a, b) @ C[:5]),
    "outer": each(lambda a, b: torch.outer(a[0], b[1])[:5]),
    "vecdot": lambda a, b: torch.linalg.vecdot(a, b)[..., None] * C[0],
    "linalg": lambda a, b: torch.linalg.matmul(a, b.mT) @ C[:5],
    "tensordot": each(lambda a, b: torch.tensordot(a, b, dims=([1], [1])) @ C[:5]),
    "linear": each(lambda a, b: F.linear(a, b) @ C[:5]),
    "an einsum of a list": lambda a, b: torch.einsum("bnd,bnd->bnd", [a, b]),
    "addcmul": lambda a, b: torch.addcmul(C[:5], a, b, value=2.0),
    "addmm": each(lambda a, b: torch.addmm(D[:5, :5], a, b.T, alpha=0.5) @ C[:5]),
    "addmv": each(lambda a, b: torch.outer(torch.addmv(D[0, :5], a, b[0]), C[0])),
    "addbmm": lambda a, b: torch.addbmm(D, a.mT, b)[None, :5].expand(2, -1, -1),
    "lerp": lambda a, b: torch.lerp(torch.zeros_like(a), a, b),
}


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("two", TWO)
def test_products(two, name):
    f = TWO[two]
    agree(lambda x: f(x @ A, x @ B), lambda x, cp: f(part(x @ A, 0.5), part(x @ B, 0.5)), name)


@pytest.mark.parametrize("name", COMPOSITES)
def test_products_added_to_what_depends_on_the_input(name):
    model = each(lambda x: torch.addmm(x @ C, x @ A[:, :5], x @ B))
    formula = each(lambda x: x @ C + part(x @ A[:, :5], 0.5) @ part(x @ B, 0.5))
    agree(model, lambda x, cp: formula(x), name)
    model = lambda x: torch.baddbmm(x @ C, x @ A[:, :5], x @ B, beta=0.5, alpha=2.0)
    formula = lambda x: 0.5 * (x @ C) + 2 * part(x @ A[:, :5], 0.5) @ part(x @ B, 0.5)
    agree(model, lambda x, cp: formula(x), name)


def scores(x):
    q, k, v = ((x @ w).unflatten(-1, (2, 4)).transpose(1, 2) for w in (A, B, C))
    return q @ k.mT / 2, v


def attention(x, cp):
    q, k, v = ((x @ w).unflatten(-1, (2, 4)).transpose(1, 2) for w in (A, B, C))
    q, k, v = (part(t, p) for t, p in zip((q, k, v), (0, 0, 1) if cp else (0.25, 0.25, 0.5)))
    return (q @ k.mT / 2).softmax(-1) @ v


def in_place(s, v):
    e = s - s.detach().amax(-1, keepdim=True)
    e.exp_()
    return (e / e.sum(-1, keepdim=True)) @ v


def written_to(s, v):
    weights = s.softmax(-1) * 1
    weights.masked_fill_(torch.zeros(5, 5, dtype=torch.bool), 0)
    weights[..., :0] = 0
    weights *= torch.ones(5, 5)
    return weights @ v


WEIGHTS = {
    "exp": lambda s, v: (s.exp() / s.exp().sum(-1, keepdim=True)) @ v,
    "exp in place": in_place,
    "log_softmax": lambda s, v: s.log_softmax(-1).exp() @ v,
    "transposed": lambda s, v: s.mT.softmax(-2).mT @ v,
    "values first": lambda s, v: (v.mT @ s.softmax(-1).mT).mT,
    "one by one": lambda s, v: torch.stack([s.softmax(-1)[:, i] @ v[:, i] for i in (0, 1)], 1),
    "chunks": lambda s, v: torch.cat(
        [p @ v[:, i : i + 1] for i, p in enumerate(s.softmax(-1).chunk(2, 1))], 1
    ),
    "unbound": lambda s, v: torch.stack(
        [p @ v[:, i] for i, p in enumerate(s.softmax(-1).unbind(1))], 1
    ),
    "joined": lambda s, v: torch.cat([s.softmax(-1)[:, :1], s[:, 1:].softmax(-1)], 1) @ v,
    "where": lambda s, v: torch.where(s.isnan(), torch.zeros(()).double(), s.softmax(-1)) @ v,
    "sums": lambda s, v: (s.softmax(-1)[..., None] * v[:, :, None]).sum(-2),
    "an einsum of a list": lambda s, v: torch.einsum("...ij,...jd->...id", [s.softmax(-1), v]),
    "written to": written_to,
}


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights_of_attention(weights, name):
    whole = lambda t: t.transpose(1, 2).flatten(2)
    model = lambda x: whole(WEIGHTS[weights](*scores(x)))
    agree(model, lambda x, cp: whole(attention(x, cp)), name)


def swish(a):
    return a.sigmoid().contiguous().to(torch.float64) * a


GATES = {
    "of the same type": lambda x: F.silu((x @ A).contiguous()).to(torch.float64) * (x @ B),
    "written out, of the same type": lambda x: swish(x @ A) * (x @ B),
    "in place": lambda x: F.silu(x @ A, inplace=True) * (x @ B),
    "sliced": lambda x: F.silu(x @ torch.cat((A, B), 1))[..., :8] * (x @ B),
    "unbound": lambda x: (
        F.silu((x @ A).unflatten(-1, (2, 4))).unbind(-2)[0].repeat(1, 1, 2) * (x @ B)
    ),
}


@pytest.mark.parametrize("gate", GATES)
def test_gates(gate):
    """CP-LRP lets nothing through to them, however they were taken out of others."""
    model = GATES[gate]
    other = {"unbound": lambda t: t[..., :4].repeat(1, 1, 2)}.get(gate, lambda t: t)
    agree(model, lambda x, cp: other(F.silu(x @ A)).detach() * (x @ B), "cp")


def size(a):
    return a.pow(2).mean(-1, keepdim=True) + 1e-6


SIZES = {
    "rsqrt_": lambda a: a * size(a).rsqrt_(),
    "sqrt_": lambda a: a / size(a).sqrt_(),
    "pow_": lambda a: a * size(a).pow_(-0.5),
    "a power of a half": lambda a: a / size(a) ** 0.5,
    "float_power": lambda a: a * torch.float_power(size(a), -0.5),
    "norm": lambda a: a / torch.norm(a, p=2, dim=-1, keepdim=True) * math.sqrt(8),
    "one dim less": lambda a: a * size(a)[..., 0].rsqrt()[..., None],
    "repeated": lambda a: a * size(a).rsqrt().repeat(1, 1, 8),
}


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("norm", SIZES)
def test_norms(norm, name):
    f = lambda a: a / (size(a) if norm != "norm" else size(a) - 1e-6).sqrt().detach()
    agree(lambda x: SIZES[norm](x @ A), lambda x, cp: f(x @ A), name)


@pytest.mark.parametrize("name", COMPOSITES)
def test_a_cosine(name):
    def formula(x, cp):
        a, b = (t / t.norm(dim=-1, keepdim=True).detach() for t in (x @ A, x @ B))
        return (part(a, 0.5) * part(b, 0.5)).sum(-1, keepdim=True) * C[0]

    model = lambda x: F.cosine_similarity(x @ A, x @ B, dim=-1)[..., None] * C[0]
    agree(model, formula, name)
    fixed = lambda x: F.cosine_similarity(x @ A, B[:5], dim=-1)[..., None] * C[0]
    unit = lambda t: t / t.norm(dim=-1, keepdim=True).detach()
    one = lambda x, cp: (unit(x @ A) * unit(B[:5])).sum(-1, keepdim=True) * C[0]
    agree(fixed, one, name)


def test_an_activation_by_the_normal_distribution():
    model = lambda x: (x @ A) * torch.special.ndtr(x @ A)
    agree(model, lambda x, cp: (x @ A) * torch.special.ndtr(x @ A).detach(), "attn")


REFUSED = {
    "bilinear": lambda x: F.bilinear(x @ A, x @ B, torch.ones(8, 8, 8).double()),
    "einsum": lambda x: torch.einsum("bnd,bnd,de->bne", x @ A, x @ B, C),
    "conv1d": lambda x: F.conv1d(x[:1].mT, (x[1] @ A).mT[:, None, :3], groups=8).mT,
    "addcmul_": lambda x: torch.zeros_like(x).addcmul_(x @ A, x @ B),
    "prod": lambda x: torch.stack([x @ A, x @ B]).prod(0),
    "std_mean": lambda x: (x @ A) / torch.std_mean(x @ A, -1, keepdim=True)[0],
}


@pytest.mark.parametrize("f", REFUSED)
def test_products_that_no_rule_knows_are_refused(f):
    model = lambda x: F.gelu(REFUSED[f](x)).sum(0, keepdim=True)
    for make in COMPOSITES.values():
        with pytest.raises(
            fa.NoSiteError, match=f"{f} multiplies, or divides by, .* no rule knows"
        ):
            fa.lrp(model, make())(X, target=(0, 1))
        loose = fa.with_rules(model, make(), require_match=False)
        assert fa.input_x_gradient(loose)(X, target=(0, 1)).isfinite().all()


@pytest.mark.compiled
def test_compiled():
    torch.compiler.reset()

    def model(x):
        a = torch.baddbmm(x @ C, x @ A[:, :5], x @ B)
        a = SIZES["a power of a half"](a) * SIZES["one dim less"](x)
        a = (1 - torch.tanh(a)) * (a**2 / a.norm(dim=-1, keepdim=True)).unflatten(-1, (8, 1))[
            ..., 0
        ]
        weights = (a @ x.mT).softmax(-1).chunk(1, -1)[0]
        return (weights @ F.linear(a, A)).sum(1)

    for make in COMPOSITES.values():
        attr = fa.lrp(model, make())
        graph = torch.compile(attr, fullgraph=True, backend="aot_eager")
        assert_close(graph(X, target=3), attr(X, target=3), 1e-10)
