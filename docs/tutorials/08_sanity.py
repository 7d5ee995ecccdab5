"""
The sanity check by parameter randomisation
===========================================

A map that says something about what a network has learned should change when that is destroyed.
Adebayo et al. (2018) randomise a network from its output down, layer by layer, and compare the
maps with those of the trained one. Here all stages of the cascade are one ``vmap`` over stacked
parameters.
"""

import efficientnet_lite0
import matplotlib.pyplot as plt
import torch
from torch.func import vmap

import funcattr as fa

model = efficientnet_lite0.load()
x = efficientnet_lite0.photograph("coffee")
f, params = fa.make_functional(model)

# %%
# The stages of the cascade: the trained network, then without its classifier, then without what
# is before that, and so on. A tensor is randomised by shuffling its own numbers.

stages = ["", "_fc", "_conv_head", *(f"_blocks.{i}" for i in (15, 12, 9, 6, 3, 0)), "_conv_stem"]
order = ["_fc", "_bn1", "_conv_head", *(f"_blocks.{i}" for i in reversed(range(16)))]
order += ["_bn0", "_conv_stem"]
generator = torch.Generator().manual_seed(0)


def shuffled(weight):
    return weight.flatten()[torch.randperm(weight.numel(), generator=generator)].view_as(weight)


cascade, current, done = [], dict(params), 0
for stage in stages:
    until = order.index(stage) + 1 if stage else 0
    for part in order[done:until]:
        for name in params:
            if name.startswith(part + "."):
                current[name] = shuffled(params[name])
    done = until
    cascade.append(dict(current))
stacked = {name: torch.stack([weights[name] for weights in cascade]) for name in params}
print(f"{len(stages)} networks of {sum(w.numel() for w in params.values()) / 1e6:.1f} M parameters")

# %%
# One call per method for all networks.

methods = {
    "gradient": fa.gradient(f, argnums=1),
    "guided backprop": fa.guided_backprop(f, argnums=1),
    "LRP epsilon-plus": fa.lrp(f, fa.composites.epsilon_plus(), argnums=1),
    "Grad-CAM": fa.grad_cam(f, "_relu1"),
}
maps = {
    name: vmap(lambda weights, attr=attr: attr(weights, x, target=967), chunk_size=5)(stacked)
    for name, attr in methods.items()
}

# %%
# How far each map still ranks pixels as that of the trained network does, by the absolute values.

figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
for (name, of_stages), marker in zip(maps.items(), "osD^"):
    sizes = of_stages[:, 0].abs().amax(1)
    alike = [fa.viz.rank_correlation(sizes[0], size) for size in sizes]
    ax.plot(range(len(stages)), alike, marker=marker, label=name)
    print(f"{name:18}" + " ".join(f"{value:6.2f}" for value in alike))
ax.set_xticks(range(len(stages)), ["trained", *stages[1:]], rotation=30, ha="right")
ax.set(xlabel="randomised from the output down to", ylabel="rank correlation", ylim=(-0.2, 1.05))
ax.legend()

# %%
# The pictures say it as well: guided backpropagation of a network of random weights still draws
# the cup. It recovers structure of the input, which the weights of the first layers are enough
# for.

picked = [0, 1, 4, len(stages) - 1]
figure = fa.viz.grid(
    {name: [fa.channel_max_abs(of_stages[i]) for i in picked] for name, of_stages in maps.items()},
    [["trained", *stages[1:]][i] for i in picked],
)
