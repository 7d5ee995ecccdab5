"""Models as the transformers package has them, against the formulas patched into its functions."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close

import funcattr as fa

transformers = pytest.importorskip("transformers", exc_type=ImportError)
try:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
    from transformers.activations import NewGELUActivation
    from transformers.models.gpt2 import modeling_gpt2
    from transformers.models.llama import modeling_llama
except ImportError as error:  # it looks into other packages, which may not fit this torch
    pytest.skip(f"transformers does not import: {error}", allow_module_level=True)

COMPOSITES = {"attn": fa.composites.attn_lrp, "cp": fa.composites.cp_lrp}
IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
PADDING = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
TARGETS = [(-1, 7), (-1, 2), (2, 5)]


def llama(attention):
    config = LlamaConfig(vocab_size=11, hidden_size=16, intermediate_size=20, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=8,
                         initializer_range=0.3, attn_implementation=attention)  # fmt: skip
    return LlamaForCausalLM(config)


def gpt2(attention):
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=16, n_layer=2, n_head=4,
                        initializer_range=0.3, attn_implementation=attention)  # fmt: skip
    return GPT2LMHeadModel(config)


MODELS = {"llama": llama, "gpt2": gpt2}


def made(name, attention):
    torch.manual_seed(0)
    return MODELS[name](attention).double().eval()


def part(t, share):
    """``t``, whose gradient is multiplied by a number."""
    return t * share + (t * (1 - share)).detach()


def passed(f, x):
    """``f(x)``, whose relevance passes as it is."""
    return x * (f(x) / x).detach()


def patch(monkeypatch, cp):
    """The formulas, written as changes of what the models call."""
    sdpa, matmul, softmax = F.scaled_dot_product_attention, torch.matmul, F.softmax
    to_weights, to_value = (0, 1) if cp else (0.25, 0.5)

    def attention(q, k, v, *args, **kwargs):
        return sdpa(part(q, to_weights), part(k, to_weights), part(v, to_value), *args, **kwargs)

    def weighted(a, b):  # the first of attention's products, and the second
        second = getattr(a, "of_softmax", False)
        a_part = to_value - cp if second else 0.5
        return matmul(part(a, a_part), part(b, to_value if second else 0.5))

    def noted(*args, **kwargs):
        out = softmax(*args, **kwargs).to(torch.float64)
        out.of_softmax = True
        return out

    def rms(self, x):
        size = x.detach().pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(size + self.variance_epsilon))

    def layer(x, shape, weight, bias, eps):
        d = x - x.mean(-1, keepdim=True)
        return d / (d.detach().pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight + bias

    def gated(self, x):
        gate = passed(F.silu, self.gate_proj(x))
        product = (gate.detach() if cp else gate) * self.up_proj(x)
        return self.down_proj(product if cp else part(product, 0.5))

    new_gelu = NewGELUActivation.forward
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(F, "softmax", noted)
    monkeypatch.setattr(F, "dropout", lambda x, *args, **kwargs: x)
    monkeypatch.setattr(F, "layer_norm", layer)
    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", gated)
    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", rms)
    monkeypatch.setattr(
        NewGELUActivation, "forward", lambda m, x: passed(lambda x: new_gelu(m, x), x)
    )
    for module in (modeling_llama, modeling_gpt2):
        monkeypatch.setattr(module.torch, "matmul", weighted)


def by_formulas(model, cp, target, **kwargs):
    x = model.get_input_embeddings()(IDS).detach().requires_grad_()
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch(monkeypatch, cp)
        logits = model(inputs_embeds=x, **kwargs).logits
    (g,) = torch.autograd.grad(logits[(slice(None), *target)].sum(), x)
    return (x * g).sum(-1).detach()


def in_double(monkeypatch):
    """Norms without their casts to float32, which would be all the difference."""
    rms = modeling_llama.LlamaRMSNorm

    def forward(self, x):
        return self.weight * (
            x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )

    monkeypatch.setattr(rms, "forward", forward)


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model", MODELS)
def test_models_as_they_come(model, attention, name, monkeypatch):
    model = made(model, attention)
    in_double(monkeypatch)
    attr = fa.lrp(fa.over_embeddings(model), COMPOSITES[name](), output="logits")
    for kwargs in ({}, {"attention_mask": PADDING}):
        expected = torch.stack([by_formulas(model, name == "cp", t, **kwargs) for t in TARGETS])
        assert expected.abs().max() > 1e-2
        assert_close(attr(IDS, target=TARGETS[0], **kwargs), expected[0], 1e-9)
        assert_close(fa.sweep(attr, IDS, targets=TARGETS, **kwargs), expected, 1e-9)


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("model", MODELS)
def test_without_a_patch_at_all(model, name):
    """To the accuracy of the norms of these models, which are in float32."""
    model = made(model, "sdpa")
    attr = fa.lrp(fa.over_embeddings(model), COMPOSITES[name](), output="logits")
    expected = by_formulas(model, name == "cp", TARGETS[0])
    assert_close(attr(IDS, target=TARGETS[0]), expected, 1e-5)
    assert torch.equal(attr.linearize(IDS)[0], model(IDS).logits)
