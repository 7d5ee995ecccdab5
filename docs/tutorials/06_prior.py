"""
Training with an attribution prior
==================================

Maps have true derivatives by the parameters, so that a network can be trained to be right for the
right reasons (Ross et al. 2017). Here it learns to tell patches of a cat from patches of a coffee
cup. In training, a corner of each patch gives the answer away; in the test the corner says
nothing.
"""

import efficientnet_lite0
import matplotlib.pyplot as plt
import torch
from torch import nn

import funcattr as fa

SIZE, CORNER = 16, 4
torch.manual_seed(0)


def patches(count, honest):
    """Grey patches of two photographs, ``[N, 1, 16, 16]``, whose corner tells which, or lies."""
    label = torch.randint(2, (count,))
    pictures = [efficientnet_lite0.photograph(name).mean(1) for name in ("chelsea", "coffee")]
    x = torch.empty(count, 1, SIZE, SIZE)
    for i, kind in enumerate(label.tolist()):
        top, left = torch.randint(224 - SIZE, (2,)).tolist()
        x[i] = pictures[kind][:, top : top + SIZE, left : left + SIZE]
    said = label if honest else torch.randint(2, (count,))
    x[:, :, :CORNER, :CORNER] = (2.0 * said - 1).reshape(-1, 1, 1, 1)
    return x, label


train, test = patches(2000, honest=True), patches(2000, honest=False)


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 2),
    )  # fmt: skip


# %%
# The prior: the gradient of the log-probabilities should be small in the corner. ``maps`` is a
# function of the parameters, and ``backward`` differentiates through it as through anything else.


def trained(strength, steps=150, batch=64):
    f, params = fa.make_functional(network())
    params = {name: weight.clone().requires_grad_() for name, weight in params.items()}
    attr = fa.gradient(f, argnums=1)
    optimizer = torch.optim.Adam(params.values(), 2e-3)
    for _ in range(steps):
        picked = torch.randint(len(train[1]), (batch,))
        x, label = train[0][picked], train[1][picked]
        loss = nn.functional.cross_entropy(f(params, x), label)
        if strength:
            maps = attr(params, x, target=lambda out: out.log_softmax(1))
            loss = loss + strength * maps[:, :, :CORNER, :CORNER].square().sum((1, 2, 3)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return f, {name: weight.detach() for name, weight in params.items()}


# %%
# Both see the same patches. Only the one with the prior has learned what the pictures look like.

found = {}
for name, strength in (("without a prior", 0.0), ("with a prior", 30.0)):
    f, params = trained(strength)
    right = (f(params, test[0]).argmax(1) == test[1]).float().mean()
    map_ = fa.gradient(f, argnums=1)(
        params, test[0][:200], target=lambda out: out[:, 1] - out[:, 0]
    )
    share = map_[:, :, :CORNER, :CORNER].abs().sum() / map_.abs().sum()
    print(f"{name:16} right {float(right):.2f}, share of the map in the corner {float(share):.2f}")
    found[name] = map_.abs().mean(0)

figure, axes = plt.subplots(1, 3, figsize=(9, 2.9), layout="constrained")
axes[0].imshow(train[0][0, 0], cmap="gray")
axes[0].set(title="a patch", xticks=[], yticks=[])
for ax, (name, map_) in zip(axes[1:], found.items()):
    fa.viz.overlay(map_, ax=ax, title=name, label="mean size of the gradient")
