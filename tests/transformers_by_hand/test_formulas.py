"""AttnLRP and CP-LRP against the formulas, in every spelling."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close
from torch import nn

import funcattr as fa
from transformers_by_hand import models as M
from transformers_by_hand import oracle

PLACE = (-1, 7)
COMPOSITES = {"attn": fa.composites.attn_lrp, "cp": fa.composites.cp_lrp}
SPELLINGS = [
    {},
    *({"norm": norm} for norm in M.NORMS if norm != "function"),
    *({"attention": attention} for attention in M.ATTENTION if attention != "sdpa"),
    *({"act": act} for act in ("written", "module")),
]


def expected(model, x, name, place=PLACE, padding=None):
    return oracle.lrp(model, x, place, name == "cp", padding)


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
@pytest.mark.parametrize("config", M.CONFIGS)
def test_formulas(config, spelling, name):
    model, x = M.model(M.CONFIGS[config]), M.example(M.CONFIGS[config])
    ours = fa.lrp(model.spelled(**spelling), COMPOSITES[name]())(x, target=PLACE)
    assert_close(ours, expected(model, x, name), 1e-9)


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("attention", M.ATTENTION)
def test_padding(attention, name):
    """A mask of the tokens; those behind it have no relevance."""
    model, x = M.model(M.BERT).spelled(attention=attention), M.example(M.BERT)
    ours = fa.lrp(model, COMPOSITES[name]())(x, M.PADDING, target=(0, 7))
    assert_close(ours, expected(model, x, name, (0, 7), M.PADDING), 1e-9)
    assert (ours[1, 3:] == 0).all() and ours[1, :3].abs().max() > 1e-3


@pytest.mark.parametrize("name", COMPOSITES)
def test_ids(name):
    """Relevance per token, for every way to say which embedding layer it is."""
    model = M.model(M.LLAMA)
    x = model.tokens(M.IDS).detach()
    for layer in (None, "tokens", model.tokens):
        attr = fa.lrp(fa.over_embeddings(model, layer), COMPOSITES[name]())
        ours = attr(M.IDS, target=PLACE)
        assert_close(ours, expected(model, x, name).sum(-1), 1e-9)
    whole = fa.lrp(fa.over_embeddings(model, per_token=False), COMPOSITES[name]())
    assert_close(whole(M.IDS, target=PLACE), expected(model, x, name), 1e-9)


def test_cp_lrp_conserves_without_biases():
    model = M.model(M.LLAMA)
    for spelling in SPELLINGS:
        attr = fa.lrp(fa.over_embeddings(model.spelled(**spelling)), fa.composites.cp_lrp())
        maps, logits = attr(M.IDS, target=PLACE), model(M.IDS)[:, -1, 7]
        assert_close(maps.sum(1), logits.detach(), 1e-4)  # but for the eps of its norms


class Parts(nn.Module):
    """One operation behind a linear layer, that conserves by itself."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


Q, K, V = (torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
           for i in range(3))  # fmt: skip


def heads(x, w):
    return (x @ w).unflatten(-1, (2, 4)).transpose(1, 2)


# name -> a function whose value AttnLRP shares out whole
CONSERVE = {
    "values alone": lambda x: torch.tanh(F.scaled_dot_product_attention(Q, K[:5], x)) @ K,
    "a product of two": lambda x: (x @ Q) * (x @ K),
    "a product in place": lambda x: (x @ Q).mul_(x @ K),
    "a matmul of two": lambda x: (x @ Q) @ (x @ K).mT,
    "activations": lambda x: F.gelu(x @ Q) + F.silu(x @ K) + torch.tanh(x @ V),
    "a gate": lambda x: F.silu(x @ Q) * (x @ K),
    "rms norm": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)),
    "layer norm": lambda x: F.layer_norm(x, (8,)),
    "group norm": lambda x: F.group_norm(x.flatten(0, 1)[..., None], 2, eps=1e-12).reshape(x.shape),
    "length one": lambda x: F.normalize(x @ Q, dim=-1) @ K,
    "an absolute value": lambda x: (x @ Q).abs(),
    "a square": lambda x: (x @ Q) ** 2 + (x @ K).square(),
}


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("part", CONSERVE)
def test_each_rule_conserves(part, name):
    f = CONSERVE[part]
    x = M.example(M.BERT) + 0.3
    model = Parts(lambda x: f(x).flatten(1))
    book = fa.conserved(fa.lrp(model, COMPOSITES[name]()), x, target=9)
    assert_close(book.arrived, model(x)[:, 9], 1e-4)
    assert book.arrived.abs().max() > 1e-3


def test_what_does_not_depend_on_the_input_leaves_its_part():
    """Queries that are constants: the keys get what they would have had."""
    q = heads(M.example(M.BERT), Q)
    written = lambda x: ((q @ heads(x, K).mT / 2).softmax(-1) @ heads(x, V)).flatten(1)
    fused = lambda x: F.scaled_dot_product_attention(q, heads(x, K), heads(x, V)).flatten(1)
    x = M.example(M.BERT, seed=3)
    for composite in (fa.composites.attn_lrp(), fa.composites.cp_lrp()):
        maps = [fa.lrp(f, composite)(x, target=5) for f in (written, fused)]
        assert_close(*maps, 1e-9)


def test_a_softmax_that_is_no_attention_has_its_derivative():
    f = lambda x: (x @ Q).mean(1).softmax(-1)
    x = M.example(M.BERT)
    for composite in (fa.composites.attn_lrp(), fa.composites.cp_lrp()):
        plain = fa.input_x_gradient(f)(x, target=3)
        loose = fa.with_rules(f, composite, require_match=False)
        assert_close(fa.input_x_gradient(loose)(x, target=3), plain, 1e-12)


def test_rows_in_front():
    """Other rules at linear layers, as the paper has them for images."""
    model, x = M.model(M.VIT), M.example(M.VIT)
    gamma = fa.Composite([("linear", fa.rules.gamma(0.1)), ("convolution", fa.rules.gamma())])
    ours = fa.lrp(model, gamma + fa.composites.attn_lrp())(x, target=PLACE)
    assert (ours - fa.lrp(model, fa.composites.attn_lrp())(x, target=PLACE)).abs().max() > 1e-3
    none = fa.Composite([("linear", fa.rules.gamma(0.0, eps=0.0))])
    same = fa.lrp(model, none + fa.composites.attn_lrp())(x, target=PLACE)
    assert_close(same, expected(model, x, "attn"), 1e-9)


GLUS = {
    "function": F.glu,
    "module": nn.GLU(),
    "another dim": lambda h: F.glu(h.mT, dim=1).mT,
    "written out": lambda h: h.chunk(2, -1)[0] * torch.sigmoid(h.chunk(2, -1)[1]),
}


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("glu", GLUS)
def test_glu_is_a_gate(glu, name):
    x = M.example(M.BERT)
    a, b = (x @ Q).chunk(2, -1)
    part = torch.zeros(4, dtype=torch.float64).index_fill(0, torch.tensor(2), 1)
    c_a, c_b = b.sigmoid() * part, a * b.sigmoid() / b * part
    c = torch.cat((c_a / 2, c_b / 2) if name == "attn" else (c_a, 0 * c_b), -1)
    model = lambda x: GLUS[glu](x @ Q).sum(1)
    attr = fa.lrp(model, COMPOSITES[name]())
    assert_close(attr(x, target=2), x * (c @ Q.T), 1e-11)
    assert_close(fa.sweep(attr, x, targets=[2, 1])[0], x * (c @ Q.T), 1e-11)
    ruled = fa.with_rules(model, COMPOSITES[name]())
    assert torch.equal(ruled(x), model(x))
    v, map_ = M.example(M.BERT, seed=4), lambda x: attr(x, target=2)
    numeric = (map_(x + 1e-6 * v) - map_(x - 1e-6 * v)) / 2e-6
    assert_close(torch.func.jvp(map_, (x,), (v,))[1], numeric, 1e-6)
