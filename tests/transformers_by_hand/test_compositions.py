"""Relevance of transformers under every transform: one value by all ways, true derivatives."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close, direction
from oracle import numeric_derivative
from torch import nn
from torch.func import grad, jvp, vmap

import funcattr as fa
from transformers_by_hand import models as M

COMPOSITES = {"attn": fa.composites.attn_lrp, "cp": fa.composites.cp_lrp}
TARGETS = [(-1, 7), (-1, 2), (3, 2), (0, 5)]
CONFIGS = ["llama", "gpt2", "bert"]


@pytest.fixture(params=COMPOSITES)
def composite(request):
    return COMPOSITES[request.param]()


def dot(map_):
    return (map_ * direction(map_, 3)).sum()


@pytest.mark.parametrize("config", CONFIGS)
def test_one_value_by_all_ways(config, composite):
    model = M.model(M.CONFIGS[config])
    attr = fa.lrp(fa.over_embeddings(model), composite)
    looped = torch.stack([attr(M.IDS, target=t) for t in TARGETS])
    assert_close(fa.sweep(attr, M.IDS, targets=TARGETS), looped, 1e-11)
    assert_close(fa.sweep(attr, M.IDS, targets=TARGETS, chunk_size=3), looped, 1e-11)
    tops = torch.tensor([7, 2, 4])  # of a vocabulary
    out, explain = attr.linearize(M.IDS)
    assert_close(out, model(M.IDS).detach(), 0)
    last = vmap(lambda t: explain(lambda out: out[:, -1].index_select(-1, t.reshape(1))))(tops)
    assert_close(last[:2], looped[:2], 1e-11)
    over_sequences = vmap(lambda ids: attr(ids[None], target=TARGETS[0])[0])(M.IDS)
    assert_close(over_sequences, looped[0], 1e-11)
    assert_close(attr(M.IDS[1:], target=TARGETS[0]), looped[0, 1:], 1e-11)


@pytest.mark.parametrize("attention", ["sdpa", "matmul"])
def test_a_mask_under_vmap(attention, composite):
    model = M.model(M.BERT).spelled(attention=attention)
    attr = fa.lrp(fa.over_embeddings(model), composite)
    whole = attr(M.IDS, M.PADDING, target=(0, 7))
    each = vmap(lambda ids, mask: attr(ids[None], mask[None], target=(0, 7))[0])(M.IDS, M.PADDING)
    assert_close(each, whole, 1e-11)


def test_values_are_the_models(composite):
    """Bit for bit, by torch's own kernel."""
    for config in CONFIGS:
        model, x = M.model(M.CONFIGS[config]), M.example(M.CONFIGS[config])
        ruled = fa.with_rules(model, composite)
        assert torch.equal(ruled(x), model(x))
        assert torch.equal(fa.lrp(model, composite).linearize(x)[0], model(x))


@pytest.mark.parametrize("config", CONFIGS)
def test_derivatives(config, composite):
    """By the input, against finite differences: in forward and reverse mode, and of a sweep."""
    model, x = M.model(M.CONFIGS[config], layers=1), M.example(M.CONFIGS[config])
    model, v = model.spelled(norm="rsqrt", act="written"), M.example(M.CONFIGS[config], seed=5)
    attr = fa.lrp(model, composite)
    maps = lambda x: attr(x, target=(-1, 7))
    numeric = numeric_derivative(maps, x, v)
    assert_close(jvp(maps, (x,), (v,))[1], numeric, 1e-6)
    swept = lambda x: fa.sweep(attr, x, targets=TARGETS[:2])
    assert_close(jvp(swept, (x,), (v,))[1][0], numeric, 1e-6)
    expected = dot(numeric)
    assert_close((grad(lambda x: dot(maps(x)))(x) * v).sum(), expected, 1e-6)
    leaf = x.clone().requires_grad_()
    dot(maps(leaf)).backward()
    assert_close((leaf.grad * v).sum(), expected, 1e-6)


def test_derivatives_by_parameters(composite):
    model = M.model(M.LLAMA, layers=1).spelled(norm="rsqrt")
    f, params = fa.make_functional(model)
    attr, x = fa.lrp(f, composite, argnums=1), M.example(M.LLAMA)
    v = {name: direction(p) for name, p in params.items()}
    moved = lambda eps: dot(attr({n: p + eps * v[n] for n, p in params.items()}, x, target=(-1, 7)))
    numeric = (moved(1e-6) - moved(-1e-6)) / 2e-6
    grads = grad(lambda p: dot(attr(p, x, target=(-1, 7))))(params)
    assert_close(sum((grads[n] * v[n]).sum() for n in params), numeric, 1e-6)


def test_a_bundle_shares_its_lookup_and_its_pass():
    model, count = M.model(M.GPT2), []
    over = fa.over_embeddings(model)
    attrs = [fa.lrp(over, make()) for make in COMPOSITES.values()]
    attrs += [fa.input_x_gradient(over), fa.gradient(over)]
    alone = [attr(M.IDS, target=(-1, 7)) for attr in attrs]
    assert not any(torch.allclose(a, b) for i, a in enumerate(alone) for b in alone[:i])
    model.head.forward = lambda x: (
        count.append(1) or F.linear(x, model.head.weight, model.head.bias)
    )
    for a, b in zip(fa.bundle(*attrs)(M.IDS, target=(-1, 7)), alone):
        assert_close(a, b, 1e-11)
    assert len(count) == 1


def test_composites_that_stop_different_things_in_one_bundle():
    """What one lets nothing through to, another shares."""
    share = fa.Composite([("product", fa.rules.share), ("activation", fa.rules.pass_through)])
    model, x = M.model(M.LLAMA).spelled(norm="rsqrt"), M.example(M.LLAMA)
    attrs = [fa.lrp(model, c) for c in (fa.composites.attn_lrp(), share, fa.composites.cp_lrp())]
    alone = [attr(x, target=(-1, 7)) for attr in attrs]
    for a, b in zip(fa.bundle(*attrs)(x, target=(-1, 7)), alone):
        assert_close(a, b, 1e-11)


def test_layers_and_heads(composite):
    """A layer's relevance; that of heads by the input of what mixes them."""
    model, x = M.model(M.LLAMA), M.example(M.LLAMA)
    ruled = fa.with_rules(model, composite)
    at = fa.layer_gradient_x_activation(ruled, "blocks.1.o", attribute_to_layer_input=True)
    maps = at(x, target=(-1, 7)).unflatten(-1, (M.HEADS, M.HEAD)).sum((1, 3))
    assert maps.shape == (2, M.HEADS)
    out = fa.layer_gradient_x_activation(ruled, "blocks.1.o")(x, target=(-1, 7))
    assert_close(maps.sum(1), out.sum((1, 2)), 1e-9)  # without a bias
    swept = fa.sweep(at, x, targets=TARGETS)
    assert_close(swept[0].unflatten(-1, (M.HEADS, M.HEAD)).sum((1, 3)), maps, 1e-11)


def test_the_model_in_training_and_checkpoints_are_left_as_they_are(composite):
    model = M.model(M.GPT2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    attr = fa.lrp(fa.over_embeddings(model), composite)
    attr(M.IDS, target=(-1, 7))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    assert "forward" not in vars(model.tokens)


# ------------------------------------------------------------------------------ torch's own layers


def encoder(norm_first):
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, F.gelu, norm_first=norm_first,
                                       batch_first=True)  # fmt: skip
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.4, generator=torch.Generator().manual_seed(p.numel()))
    return model


def written(model, x, norm_first, padding):
    """The same as `encoder`, of functions."""
    for layer in model.layers:
        a = layer.self_attn

        def attend(x, a=a):
            q, k, v = F.linear(x, a.in_proj_weight, a.in_proj_bias).chunk(3, -1)
            q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))
            scores = (q @ k.mT / 2).masked_fill(padding[:, None, None], float("-inf"))
            return a.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

        feed = lambda x, m=layer: m.linear2(F.gelu(m.linear1(x)))
        if norm_first:
            x = x + attend(layer.norm1(x))
            x = x + feed(layer.norm2(x))
        else:
            x = layer.norm1(x + attend(x))
            x = layer.norm2(x + feed(x))
    return x


@pytest.mark.parametrize("norm_first", [False, True])
def test_torchs_own_encoder(norm_first, composite):
    model, x, padding = encoder(norm_first), M.example(M.BERT), ~M.PADDING
    attr = fa.lrp(model, composite)
    # Torch's own kernels differ by what requires a gradient.
    out = attr.linearize(x, src_key_padding_mask=padding)[0]
    assert_close(out, model(x, src_key_padding_mask=padding).detach(), 1e-13)
    ours = attr(x, src_key_padding_mask=padding, target=(0, 3))
    other = fa.lrp(lambda x: written(model, x, norm_first, padding), composite)
    assert_close(ours, other(x, target=(0, 3)), 1e-9)


def test_attention_weights_asked_of_torchs_own(composite):
    mha = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    x = M.example(M.BERT)
    with_weights = fa.lrp(lambda x: torch.tanh(mha(x, x, x)[0]), composite)
    without = fa.lrp(lambda x: torch.tanh(mha(x, x, x, need_weights=False)[0]), composite)
    assert_close(with_weights(x, target=(1, 2)), without(x, target=(1, 2)), 1e-9)


# ---------------------------------------------------------------------------------------- compiled


@pytest.mark.compiled
def test_compiled():
    torch.compiler.reset()
    model = M.model(M.LLAMA, layers=1).spelled(norm="rsqrt", act="written")
    attr, x = fa.lrp(model, fa.composites.attn_lrp()), M.example(M.LLAMA)
    compiled = torch.compile(attr, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x, target=(-1, 7)), attr(x, target=(-1, 7)), 1e-10)


@pytest.mark.compiled
def test_compiled_of_token_ids(composite):
    """With a mask and a gate; by itself, and by a function around it."""
    torch.compiler.reset()
    model = M.model(M.BERT, layers=1)
    model.head = nn.Sequential(nn.Linear(M.DIM, 6), nn.GLU()).double()
    attr = fa.lrp(fa.over_embeddings(model), composite)
    graph = torch.compile(attr, fullgraph=True, backend="aot_eager")
    around = torch.compile(lambda ids, mask: attr(ids, mask, target=(0, 2)).abs(), fullgraph=True,
                           backend="aot_eager")  # fmt: skip
    for ids in (M.IDS, M.IDS.flip(0)):
        assert_close(graph(ids, target=(0, 2)), attr(ids, target=(0, 2)), 1e-11)
        expected = attr(ids, M.PADDING, target=(0, 2)).abs()
        assert_close(around(ids, M.PADDING), expected, 1e-11)


@pytest.mark.compiled
def test_compiled_sweeps_of_token_ids():
    torch.compiler.reset()
    attr = fa.lrp(fa.over_embeddings(M.model(M.LLAMA, layers=1)), fa.composites.attn_lrp())
    for ids in (M.IDS, M.IDS.flip(0)):
        swept = fa.sweep(attr, ids, targets=TARGETS[:3], chunk_size=2, compile=True)
        assert_close(swept, fa.sweep(attr, ids, targets=TARGETS[:3]), 1e-11)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("attention", ["sdpa", "grouped"])
def test_torchs_kernel_for_many_targets(config, attention):
    """In a sweep, with masks of all kinds, and in one pass under an outer derivative."""
    model = M.model(M.CONFIGS[config]).spelled(attention=attention)
    places = [(0, t) for t in range(M.VOCAB)]
    for mask in (None, M.PADDING, M.PADDING[:1]) if config == "bert" else (None,):
        for method in (fa.gradient, lambda f: fa.lrp(f, fa.composites.attn_lrp())):
            attr = method(fa.over_embeddings(model))
            looped = torch.stack([attr(M.IDS, mask, target=t) for t in places])
            for size in (None, 3):
                swept = fa.sweep(attr, M.IDS, mask, targets=places, chunk_size=size)
                assert_close(swept, looped, 1e-11)
            assert_close(attr.linearize(M.IDS, mask)[1]((0, 4)), looped[4], 1e-11)


def test_a_gate_is_known_however_long_ago_it_was_made(composite):
    w = torch.randn(3, 4, 4, dtype=torch.float64) / 2

    def model(early, x):
        gate = F.silu(x @ w[0]) if early else None
        up, h = x @ w[1], x
        for _ in range(60):
            h = torch.tanh(h @ w[2])
        return ((F.silu(x @ w[0]) if gate is None else gate) * up + h).sum(1, keepdim=True)

    x = torch.randn(2, 4, dtype=torch.float64)
    early, late = (fa.lrp(lambda x, e=e: model(e, x), composite)(x) for e in (True, False))
    assert_close(early, late)
