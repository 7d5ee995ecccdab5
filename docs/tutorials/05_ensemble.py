"""
An ensemble by vmap
===================

``make_functional`` makes the parameters an argument. So the maps of many networks of one
architecture are one ``vmap`` over stacked parameters. Here: NoiseGrad (Bykov et al. 2022), which
averages maps over networks with noise on their weights, to see how sure a map is of itself.
"""

import crepe
import matplotlib.pyplot as plt
import torch
from torch.func import vmap

import funcattr as fa

model, x = crepe.load(), crepe.tone(440.0)
f, params = fa.make_functional(model)
target = int(model(x).argmax())

generator = torch.Generator().manual_seed(0)
noise, members = 0.1, 16
stacked = {
    name: weight * (1 + noise * torch.randn(members, *weight.shape, generator=generator))
    for name, weight in params.items()
}

# %%
# Its ReLUs are calls of ``F.relu``, which no hook on a module sees. The report is a table in a
# notebook:

fa.sites(model, x)

# %%
# ``argnums=1``: of the function's arguments ``(params, x)`` the second is explained. The ``vmap``
# is torch's own, and there is one call for all members.

attr = fa.guided_backprop(f, argnums=1)
maps = vmap(lambda weights: attr(weights, x, target=target))(stacked)[:, 0]  # [16, 1024]
outputs = vmap(lambda weights: f(weights, x))(stacked)[:, 0]
print(f"{tuple(maps.shape)}; the members say bins {sorted(set(outputs.argmax(1).tolist()))}")

# %%
# Does it equal a loop? It has to.

loop = torch.stack(
    [attr({k: w[i] for k, w in stacked.items()}, x, target=target) for i in range(3)]
)
print(f"largest difference to a loop: {float((maps[:3] - loop[:, 0]).abs().max()):.1e}")

# %%
# The mean over members, and how often they agree on the sign.

mean = maps.mean(0)
agreement = (maps.sign().mean(0).abs() + 1) / 2
figure, (above, below) = plt.subplots(2, 1, figsize=(9, 5), layout="constrained")
fa.viz.signal(mean, x, rate=crepe.RATE, ax=above, title="mean of 16 networks", label="gradient")
fa.viz.signal(
    2 * agreement - 1,
    x,
    rate=crepe.RATE,
    ax=below,
    clip=100,
    label="agreement",
    title="share of members that agree on the sign (0: half, 1: all)",
)
