"""What other processes run: functions that they can import by name, without pytest."""

import pickle

import torch
from helpers import METHODS, tiny, tiny_input
from torch.utils.data import Dataset

import funcattr as fa

X = tiny_input()


def start():
    """Before the first task of a process."""
    torch.set_num_threads(1)


def scaled(x, g):
    """A rule that is found by its name."""
    return 2 * g * (x > 0)


def early(path):
    """A predicate on paths that is found by its name."""
    return path == "relu"


def picked(out):
    """A target that is found by its name."""
    return out[:, 1] * out[:, 2]


def attributions():
    """Attributions of every kind that can be sent: all that they hold is data, or has a name."""
    model = tiny()
    both = fa.bundle(fa.gradient(model), fa.guided_backprop(model), fa.grad_cam(model, "same:0"))
    rows = [("convolution", fa.rules.epsilon(0.3)), (("relu", early), fa.rules.guided)]
    composite = fa.Composite(rows)
    ruled = fa.with_rules(model, composite)
    guided = fa.guided_backprop(model)
    by_hand = ("bundle", "rule_backprop")
    return {
        **{name: METHODS[name](model) for name in METHODS if name not in by_hand},
        "a bundle": both,
        "a rule of the user's": fa.rule_backprop(model, scaled),
        "a predicate": fa.guided_backprop(model, sites=early),
        "a mapping": fa.gradient(
            fa.relu_rule(model, sites={torch.tanh: scaled, torch.nn.functional.relu: scaled})
        ),
        "a composite": fa.input_x_gradient(ruled),
        "at a layer of a composite": fa.layer_gradient_x_activation(ruled, ["norm", "relu:0"]),
        "a layer by its module": fa.grad_cam(model, model.norm),
        "a guided neuron": fa.guided_backprop(fa.layer_output(model, model.head)),
        "many": fa.smooth_grad(fa.bundle(guided, both), samples=2, sigma=0.1, generator=3),
        "a model in train mode": fa.guided_backprop(tiny(1).train()),
    }


def maps(attr, x, target):
    return attr(x, target=target)


def swept(attr, x, chunk_size):
    return fa.sweep(attr, x, targets=range(4), chunk_size=chunk_size)


def by_bytes(data, x, target):
    """Of an attribution as bytes."""
    return pickle.loads(data)(x, target=target)


def by_file(path, x, target):
    """Of an attribution in a file."""
    return torch.load(path, weights_only=False)(x, target=target)


def from_scratch(name, x, target):
    """Of an attribution that was made in this process."""
    return attributions()[name](x, target=target)


def state(attr):
    """What a process sees of the things that an attribution must not leave behind."""
    attr(X, target=1)
    return torch.overrides._get_current_function_mode() is None, torch.is_grad_enabled()


class Maps(Dataset):
    """A data set whose loaders make the maps."""

    def __init__(self, attr, xs):
        self.attr, self.xs = attr, xs

    def __len__(self):
        return len(self.xs)

    def __getitem__(self, i):
        return self.attr(self.xs[i : i + 1], target=1)[0]
