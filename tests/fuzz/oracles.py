"""What is right: plain autograd of the oracle's network, hooks, and finite differences."""

import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from .activations import FORMULAS, Rectifier
from .networks import build, inputs, scores
from .norms import by_hand
from .spec import Spec


def tensors(tree):
    """The float tensors of a tree, in order."""
    leaves = tree_flatten(tree)[0]
    return [t for t in leaves if isinstance(t, torch.Tensor) and t.is_floating_point()]


def explained(out, target):
    """The number that a target selects, summed over the batch."""
    selected = scores(out)
    if isinstance(target, torch.Tensor):
        target = target.tolist()
    if not isinstance(target, list):
        target = [target] * len(selected)
    return sum(selected[i][t].sum() for i, t in enumerate(target))


def differentiable(args):
    """``args`` with differentiable tensors in them, and these."""
    flat, tree = tree_flatten(args)
    mine = [t.detach().clone().requires_grad_() if isinstance(t, torch.Tensor) else t for t in flat]
    # A network may open with a write to its input, which autograd refuses on a leaf.
    shown = [t.clone() if isinstance(t, torch.Tensor) else t for t in mine]
    return tree_unflatten(shown, tree), [t for t in mine if isinstance(t, torch.Tensor)]


class Unsaid(Exception):
    """A question that the documentation does not answer."""


class Switch:
    """The formula of an oracle's network, which can be another for each pass."""

    def __init__(self):
        self.name = "standard"

    def __call__(self, x, g):
        return FORMULAS[self.name](x, g)


class Oracle:
    """One network's answers."""

    def __init__(self, spec: Spec):
        self.spec, self.switch = spec, Switch()
        self.net = build(spec, self.switch)
        self.began = {name: t.detach().clone() for name, t in self.state()}

    def state(self):
        """The network's parameters and buffers."""
        return [*self.net.named_parameters(), *self.net.named_buffers()]

    def forward(self, args, kwargs, params=None):
        """The output. Each pass begins with the same buffers; the weights are written into the
        network and not lent to it, since a checkpoint reads them again in the backward pass."""
        with torch.no_grad():
            for name, t in self.state():
                t.copy_((params or {}).get(name, self.began[name]))
        return self.net(*args, **kwargs)

    @by_hand()
    def maps(self, rule, target, args=None, kwargs=None, params=None):
        """The maps of a target, one for each tensor that goes in."""
        own = inputs(self.spec)
        args, kwargs = own[0] if args is None else args, own[1] if kwargs is None else kwargs
        self.switch.name = rule
        shown, leaves = differentiable(args)
        kwargs = tree_map(lambda t: t.clone() if isinstance(t, torch.Tensor) else t, kwargs)
        out = self.forward(shown, kwargs, params)
        return gradients(explained(out, target), leaves)

    @by_hand()
    def reached(self):
        """How many ReLUs lie between the input and anything that comes out."""
        shown, leaves = differentiable(inputs(self.spec)[0])
        out = self.forward(shown, inputs(self.spec)[1])
        before = Rectifier.met
        gradients(sum(t.sum() for t in tensors(out)), leaves)
        return Rectifier.met - before

    @by_hand()
    def at_layer(self, name, number, target, at_input, rule="standard"):
        """``[(gradient, activation)]`` of each tensor that a layer gives (or gets)."""
        self.switch.name = rule
        tap = Tap(at_input)
        module = self.net.get_submodule(name)
        handle = tap.on(module)
        try:
            shown, _ = differentiable(inputs(self.spec)[0])
            out = self.forward(shown, inputs(self.spec)[1])
            tap.end()
            value = explained(out, target)
            if value.requires_grad:
                value.backward()
        finally:
            handle.remove()
            self.net.zero_grad()
        return tap.calls[number]


class Probe(torch.autograd.Function):
    """Nothing at all, whose backward tells what it is handed."""

    @staticmethod
    def forward(ctx, x, entry):
        ctx.entry = entry
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        ctx.entry[0] = g.clone()
        return g, None


class Tap:
    """What a layer gives, or gets, with its gradient: ``calls`` has ``[gradient, value]`` of each.

    A tensor's hook is told the gradient of the value that it has now, all its readers counted, also
    where it is overwritten later. Not so that of a view, which is written to through its base: the
    node that made the view is asked, and the layer writes to a copy.
    """

    def __init__(self, at_input):
        self.at_input, self.calls, self.over, self.views = at_input, [], False, []

    def end(self):
        """The forward pass is over; what a checkpoint does again is none of ours."""
        self.over = True
        if any(t._version != version for t, version in self.views):
            raise Unsaid("what goes into a layer is a view, and the model writes to it later")

    def on(self, module):
        self.in_place, self.module = getattr(module, "inplace", False), module
        if self.in_place:
            self.own = module.forward
            module.forward = self.on_a_copy if self.at_input else self.instead
            return self
        if self.at_input:
            return module.register_forward_pre_hook(self.before, with_kwargs=True)
        return module.register_forward_hook(self.after)

    def remove(self):
        del self.module.forward

    def on_a_copy(self, x):
        if self.over:
            return self.own(x)
        x = self.seen(x)
        if not x._is_view():
            return self.own(x)
        x.copy_(self.own(x.clone()))
        self.views = [(t, t._version if t is x else v) for t, v in self.views]
        return x

    def instead(self, x):
        if self.over:
            return self.own(x)
        y = self.own(x.clone())
        entry = [torch.zeros_like(y), y.detach().clone()]
        self.calls.append([entry])
        if torch.is_grad_enabled() and not y.requires_grad:
            y.requires_grad_()
        return x.copy_(Probe.apply(y, entry))

    def before(self, module, args, kwargs):
        return None if self.over else self.seen((args, kwargs))

    def after(self, module, args, out):
        return None if self.over else self.seen(out)

    def seen(self, tree):
        flat, spec = tree_flatten(tree)
        call = []
        for i, t in enumerate(flat):
            if not isinstance(t, torch.Tensor) or not t.is_floating_point():
                continue
            if not t.requires_grad and torch.is_grad_enabled():
                # It depends on nothing, but what comes behind depends on it.
                t = flat[i] = t.detach().clone().requires_grad_().clone()
            entry = [torch.zeros_like(t), t.detach().clone()]
            if t.requires_grad and t._is_view():
                if self.at_input:
                    self.views.append((t, t._version))
                    told_by_node(t, entry)
                    call.append(entry)
                    continue
                t = flat[i] = Probe.apply(t, entry)
            if t.requires_grad:
                # A write to another view leaves this one's node stale until it is read, and torch
                # 2.13 dies of a hook on such a view.
                _ = t.grad_fn
                t.register_hook(lambda g, entry=entry: entry.__setitem__(0, g.clone()))
            call.append(entry)
        self.calls.append(call)
        return tree_unflatten(flat, spec)


def told_by_node(t, entry):
    """The gradient of what ``t`` is now goes into ``entry``, from the node that made it."""
    place = t.output_nr

    def note(gradients):
        if gradients[place] is not None:
            entry[0] = gradients[place].clone()

    if t.grad_fn is not None:  # else it is of a branch without gradients, and nothing comes back
        t.grad_fn.register_prehook(note)


def gradients(value, leaves):
    """Plain autograd, with zeros where nothing reaches."""
    if not (isinstance(value, torch.Tensor) and value.requires_grad):
        return [torch.zeros_like(t) for t in leaves]
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, leaves)]


@by_hand()
def plain(spec, target):
    """The plain gradient of the network itself, which checks the oracle's network."""
    net = build(spec)
    args, kwargs = inputs(spec)
    shown, leaves = differentiable(args)
    return gradients(explained(net(*shown, **kwargs), target), leaves)


def whole(spec):
    """Plain autograd of all that comes out by all that goes in and all weights."""
    net = build(spec)
    args, kwargs = inputs(spec)
    shown, leaves = differentiable(args)
    out = net(*shown, **kwargs)
    return gradients(sum(t.sum() for t in tensors(out)), [*leaves, *net.parameters()])


def cam(g, a, relu=True):
    """Grad-CAM by its two equations."""
    weights = g.flatten(2).mean(2) if g.dim() > 2 else g
    made = (weights.reshape(*weights.shape, *(1,) * (a.dim() - 2)) * a).sum(1, keepdim=True)
    return made.clamp(min=0) if relu else made


def resized(m, x):
    """A map in the size of an input, by the nearest neighbour."""
    return F.interpolate(m, x.shape[2:], mode="nearest")


def moved(tree, directions, step):
    """A tree with each float tensor moved along its direction."""
    flat, spec = tree_flatten(tree)
    steps = iter(directions)
    return tree_unflatten(
        [
            t + step * next(steps) if isinstance(t, torch.Tensor) and t.is_floating_point() else t
            for t in flat
        ],
        spec,
    )


def numeric(f, eps=1e-6):
    """The derivative of ``f(step)``, a list of tensors, at 0; None where there is a kink near."""
    here, ahead, behind = f(0.0), f(eps), f(-eps)
    far = [(a - b) / (4 * eps) for a, b in zip(f(2 * eps), f(-2 * eps))]
    found = []
    for h, a, b, wide in zip(here, ahead, behind, far):
        central = (a - b) / (2 * eps)
        scale = max(1.0, central.abs().max().item()) if central.numel() else 1.0
        one_sided = ((a - h) / eps - (h - b) / eps).abs()
        if central.numel() and (
            one_sided.max() > 3e-3 * scale or (central - wide).abs().max() > 1e-5 * scale
        ):
            return None
        found.append(central)
    return found
