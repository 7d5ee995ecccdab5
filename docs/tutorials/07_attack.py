"""
Attacking an explanation
========================

Maps have true derivatives by the input as well. So a change of a picture can be found that hardly
anybody sees, and that leaves what the network says, but moves the map to where one likes
(Ghorbani et al. 2019, Dombrowski et al. 2019).
"""

import efficientnet_lite0
import matplotlib.pyplot as plt
import torch

import funcattr as fa

model = efficientnet_lite0.load()
x = efficientnet_lite0.photograph("coffee")
attr = fa.grad_cam(model, "_relu1", relu=False)
with torch.no_grad():
    said = model(x)

wanted = torch.zeros(1, 1, 7, 7)
wanted[..., 5:, 5:] = 0.25  # the lower right corner
limit = 6 / 128  # six of 256 steps of grey

# %%
# The loss is about the map and about the output. Both come from one forward pass, by
# ``linearize``, and ``torch.func.grad`` differentiates the map like any other function.


def loss(change):
    out, explain = attr.linearize(x + change)
    cam = explain(967).relu()
    share = cam / cam.sum()
    kept = out.log_softmax(1)[0, 967] - said.log_softmax(1)[0, 967]
    return (share - wanted).square().sum() + kept.square(), share


step = torch.func.grad(loss, has_aux=True)
change = torch.zeros_like(x)
steps = 36
for i in range(steps):
    slope, share = step(change)
    size = limit / 10 * (1 - i / steps)  # smaller and smaller
    change = (change - size * slope.sign()).clamp(-limit, limit)
    if i % 10 == 5:
        print(f"step {i:2}: share of the map in the corner {float(share[..., 5:, 5:].sum()):.2f}")

# %%
# The network says the same, and the map is somewhere else.

attacked = x + change
with torch.no_grad():
    before, after = (model(picture).softmax(1)[0, 967] for picture in (x, attacked))
print(f"espresso {float(before):.2f} before, {float(after):.2f} after; ", end="")
print(f"largest change of a pixel {float(change.abs().max()) * 128:.0f} of 256")

cam = fa.grad_cam(model, "_relu1")
figure, axes = plt.subplots(1, 4, figsize=(12, 3), layout="constrained")
for row, picture, name in ((axes[:2], x, "before"), (axes[2:], attacked, "after")):
    shown = ((picture[0].permute(1, 2, 0) * 128 + 127) / 255).clamp(0, 1)
    row[0].imshow(shown)
    row[0].set(title=name, xticks=[], yticks=[])
    fa.viz.overlay(cam(picture, target=967), picture, ax=row[1], title="Grad-CAM", colorbar=False)
