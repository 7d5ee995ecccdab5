"""
A first map
===========

Which pixels of a photograph speak for a class? An attribution is a function made of a model, as
``torch.func.grad(f)`` is one made of ``f``. Nothing happens to the model: no hooks, no copy to
keep.
"""

import efficientnet_lite0
import torch

import funcattr as fa

model = efficientnet_lite0.load()
names = efficientnet_lite0.class_names()
x = efficientnet_lite0.photograph("chelsea")  # [1, 3, 224, 224]

with torch.no_grad():
    best = model(x).softmax(1)[0].topk(3)
for i, p in zip(best.indices.tolist(), best.values.tolist()):
    print(f"{i} {names[i]} {p:.2f}")

# %%
# Guided backpropagation (Springenberg et al. 2015) passes each ReLU where both its input and the
# gradient are positive. The map has the shape of the input.

attr = fa.guided_backprop(model)
print(attr)
maps = attr(x, target=282)
print(maps.shape)

# %%
# Which activations follow the rule is no secret. These are ReLU6 in the spelling of
# ``F.hardtanh``, which libraries that look for ``nn.ReLU`` do not see.

report = fa.sites(model, x)
print(f"{sum(site.replaced for site in report)} of {len(report)} follow the rule; the first:")
print(report[0].spelling, report[0].path, tuple(report[0].shape))

# %%
# ``viz.overlay`` draws a map over the picture that it is of, and returns matplotlib's axes.

ax = fa.viz.overlay(maps, x, channels="max_abs", title="guided backprop, tiger cat")

# %%
# The same picture by four methods. Each is an attribution, and is called in the same way.

methods = {
    "gradient": fa.gradient(model),
    "guided backprop": attr,
    "Grad-CAM": fa.grad_cam(model, "_relu1"),
    "LRP epsilon-plus": fa.lrp(model, fa.composites.epsilon_plus()),
}
figure = fa.viz.grid(
    {name: [method(x, target=282)] for name, method in methods.items()},
    ["tiger cat"],
    efficientnet_lite0.crop("chelsea"),
)
