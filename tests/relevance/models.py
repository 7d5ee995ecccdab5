"""Small networks of the usual shapes, and the same ones written out for the oracle."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from relevance.layers import (
    Chain,
    MaxPool,
    Routed,
    Sum,
    mean,
    norm_alone,
    relu,
    smooth,
    weighted,
)


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def ready(model, seed=0):
    """Float64, evaluation mode, and batch norms that have seen something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            # Larger than torch's own, so that relevance does not die out; biases not small.
            scale = 0.3 if p.dim() == 1 else (2 / p[0].numel()) ** 0.5
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
        for m in model.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                m.running_mean.copy_(torch.randn(m.running_mean.shape, generator=generator) * 0.3)
                m.running_var.copy_(torch.rand(m.running_var.shape, generator=generator) + 0.5)
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine:
                m.weight.copy_(torch.rand(m.weight.shape, generator=generator) + 0.5)
                m.weight[0] *= -1
    return model.double().eval()


class Block(nn.Module):
    """torchvision's BasicBlock."""

    def __init__(self, ins, outs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outs)
        self.downsample = None
        if stride > 1 or ins != outs:
            conv = nn.Conv2d(ins, outs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outs))

    def branches(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return (x if self.downsample is None else self.downsample(x)), out

    def forward(self, x):
        identity, out = self.branches(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv1 = nn.Conv2d(2, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = Block(width, width)
        self.layer2 = Block(width, width + 1, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width + 1, 4)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def block_chain(block):
    body = (weighted(block.conv1, block.bn1), relu(), weighted(block.conv2, block.bn2))
    skip = () if block.downsample is None else (weighted(*block.downsample),)
    return Chain(Sum(Chain(*skip), Chain(*body)), relu())


def resnet_chain(m):
    stem = (weighted(m.conv1, m.bn1), relu(), MaxPool(2, 3, 2, 1))
    pool = mean(lambda x: F.adaptive_avg_pool2d(x, 1))
    blocks = (block_chain(m.layer1), block_chain(m.layer2))
    return Chain(*stem, *blocks, pool, Routed(), weighted(m.fc))


def chain_of(model):
    """The chain of a Sequential of plain modules; a batch norm behind a linear layer is merged."""
    layers, last = [], None
    for m in model:
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            if isinstance(last, (nn.Linear, nn.modules.conv._ConvNd)):
                layers[-1] = weighted(last, m)
            else:
                layers.append(norm_alone(m))
        elif isinstance(m, (nn.Linear, nn.modules.conv._ConvNd)):
            layers.append(weighted(m))
        elif isinstance(m, nn.ReLU):
            layers.append(relu())
        elif type(m).__name__.startswith("MaxPool"):
            dims = int(type(m).__name__[-2])
            layers.append(MaxPool(dims, m.kernel_size, m.stride, m.padding))
        elif "AvgPool" in type(m).__name__:
            layers.append(mean(m))
        elif isinstance(m, nn.Flatten):
            layers.append(Routed())
        elif not isinstance(m, (nn.Dropout, nn.Identity)):
            layers.append(smooth(m))
        last = m
    return Chain(*layers)


def vgg(norm=False, inplace=False):
    def conv(ins, outs):
        between = [nn.BatchNorm2d(outs)] if norm else []
        return [nn.Conv2d(ins, outs, 3, padding=1), *between, nn.ReLU(inplace=inplace)]

    return nn.Sequential(
        *(*conv(2, 4), nn.MaxPool2d(2), *conv(4, 5), *conv(5, 4), nn.MaxPool2d(2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 12), nn.ReLU(inplace=inplace)),
        *(nn.Dropout(), nn.Linear(12, 4)),
    )


def in_one_dim(act=nn.ReLU):
    return nn.Sequential(
        *(nn.Conv1d(2, 4, 5, stride=2, padding=2), nn.BatchNorm1d(4), act(), nn.MaxPool1d(2)),
        *(nn.Conv1d(4, 6, 3, dilation=2, groups=2, bias=False), act(), nn.AvgPool1d(2)),
        *(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5), act(), nn.Linear(5, 4)),
    )


def in_three_dims(act=nn.ReLU):
    return nn.Sequential(
        *(nn.Conv3d(1, 3, 3, padding="same"), nn.BatchNorm3d(3), act(), nn.AvgPool3d(2)),
        *(nn.Conv3d(3, 4, 2), act(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(4, 4)),
    )


def decoder():
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.ConvTranspose2d(4, 6, 3, 2, groups=1), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)),
    )


def norms_alone():
    """A batch norm first, and one behind a pooling: nothing to merge them into."""
    return nn.Sequential(
        *(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(4)),
        *(nn.Conv2d(4, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)),
    )


# name -> (model, shape of an input)
SEQUENTIAL = {
    "vgg": (vgg, (2, 8, 8)),
    "vgg with batch norm": (lambda: vgg(norm=True, inplace=True), (2, 8, 8)),
    "one dim": (in_one_dim, (2, 32)),
    "three dims": (in_three_dims, (1, 6, 6, 6)),
    "smooth, one dim": (lambda: in_one_dim(nn.GELU), (2, 32)),
    "smooth, three dims": (lambda: in_three_dims(nn.Sigmoid), (1, 6, 6, 6)),
    "decoder": (decoder, (2, 7, 7)),
    "norms alone": (norms_alone, (2, 8, 8)),
}
RECTIFIED = ("vgg", "vgg with batch norm", "resnet", "one dim", "three dims", "decoder")


def network(name, seed=0):
    """A model, its chain, and a batch of two inputs with some exact zeros, as black pixels are."""
    if name == "resnet":
        model, shape = ready(ResNet(), seed), (2, 8, 8)
        chain = resnet_chain(model)
    else:
        make, shape = SEQUENTIAL[name]
        model = ready(make(), seed)
        chain = chain_of(model)
    x = randn(2, *shape, seed=seed)
    return model, chain, x * (x.abs() > 0.1)


# name -> (a layer, with or without a bias, shape of an input)
LAYERS = {
    "linear": (lambda bias: nn.Linear(5, 4, bias), (5,)),
    "linear of tokens": (lambda bias: nn.Linear(4, 3, bias), (3, 4)),
    "conv1d, strided": (lambda bias: nn.Conv1d(2, 4, 3, 2, 1, bias=bias), (2, 8)),
    "conv1d, same, even": (lambda bias: nn.Conv1d(2, 3, 4, padding="same", bias=bias), (2, 6)),
    "conv2d": (lambda bias: nn.Conv2d(2, 3, 3, bias=bias), (2, 5, 4)),
    "conv2d, strided, padded": (
        lambda bias: nn.Conv2d(2, 3, (3, 2), (2, 1), (1, 0), bias=bias),
        (2, 6, 5),
    ),
    "conv2d, strided past the end": (lambda bias: nn.Conv2d(2, 3, 2, 3, bias=bias), (2, 7, 6)),
    "conv2d, dilated": (lambda bias: nn.Conv2d(2, 2, 3, 1, 2, 2, bias=bias), (2, 5, 5)),
    "conv2d, grouped": (lambda bias: nn.Conv2d(4, 6, 3, 1, 1, groups=2, bias=bias), (4, 4, 4)),
    "conv2d, depthwise": (lambda bias: nn.Conv2d(3, 6, 3, 2, 1, groups=3, bias=bias), (3, 5, 5)),
    "conv2d, same": (
        lambda bias: nn.Conv2d(2, 3, 3, padding="same", dilation=2, bias=bias),
        (2, 5, 5),
    ),
    "conv2d, circular": (
        lambda bias: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=bias),
        (2, 4, 4),
    ),
    "conv3d": (lambda bias: nn.Conv3d(2, 2, 2, (1, 2, 1), (0, 1, 1), bias=bias), (2, 3, 3, 3)),
    "conv3d, grouped": (lambda bias: nn.Conv3d(2, 4, 3, 1, 1, groups=2, bias=bias), (2, 3, 3, 3)),
    "conv_transpose1d": (lambda bias: nn.ConvTranspose1d(2, 3, 3, 2, 1, 1, bias=bias), (2, 5)),
    "conv_transpose2d": (lambda bias: nn.ConvTranspose2d(2, 3, 3, 2, bias=bias), (2, 4, 3)),
    "conv_transpose2d, grouped": (
        lambda bias: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2, bias=bias, dilation=2),
        (4, 4, 4),
    ),
    "conv_transpose3d": (lambda bias: nn.ConvTranspose3d(2, 2, 2, 2, bias=bias), (2, 2, 2, 2)),
}


def one_layer(name, *, bias=True, signed=True):
    """The layer, a linear head behind it, the two as a chain, and an input with exact zeros."""
    make, shape = LAYERS[name]
    layer = make(bias).double()
    x = randn(2, *shape)
    x = x * (x.abs() > 0.2) if signed else x.clamp(min=0)
    with torch.no_grad():
        head = nn.Linear(layer(x)[0].numel(), 3)
    model = nn.Sequential(OrderedDict(layer=layer, flatten=nn.Flatten(), head=head))
    model = ready(model)
    return model, chain_of(model), x


COMPOSITES = {
    "epsilon_plus": (),
    "epsilon_plus_flat": (),
    "epsilon_alpha2_beta1": (),
    "epsilon_alpha2_beta1_flat": (),
    "epsilon_gamma_box": (-3.0, 3.0),
    "excitation_backprop": (),
}
KINDS = ("convolution", "linear")
# name -> funcattr's, zennit's and the oracle's name, and what it is called with
RULES = {
    "epsilon": ("epsilon",),
    "z_plus": ("z_plus",),
    "alpha 2 beta 1": ("alpha_beta", 2.0, 1.0),
    "alpha 1 beta 0": ("alpha_beta", 1.0, 0.0),
    "gamma": ("gamma", 0.25),
    "gamma 3": ("gamma", 3.0),
    "flat": ("flat",),
    "w_square": ("w_square",),
    "z_box": ("z_box", -2.5, 3.0),
}
even = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
