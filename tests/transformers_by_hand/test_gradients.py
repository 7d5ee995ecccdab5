"""Methods by gradients on transformers, each written out by plain autograd."""

import numpy as np
import torch
import torch.nn.functional as F
from helpers import assert_close

import funcattr as fa
from transformers_by_hand import models as M

PLACE, IDS = (-1, 7), M.IDS


def gradient(model, x, place=PLACE, at=None):
    """Of the logit of each example, by ``x`` or by what ``at`` takes hold of."""
    leaf = x.clone().requires_grad_()
    out = model(leaf)[(slice(None), *place)].sum()
    return torch.autograd.grad(out, leaf if at is None else at())[0]


def test_over_embeddings():
    """Per token: sums over the dims of an embedding of what the embeddings get."""
    model = M.model(M.GPT2)
    over, x = fa.over_embeddings(model), model.tokens(IDS).detach()
    g = gradient(model, x)
    each = {
        fa.gradient: g.sum(-1),
        fa.saliency: g.abs().sum(-1),
        fa.input_x_gradient: (g * x).sum(-1),
    }
    for method, expected in each.items():
        assert_close(method(over)(IDS, target=PLACE), expected, 1e-11)
    whole = fa.over_embeddings(model, per_token=False)
    assert_close(fa.gradient(whole)(IDS, target=PLACE), g, 1e-11)
    assert torch.equal(over(IDS), model(IDS))


def test_integrated_gradients_from_a_baseline_of_embeddings():
    model = M.model(M.BERT)
    over, x = fa.over_embeddings(model), model.tokens(IDS).detach()
    start = model.tokens.weight[0].detach()
    attr = fa.integrated_gradients(over, steps=4, baseline=start)
    nodes, weights = np.polynomial.legendre.leggauss(4)
    mean = sum(
        float(w) / 2 * gradient(model, start + float(n + 1) / 2 * (x - start))
        for n, w in zip(nodes, weights)
    )
    maps = attr(IDS, target=PLACE)
    assert_close(maps, (mean * (x - start)).sum(-1), 1e-11)
    swept = fa.sweep(attr, IDS, targets=[PLACE, (0, 1)])
    assert_close(swept[0], maps, 1e-11)


def test_smooth_grad_has_noise_in_embeddings():
    model = M.model(M.BERT)
    over, x = fa.over_embeddings(model), model.tokens(IDS).detach()
    attr = fa.smooth_grad(fa.input_x_gradient(over), samples=3, sigma=0.1, generator=5)
    shape = (1, *x.shape[1:])
    noise = [np.random.default_rng((5, i, 0)).standard_normal(shape) for i in range(3)]
    points = [x + 0.1 * torch.from_numpy(e) for e in noise]
    expected = sum((gradient(model, p) * p).sum(-1) for p in points) / 3
    assert_close(attr(IDS, target=PLACE), expected, 1e-11)


def test_deep_lift_over_embeddings_runs_from_a_baseline():
    model = M.model(M.BERT)
    start = model.tokens.weight[0].detach()
    attr = fa.deep_lift(fa.over_embeddings(model), baseline=start)
    own = fa.deep_lift(model, baseline=start)
    x = model.tokens(IDS).detach()
    assert_close(attr(IDS, target=PLACE), own(x, target=PLACE).sum(-1), 1e-11)


def test_grad_cam_over_tokens():
    """Channels last; the class token and the patches are the places."""
    model, x = M.model(M.VIT), M.example(M.VIT)
    held = []
    hook = model.blocks[0].register_forward_hook(lambda m, i, out: held.append(out))
    g = gradient(model, x, at=lambda: held[-1])
    hook.remove()
    expected = torch.relu((g.mean(1, keepdim=True) * held[-1]).sum(-1))[:, None].detach()
    cam = fa.grad_cam(model, "blocks.0", channel_dim=-1)
    assert_close(cam(x, target=PLACE), expected, 1e-11)
    assert cam(x, target=PLACE).shape == (2, 1, 5)
    tokens = M.model(M.GPT2)
    at = fa.grad_cam(fa.over_embeddings(tokens), "blocks.1", channel_dim=-1)
    plain = fa.grad_cam(tokens, "blocks.1", channel_dim=-1)
    assert_close(at(IDS, target=PLACE), plain(IDS, target=PLACE), 0)


class Guided(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        normal = torch.distributions.Normal(0.0, 1.0)
        slope = normal.cdf(x) + x * normal.log_prob(x).exp()
        return (g * slope).clamp(min=0)


def test_guided_backprop_at_gelus(monkeypatch):
    model, x = M.model(M.VIT), M.example(M.VIT)
    ours = fa.guided_backprop(model, sites="gelu")(x, target=PLACE)
    by_hand = {**M.ACTIVATIONS["gelu"], "function": Guided.apply}
    monkeypatch.setitem(M.ACTIVATIONS, "gelu", by_hand)
    assert_close(ours, gradient(model, x), 1e-11)


def test_a_sweep_of_the_plain_gradient():
    """Without a rule, and without torch's warning that its attention kernel runs in a loop."""
    model, x = M.model(M.LLAMA), M.example(M.LLAMA)
    places = [(-1, t) for t in range(M.VOCAB)]
    swept = fa.sweep(fa.gradient(model), x, targets=places)
    assert_close(swept, torch.stack([gradient(model, x, p) for p in places]), 1e-11)
