"""
All 1000 classes
================

A map of every class takes one forward pass and a thousand backward passes, in chunks. ``reduce``
says what is kept of each map, so that the thousand need not be held.
"""

import time

import efficientnet_lite0
import matplotlib.pyplot as plt
import torch

import funcattr as fa

model = efficientnet_lite0.load()
names = efficientnet_lite0.class_names()
x = efficientnet_lite0.photograph("coffee")
with torch.no_grad():
    logits = model(x)[0]

# %%
# Grad-CAM at the last layer is cheap, since its backward pass ends there: all 1000 maps, ``[1000,
# 1, 1, 7, 7]``, in the time of a few forward passes.

start = time.perf_counter()
cams = fa.sweep(fa.grad_cam(model, "_relu1"), x, targets=range(1000), chunk_size=250)
print(f"{tuple(cams.shape)} in {time.perf_counter() - start:.2f} s")

# %%
# Guided backpropagation goes down to the pixels. Of each map only its size is kept here, the
# largest absolute value over the channels, at a quarter of the resolution.


def kept(pair):  # of a bundle, the tuple of its maps
    return [torch.nn.functional.avg_pool2d(maps.abs().amax(1), 4).flatten() for maps in pair]


classes = range(0, 1000, 8)
start = time.perf_counter()
both = fa.bundle(fa.gradient(model), fa.guided_backprop(model))
plain, guided = fa.sweep(both, x, targets=classes, chunk_size=4, reduce=kept)
print(f"2 x {tuple(plain.shape)} in {time.perf_counter() - start:.1f} s")

# %%
# How far do the maps of different classes agree? One number per pair of classes: the cosine of
# their maps. The result is what Nie et al. (2018) say of guided backpropagation: its maps are
# nearly the same for every class. What it shows is structure of the picture that the network uses
# at all.


def alike(maps):
    maps = torch.nn.functional.normalize(maps, dim=1)
    return (maps @ maps.T)[~torch.eye(len(maps), dtype=torch.bool)]


for name, maps in (("gradient", plain), ("guided backprop", guided), ("Grad-CAM", cams[::8])):
    value = alike(maps.flatten(1)).nanmedian()
    print(f"{name:16} median cosine between two classes {float(value):.2f}")

# %%
# Where each class sees its evidence, for the classes that the network thinks of most and least:

order = logits.argsort(descending=True)
shown = [*order[:4].tolist(), *order[-2:].tolist()]
crop = efficientnet_lite0.crop("coffee")
figure, axes = plt.subplots(1, len(shown), figsize=(12, 2.6), layout="constrained")
for ax, i in zip(axes, shown):
    title = f"{names[i]}\nlogit {float(logits[i]):.1f}"
    fa.viz.overlay(cams[i], crop, ax=ax, title=title, colorbar=False)
