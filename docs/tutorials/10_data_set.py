"""
A data set on disk
==================

Sweeps of a data set outgrow memory, and some of them outlive the machine that they began on.
`sweep_dataset` writes maps into a Zarr store, block by block: what was finished is kept, and the
same call goes on where it was.
"""

import tempfile

import efficientnet_lite0
import xarray

import funcattr as fa

model = efficientnet_lite0.load()
names = ["chelsea", "coffee", "motorcycle_left"]
pictures = [efficientnet_lite0.photograph(name)[0] for name in names]

# %%
# Of each picture the three likeliest classes, from the forward pass that is done anyway; a map
# keeps one number for each pixel.

folder = tempfile.mkdtemp()
how = dict(
    targets=lambda out: out.topk(3).indices,
    store=folder,
    reduce=fa.channel_max_abs,
    batch_size=1,
    block_size=1,
    progress=False,
)
attrs = {
    "guided": fa.guided_backprop(model),
    "relevance": fa.lrp(model, fa.composites.epsilon_plus()),
}
done = fa.sweep_dataset(attrs, pictures, **how)
print(done)

# %%
# Once more: there is nothing left to do. Other settings, weights or targets would be refused.

print(fa.sweep_dataset(attrs, pictures, **how))

# %%
# Arrays with named dimensions, which any library that reads Zarr opens.

found = xarray.open_zarr(folder)
print(found)

# %%
# Under ``torchrun`` each process does its share: ``python -m funcattr sweep``, and
# :doc:`/datasets`, which calculates what a thousand machines would take.

classes = efficientnet_lite0.class_names()
for number, name in enumerate(names):
    best = found.isel(example=number)
    labels = [classes[int(k)] for k in best.targets.values.flatten()]
    maps = {method: [best[method].values[i] for i in range(3)] for method in attrs}
    figure = fa.viz.grid(maps, labels, efficientnet_lite0.crop(name))
