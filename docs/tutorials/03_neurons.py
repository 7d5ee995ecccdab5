"""
Every neuron of a layer
=======================

``layer_output`` makes the activation of a layer a function of the input, so that every
attribution explains neurons, too: one by an index, a whole layer by a sweep.
"""

import efficientnet_lite0
import matplotlib.pyplot as plt
import torch

import funcattr as fa

model = efficientnet_lite0.load()
x = efficientnet_lite0.photograph("chelsea")
layer = "_blocks.4._bn1"  # 240 channels of 28 x 28 places, before their ReLU6

neurons = fa.layer_output(model, layer)
with torch.no_grad():
    activation = neurons(x)[0]  # [240, 28, 28]
print(tuple(activation.shape))

# %%
# A target is an index into the dims after the batch. For each channel the place where it is most
# active, all in one sweep from a single forward pass, which ends at the layer:

channels, height, width = activation.shape
places = activation.flatten(1).argmax(1)
targets = torch.stack([torch.arange(channels), places // width, places % width], 1)  # [240, 3]
attr = fa.guided_backprop(neurons)
maps = fa.sweep(attr, x, targets=targets, chunk_size="auto", reduce=fa.channel_max_abs)
print(tuple(maps.shape))

# %%
# What a unit sees has the size of its receptive field. Its extent, measured:

seen = (maps[:, 0, 0] > 0).float()
rows, columns = seen.amax(2).sum(1), seen.amax(1).sum(1)
print(f"the largest receptive field that a map fills: {int(rows.max())} x {int(columns.max())}")

# %%
# The eight channels that are most active, each cut out around the place that it is about.

strongest = activation.amax((1, 2)).topk(8).indices.tolist()
picture = torch.from_numpy(efficientnet_lite0.crop("chelsea")).permute(2, 0, 1)


def around(image, i, size=64):
    row, column = (int(p) * 8 for p in targets[i, 1:])
    top, left = (min(max(p - size // 2, 0), 224 - size) for p in (row, column))
    return image[..., top : top + size, left : left + size]


figure, axes = plt.subplots(2, 4, figsize=(9, 4.8), layout="constrained")
for ax, i in zip(axes.flat, strongest):
    patch, map_ = around(picture, i), around(maps[i, 0], i)
    fa.viz.overlay(map_, patch, ax=ax, title=f"channel {i}", colorbar=False)
