"""What cannot be explained is refused, by what it is and where."""

import functools

import pytest
import torch
import torch.nn.functional as F
from conftest import skip_without_halves
from torch import nn

import funcattr as fa
from transformers_by_hand import models as M

ATTN, CP = fa.composites.attn_lrp(), fa.composites.cp_lrp()
IDS = M.IDS


class Flash(torch.autograd.Function):
    """Attention, or a norm, in a kernel of one's own."""

    @staticmethod
    def forward(ctx, x):
        return x / x.square().mean(-1, keepdim=True).sqrt()

    @staticmethod
    def backward(ctx, g):
        return g


class Kernel(nn.Module):
    def forward(self, x):
        return F.gelu(Flash.apply(x))


class OddNorm(nn.Module):
    """Scales by the largest number, which no rule knows."""

    def forward(self, x):
        return x / x.amax(-1, keepdim=True)


class Half(nn.Module):
    def forward(self, x):
        return F.layer_norm(x, (8,))


def of(inner):
    return nn.Sequential(nn.Linear(8, 8), inner, nn.GELU(), nn.Linear(8, 2))


class Positions(nn.Module):
    """Two embedding layers."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(11, 8), nn.Embedding(12, 8)

    def forward(self, ids):
        return F.gelu(self.words(ids) + self.places.weight[: ids.shape[1]])


class Fused(nn.Module):
    """As timm's: its softmax and its dropout run where attention is written out."""

    def __init__(self, fused=True):
        super().__init__()
        self.fused, self.qkv = fused, nn.Linear(8, 24)
        self.softmax, self.drop = nn.Softmax(-1), nn.Dropout(0.0)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v)
        return self.drop(self.softmax(q @ k.mT / 8**0.5)) @ v


class Weights(nn.Module):
    def __init__(self, need_weights=False):
        super().__init__()
        self.attn, self.need = nn.MultiheadAttention(8, 2, batch_first=True), need_weights

    def forward(self, x):
        return self.attn(x, x, x, need_weights=self.need)


def explained(model, x, composite=ATTN):
    return fa.lrp(model, composite)(x, target=0)


X, TOKENS = torch.randn(2, 8), torch.randn(2, 5, 8)
FUSED = r"at '{}' is one call \(scaled_dot_product_attention\).*attn_implementation='eager'"
LAYERS = (fa.layer_gradient_x_activation, fa.grad_cam, fa.layer_output)


def asked(method, layer, ruled):
    """For what is no layer where attention is fused."""
    model = of(Fused())
    f = method(fa.with_rules(model, ATTN) if ruled else model, layer)
    return f(TOKENS) if method is fa.layer_output else f(TOKENS, target=(0, 1))


# name -> (call, error, words)
WRONG = {
    "a kernel that hides attention": (
        lambda: explained(of(Kernel()), X),
        fa.NoSiteError,
        "FlashBackward",
    ),
    "a norm that is not recognised": (
        lambda: explained(of(OddNorm()), X),
        fa.NoSiteError,
        "OddNorm at '1' .* no norm",
    ),
    "instance norm": (
        lambda: explained(nn.InstanceNorm1d(8), torch.randn(2, 8, 3)),
        fa.NoSiteError,
        "no norm",
    ),
    "float16": (lambda: explained(of(Half()).half(), X.half()), fa.ArgumentError, "in float16"),
    "float16 attention": (
        lambda: explained(lambda x: F.scaled_dot_product_attention(x, x, x), X[None].half()),
        fa.ArgumentError,
        "in float16",
    ),
    "a function of ids": (
        lambda: fa.over_embeddings(lambda ids: ids),
        fa.ArgumentError,
        "takes an nn.Module",
    ),
    "a model of parameters": (
        lambda: fa.over_embeddings(fa.make_functional(Positions())[0]),
        fa.ArgumentError,
        "takes an nn.Module",
    ),
    "no embedding layer": (lambda: fa.over_embeddings(of(Half())), fa.LayerError, "there are none"),
    "several embedding layers": (
        lambda: fa.over_embeddings(Positions()),
        fa.LayerError,
        "several, 'words', 'places'",
    ),
    "a path of nothing": (
        lambda: fa.over_embeddings(Positions(), "word"),
        fa.LayerError,
        "no 'word'. Did you mean 'words'",
    ),
    "a module of another model": (
        lambda: fa.over_embeddings(Positions(), nn.Embedding(2, 2)),
        fa.LayerError,
        "no module of the model",
    ),
    "a number for a layer": (
        lambda: fa.over_embeddings(Positions(), 3),
        fa.ArgumentError,
        "or the path of one",
    ),
    "a layer that does not see the ids": (
        lambda: explained(fa.over_embeddings(Positions(), "places"), IDS),
        fa.LayerError,
        "did not run on the ids",
    ),
    "embeddings for ids": (
        lambda: explained(fa.over_embeddings(Positions(), "words"), torch.randn(2, 5, 8)),
        fa.ArgumentError,
        "a tensor of token ids",
    ),
    "a list for ids": (
        lambda: explained(fa.over_embeddings(Positions(), "words"), [[1, 2]]),
        fa.ArgumentError,
        "a tensor of token ids",
    ),
    "ids by name": (
        lambda: fa.lrp(fa.over_embeddings(Positions(), "words"), ATTN)(ids=IDS, target=0),
        fa.ArgumentError,
        "passed by position",
    ),
    "ids of a model that is not over its embeddings": (
        lambda: explained(Positions(), IDS),
        fa.ArgumentError,
        "over_embeddings",
    ),
    "weights of what has none": (
        lambda: explained(of(nn.Identity()), X, fa.Composite([("linear", fa.rules.stop_weights)])),
        fa.ArgumentError,
        "which the linear of '0' is not",
    ),
    "a scale of what is no norm": (
        lambda: explained(of(nn.Identity()), X, fa.Composite([("gelu", fa.rules.fixed_scale)])),
        fa.ArgumentError,
        "fixed_scale is for norms",
    ),
}


WRONG |= {
    f"attention weights by {method.__name__} at {layer}, ruled {ruled}": (
        lambda method=method, layer=layer, ruled=ruled: asked(method, layer, ruled),
        fa.LayerError,
        f"{layer}' exists.*" + FUSED.format("1"),
    )
    for method in LAYERS
    for layer in ("1.softmax", "1.drop")
    for ruled in (False, True)
}
WRONG |= {
    f"attention weights of nn.MultiheadAttention by {name}": (
        lambda f=f: f(Weights().eval(), output=1)(TOKENS, target=(0, 1)),
        fa.TargetError,
        FUSED.format("attn"),
    )
    for name, f in {"gradient": fa.gradient, "lrp": lambda m, **o: fa.lrp(m, ATTN, **o)}.items()
}


def test_attention_weights_that_there_are():
    written = of(Fused(False))
    weights = fa.layer_gradient_x_activation(fa.with_rules(written, ATTN), "1.softmax")
    assert weights(TOKENS, target=(0, 1)).shape == (2, 5, 5)
    maps = fa.lrp(Weights(True).eval(), ATTN, output=1)(TOKENS, target=(0, 1))
    assert maps.abs().max() > 1e-5
    with pytest.raises(fa.LayerError) as raised:  # in a module without attention
        model = of(Fused())
        model.unused = nn.Sequential(nn.ReLU())
        model.forward = lambda x: model[3](model[1](model[0](x)))
        fa.layer_output(model, "unused.0")(TOKENS)
    assert "Attention" not in str(raised.value)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls(name):
    call, error, words = WRONG[name]
    if "float16" in name:
        skip_without_halves()
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("inner", [Kernel, OddNorm])
def test_the_way_out(inner):
    """A rule for the whole module, or its own derivative."""
    rows = fa.Composite([(inner, fa.rules.pass_through)])
    assert explained(of(inner()), X, rows + ATTN).isfinite().all()
    loose = fa.with_rules(of(inner()), ATTN, require_match=False)
    assert fa.input_x_gradient(loose)(X, target=0).isfinite().all()


@pytest.mark.parametrize("composite", [ATTN, CP], ids=["attn", "cp"])
def test_norms_by_name_that_are_none(composite):
    """Wrappers, linear ones, and norms that do nothing are no norms that were missed."""

    class FrozenNorm(nn.Module):
        def forward(self, x):
            return x * 2 + 1

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.LayerNorm(8)

        def forward(self, x):
            return self.inner(x)

    rms = [nn.RMSNorm(8)] if hasattr(nn, "RMSNorm") else []  # since torch 2.4
    for inner in (FrozenNorm(), Normed(), nn.BatchNorm1d(8).eval(), *rms):
        assert explained(of(inner), X, composite).isfinite().all()


@pytest.mark.skipif(not hasattr(torch.library, "custom_op"), reason="since torch 2.4")
@pytest.mark.parametrize("composite", [ATTN, CP])
def test_a_registered_operator_that_may_hide_attention(composite):
    """As newer kernels are; it took its own derivative without a word."""
    with pytest.raises(fa.NoSiteError, match=r"flash.* may hide attention"):
        fa.lrp(of(Operator(flash())), composite)(X, target=1)


@functools.cache
def flash():
    """An operator; its name is that of all the process."""

    def kernel(x: torch.Tensor) -> torch.Tensor:
        return x / x.square().mean(-1, keepdim=True).sqrt()

    made = torch.library.custom_op("funcattr_tests::flash", mutates_args=())(kernel)
    made.register_autograd(lambda ctx, g: g)
    return made


class Operator(nn.Module):
    def __init__(self, flash):
        super().__init__()
        self.flash = flash

    def forward(self, x):
        return F.gelu(self.flash(x))
