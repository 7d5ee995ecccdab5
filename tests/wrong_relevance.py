"""Wrong calls of relevance, DeepLIFT, embeddings, sweeps and pictures: rows as in `wrong_calls`."""
# ruff: noqa: E501

import copy
import math
import tempfile

import numpy as np
import torch
from torch import nn
from wrong_calls import ARGUMENT, ATTR, CONV, IMAGES, LAYER, NET, SITE, TARGET, X

import funcattr as fa
from funcattr.compat import zennit

EPSILON_PLUS = fa.composites.epsilon_plus()
LRP = fa.lrp(NET, EPSILON_PLUS)
WORDS = nn.Sequential(nn.Embedding(9, 4), nn.GELU(), nn.Linear(4, 9))
HALF = copy.deepcopy(WORDS).half()
IDS = torch.tensor([[3, 1, 4]])
SWAPPED = fa.lrp(
    lambda x: torch.linalg.multi_dot([x, NET[0].weight.T, NET[2].weight.T]), EPSILON_PLUS
)


def tokens(model=WORDS, composite=EPSILON_PLUS, *name):
    return fa.lrp(fa.over_embeddings(model, *name), composite)(IDS, target=(0, 1))


def stored(attr=ATTR, data=X, targets=(0,)):
    with tempfile.TemporaryDirectory() as folder:
        return fa.sweep_dataset(attr, data, targets=targets, store=f"{folder}/store")


# fmt: off
RELEVANCE = {
    "deep_lift, a baseline by its place": (lambda: fa.deep_lift(NET, torch.zeros(1, 3)), ARGUMENT, "deep_lift takes baseline, argnums, output by their names, as baseline=...; got 1 more"),
    "deep_lift, a baseline in a word": (lambda: fa.deep_lift(NET, baseline="zeros")(X, target=0), ARGUMENT, "baseline has the form of what is explained.*got 'zeros'"),
    "deep_lift, a baseline in an array": (lambda: fa.deep_lift(NET, baseline=np.zeros((1, 3)))(X, target=0), ARGUMENT, "baseline has the form.*An array goes in by torch.as_tensor"),
    "deep_lift, a baseline of another shape": (lambda: fa.deep_lift(NET, baseline=torch.zeros(5, 7))(X, target=0), ARGUMENT, r"broadcasts to its input, of shape \(2, 3\); got \(5, 7\)"),
    "deep_lift, a baseline that is no number": (lambda: fa.deep_lift(NET, baseline=math.nan)(X, target=0), ARGUMENT, "made of finite numbers; got nan"),
    "deep_lift of relevance": (lambda: fa.deep_lift(fa.with_rules(NET, EPSILON_PLUS)), ARGUMENT, "rules of its own, and func has others.*pass the function"),
    "deep_lift of lrp": (lambda: fa.deep_lift(LRP), ARGUMENT, "attribution already"),
    "deep_lift of ids": (lambda: fa.deep_lift(WORDS)(IDS, target=(0, 1)), ARGUMENT, "has to hold a float tensor; got a tensor of torch.int64.*funcattr.over_embeddings"),
    "integrated gradients, steps by their place": (lambda: fa.integrated_gradients(NET, 8), ARGUMENT, "integrated_gradients takes steps, .*by their names, as steps=...; got 1 more by position, of type int"),
    "smooth_grad, samples by their place": (lambda: fa.smooth_grad(ATTR, 8, 0.1), ARGUMENT, "smooth_grad takes samples, .*as samples=...; got 2 more by position"),
    "lrp, a composite in a word": (lambda: fa.lrp(NET, "epsilon_plus"), ARGUMENT, r"composite is a Composite.*got 'epsilon_plus'. Those that are ready-made.*composites.epsilon_plus\(\)"),
    "lrp, a rule for a composite": (lambda: fa.lrp(NET, fa.rules.epsilon()), ARGUMENT, "composite is a Composite.*got Epsilon"),
    "lrp, rows for a composite": (lambda: fa.lrp(NET, [("linear", fa.rules.epsilon())]), ARGUMENT, r"composite is a Composite, Composite\(\[\(where, rule\), ...\]\)"),
    "lrp, zennit's composite": (lambda: fa.lrp(NET, zennit.EpsilonPlus()), ARGUMENT, "composite is a Composite.*EpsilonPlus"),
    "lrp of an attribution": (lambda: fa.lrp(ATTR, EPSILON_PLUS), ARGUMENT, "attribution already"),
    "lrp of ids": (lambda: fa.lrp(WORDS, EPSILON_PLUS)(IDS, target=(0, 1)), ARGUMENT, "got a tensor of torch.int64.*funcattr.over_embeddings"),
    "lrp, start from elsewhere": (lambda: fa.lrp(NET, EPSILON_PLUS, start="two"), ARGUMENT, "start is one of .*got 'two'"),
    "lrp of multi_dot": (lambda: SWAPPED(X, target=0), SITE, "calls linalg_multi_dot, a linear operation in a form that no rule can act on.*require_match=False"),
    "attn_lrp in float16": (lambda: tokens(HALF, fa.composites.attn_lrp()), ARGUMENT, "gelu of '1' is in float16.*use bfloat16 or float32"),
    "a layer of lrp": (lambda: fa.layer_gradient_x_activation(LRP, "1"), ARGUMENT, "attribution already"),
    "a box upside down": (lambda: fa.composites.epsilon_gamma_box(1, 0), ARGUMENT, "low is not above high; got 1.0 and 0.0"),
    "a box of other channels": (lambda: fa.lrp(CONV, fa.composites.epsilon_gamma_box(torch.zeros(5), torch.ones(5)))(IMAGES, target=0), ARGUMENT, "z_box at the convolution of '0': low is a number"),
    "embeddings of none": (lambda: fa.over_embeddings(NET), LAYER, "the only nn.Embedding that there is, and there are none; name it"),
    "embeddings of a function": (lambda: fa.over_embeddings(lambda x: x), ARGUMENT, "over_embeddings takes an nn.Module.*inputs_embeds"),
    "embeddings, a linear layer": (lambda: tokens(WORDS, EPSILON_PLUS, "2"), LAYER, "'2' is a Linear, which looks no ids up; name the embedding layer"),
    "embeddings, a place": (lambda: fa.over_embeddings(WORDS, 0), ARGUMENT, "a module of the model or the path of one; got 0"),
    "embeddings of floats": (lambda: fa.lrp(fa.over_embeddings(WORDS), EPSILON_PLUS)(X, target=0), ARGUMENT, "is a tensor of token ids; got tensor"),
    "conserved of guided backpropagation": (lambda: fa.conserved(ATTR, X, target=0), ARGUMENT, "for what funcattr.lrp returns; got <guided_backprop"),
    "conserved of a gradient": (lambda: fa.conserved(fa.gradient(fa.with_rules(NET, EPSILON_PLUS)), X, target=0), ARGUMENT, "for what funcattr.lrp returns; got <gradient"),
    "conserved of several targets": (lambda: fa.conserved(LRP, X, targets=[0]), ARGUMENT, "the book of one target"),
    "conserved, differentiated": (lambda: torch.func.grad(lambda x: fa.conserved(LRP, x, target=0).arrived.sum())(X), ARGUMENT, "a book of numbers.*outside of torch.func.grad"),
    "sweep, one target": (lambda: fa.sweep(LRP, X, targets=5), TARGET, "targets is a sequence.*got int. For a single target call"),
    "sweep, a word": (lambda: fa.sweep(LRP, X, targets="all"), TARGET, "targets is a sequence.*got str"),
    "sweep, a set": (lambda: fa.sweep(LRP, X, targets={0, 1}), TARGET, "targets is a sequence.*got set"),
    "data, targets in a word": (lambda: stored(targets="all"), TARGET, "targets is a sequence.*got str"),
    "data, the model for targets": (lambda: stored(targets=NET), ARGUMENT, "targets as a function has parameters out of x"),
    "data, the model itself": (lambda: stored(NET), ARGUMENT, "attr is an Attribution .*or a dict of them.*got Sequential"),
    "data, none": (lambda: stored(data=None), ARGUMENT, "data is a torch.utils.data.Dataset or DataLoader.*got a NoneType"),
    "overlay of a batch": (lambda: fa.viz.overlay(IMAGES, IMAGES), ARGUMENT, r"map is one map.*got \(2, 3, 6, 6\). Draw one of them \(map\[0\]\)"),
    "overlay of a model": (lambda: fa.viz.overlay(CONV, IMAGES[0]), ARGUMENT, "map is a tensor or an array; got Sequential"),
    "save, the wrong way round": (lambda: fa.viz.save("map.png", fa.viz.overlay(IMAGES[0])), ARGUMENT, "path is that of a file, 'maps/cat.png'; got <Axes"),
    "zennit, a composite in a word": (lambda: zennit.Gradient(NET, composite="epsilon_plus"), ARGUMENT, "composite is one of funcattr.compat.zennit.*got 'epsilon_plus'"),
}
# fmt: on
