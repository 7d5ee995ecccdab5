"""Real architectures against the oracle: forward bit for bit, maps to rounding, model untouched.

A table of small members of pytorchcv's families, each for a way in which ReLU is used. Weights
are random: what is tested is the graph, and the trained weights exercise no more of it.
"""

import contextlib
import importlib
from types import SimpleNamespace

import pytest
import torch
from oracle import FORMULAS, rule_gradient
from torch import nn

import funcattr as fa

pytest.importorskip("pytorchcv")


def net(module, builder, size, **kwargs):
    return SimpleNamespace(module=module, builder=builder, size=size, kwargs=kwargs)


NETS = {
    # Residual: in-place ReLU after the sum, before it (pre-activation), drop and shake variants.
    "resnet20": net("resnet_cifar", "resnet20_cifar10", 32),
    "resnet10": net("resnet", "resnet10", 64),
    "preresnet20": net("preresnet_cifar", "preresnet20_cifar10", 32),
    "preresnet18": net("preresnet", "preresnet18_wd4", 64),
    "pyramidnet110": net("pyramidnet_cifar", "pyramidnet110_a48_cifar10", 32),
    "resnext20": net("resnext_cifar", "resnext20_32x2d_cifar10", 32),
    "resdropresnet20": net("resdropresnet_cifar", "resdropresnet20_cifar10", 32),
    "shakedropresnet20": net("shakedropresnet_cifar", "shakedropresnet20_cifar10", 32),
    "shakeshakeresnet20": net("shakeshakeresnet_cifar", "shakeshakeresnet20_2x16d_cifar10", 32),
    "ror3": net("ror_cifar", "ror3_56_cifar10", 32),
    "regnet": net("regnet", "regnetx002", 64),
    "diracnet": net("diracnetv2", "diracnet18v2", 64),
    "ibn_resnet50": net("ibnresnet", "ibn_resnet50", 32),
    # The same convolutions at several depths; a custom autograd.Function without setup_context.
    "sharesnet18": net("sharesnet", "sharesnet18", 64),
    "isqrtcovresnet18": net("isqrtcovresnet", "isqrtcovresnet18", 64),
    # Squeeze-and-excitation, attention gates, one LSTM with one ReLU shared by all blocks (dia).
    "seresnet20": net("seresnet_cifar", "seresnet20_cifar10", 32),
    "sepreresnet20": net("sepreresnet_cifar", "sepreresnet20_cifar10", 32),
    "senet16": net("senet", "senet16", 64),
    "bam_resnet18": net("bamresnet", "bam_resnet18", 64),
    "cbam_resnet18": net("cbamresnet", "cbam_resnet18", 64),
    "diaresnet20": net("diaresnet_cifar", "diaresnet20_cifar10", 32),
    "diapreresnet20": net("diapreresnet_cifar", "diapreresnet20_cifar10", 32),
    "resnestabc14": net("resnesta", "resnestabc14", 64),
    "resattnet56": net("resattnet", "resattnet56", 64),
    # Dense connections: an in-place ReLU on a tensor that a concatenation also reads.
    "densenet40": net("densenet_cifar", "densenet40_k12_bc_cifar10", 32),
    "densenet121": net("densenet", "densenet121", 64),
    "sparsenet121": net("sparsenet", "sparsenet121", 64),
    "peleenet": net("peleenet", "peleenet", 64),
    "vovnet27s": net("vovnet", "vovnet27s", 64),
    "dpn68": net("dpn", "dpn68", 64),
    "msdnet22": net("msdnet_cifar10", "msdnet22_cifar10", 32),
    # Plain and branched.
    "vgg": net("vgg", "VGG", 56, channels=[[8], [16], [32, 32]]),
    "nin": net("nin_cifar", "nin_cifar10", 32),
    "squeezenet": net("squeezenet", "squeezenet_v1_1", 64),
    "squeezenext": net("squeezenext", "sqnxt23_w1", 64),
    "bninception": net("bninception", "bninception", 64),
    "inceptionv3": net("inceptionv3", "inceptionv3", 96),
    "inceptionresnetv1": net("inceptionresnetv1", "inceptionresnetv1", 96),
    "dla46xc": net("dla", "dla46xc", 64),
    "hrnet": net("hrnet", "hrnet_w18_small_v1", 64),
    "fishnet99": net("fishnet", "fishnet99", 64),
    "octresnet10": net("octresnet", "octresnet10_ad2", 64),
    # Several ReLUs read one tensor: the cells of architecture search, and Xception.
    "darts": net("darts", "darts", 64),
    "nasnet": net("nasnet", "nasnet_4a1056", 64),
    "xception": net("xception", "xception", 64),
    # Mobile: channel shuffle with one ReLU module called twice, hard swish written with F.relu6.
    "shufflenet": net("shufflenet", "shufflenet_g3_wd4", 64),
    "shufflenetv2": net("shufflenetv2", "shufflenetv2_wd2", 64),
    "menet": net("menet", "menet108_8x1_g3", 64),
    "mobilenet": net("mobilenet", "mobilenet_wd4", 64),
    "mobilenetv3": net("mobilenetv3", "mobilenetv3_small_w7d20", 64),
    "mnasnet": net("mnasnet", "mnasnet_small", 64),
    "ghostnet": net("ghostnet", "ghostnet", 64),
    # ReLU6, spelled F.hardtanh(x, 0, 6, inplace=True) by nn.ReLU6.
    "mobilenetv2": net("mobilenetv2", "mobilenetv2_wd4", 64),
    "igcv3": net("igcv3", "igcv3_wd4", 64),
    "hardnet39ds": net("hardnet", "hardnet39ds", 64),
    "channelnet": net("channelnet", "channelnet", 64),
    "proxylessnas": net("proxylessnas", "proxylessnas_mobile", 64),
    # One map of scores per pixel.
    "unet": net("unet", "unet_cityscapes", 64),
}


def build(spec):
    """A float64 network in eval mode, with batch norms that do something, already in use.

    A gradient is stored, a parameter frozen, a hook attached, and a ReLU left in train mode
    (which changes no value): all of them have to survive.
    """
    torch.manual_seed(0)
    builder = getattr(importlib.import_module(f"pytorchcv.models.{spec.module}"), spec.builder)
    model = builder(num_classes=10, **spec.kwargs).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
        # The last pool is written for 224 x 224.
        for name, child in module.named_children():
            if isinstance(child, nn.AvgPool2d) and child.stride == 1 and child.padding == 0:
                setattr(module, name, nn.AdaptiveAvgPool2d(1))
    first, *_, last = model.parameters()
    first.requires_grad_(False)
    last.grad = torch.ones_like(last)
    relus = [m for m in model.modules() if isinstance(m, (nn.ReLU, nn.ReLU6))]
    relus[0].train()
    relus[-1].register_forward_hook(lambda module, args, out: None)
    return model


class Snapshot:
    """All that a call could leave behind: values, identities, versions, .grad, flags, hooks."""

    def __init__(self, model, x):
        self.model, self.x = model, x
        self.marks = self.look()
        self.values = [t.detach().clone() for t in self.tensors()]

    def tensors(self):
        owned = [*self.model.parameters(), *self.model.buffers(), self.x]
        return owned + [t.grad for t in owned if t.grad is not None]

    def look(self):
        tensors = [(id(t), t._version, t.requires_grad) for t in self.tensors()]
        modules = {
            name: (
                id(m),
                type(m),
                m.training,
                set(vars(m)),
                {k: dict(v) for k, v in vars(m).items() if k.endswith("_hooks")},
            )
            for name, m in self.model.named_modules()
        }
        return tensors, modules

    @contextlib.contextmanager
    def unchanged(self):
        """The block leaves all of it, and the random state, as they were."""
        rng = torch.get_rng_state()
        yield
        assert torch.equal(torch.get_rng_state(), rng)
        assert self.look() == self.marks
        for tensor, value in zip(self.tensors(), self.values, strict=True):
            assert torch.equal(tensor, value)


@pytest.fixture(scope="module", autouse=True)
def single_thread():
    """Many small convolutions: threads cost more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=list(NETS))
def case(request):
    """One network and what is expected of it, shared by the tests, for the oracle is the cost."""
    spec = NETS[request.param]
    model = build(spec)
    x = torch.randn(2, 3, spec.size, spec.size, dtype=torch.float64)
    target = (3, 20, 30) if request.param == "unet" else 3
    with torch.no_grad():
        out = model(x.clone())
    maps = {rule: rule_gradient(model, x, target, rule) for rule in FORMULAS}
    return SimpleNamespace(
        model=model, x=x, target=target, out=out, maps=maps, before=Snapshot(model, x)
    )


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def test_the_forward_is_the_models_bit_for_bit(case):
    with case.before.unchanged():
        out = fa.relu_rule(case.model)(case.x)
    assert torch.equal(out, case.out)


@pytest.mark.parametrize("method", [fa.guided_backprop, fa.deconvnet])
def test_the_map_equals_the_oracle(case, method):
    with case.before.unchanged():
        got = method(case.model)(case.x, target=case.target)
    expected = case.maps["guided" if method is fa.guided_backprop else "deconvnet"]
    assert relative(got, expected) < 1e-9


def test_the_rules_matter(case):
    """Else the comparison above could pass for a library that replaces nothing, or for zeros."""
    for example in 0, 1:
        standard, guided, deconvnet = (m[example] for m in case.maps.values())
        for a, b in (guided, standard), (deconvnet, standard), (guided, deconvnet):
            assert b.isfinite().all()
            assert b.abs().max() > 0
            assert relative(a, b) > 1e-3
