"""What is asked of the library for each network, and who says what is right."""

import torch
from torch.func import functional_call, grad, jvp, vmap
from torch.utils._pytree import tree_map

import funcattr as fa

from . import networks, oracles
from .case import RULES, Layer, Skip, close, same
from .networks import CLASSES
from .oracles import tensors
from .relevance_check import relevance


def forward(case):
    """Values are the model's, however they are asked for; a ruled function's bit for bit."""
    net = networks.build(case.spec)
    shown, _ = oracles.differentiable(case.args)
    expected = _detached(net(*shown, **case.kwargs))
    rule = RULES[case.rule()]
    ruled = fa.relu_rule(case.model, rule)(*case.args, **case.kwargs)
    same(_detached(ruled), expected, "relu_rule")
    attr = fa.rule_backprop(case.model, rule, case.argnums)
    out, _ = attr.linearize(*case.args, **case.kwargs)
    # Without gradients of weights torch may take another way through a product.
    close(tensors(out), tensors(expected), "linearize", 1e-12)
    f, params = fa.make_functional(case.model)
    out = f(params, *case.args, **case.kwargs)
    close(tensors(out), tensors(expected), "make_functional", 1e-12)


def rules(case):
    """Each rule's maps are the oracle's; standard's are torch's own."""
    ours, theirs = case.target()
    expected = oracles.plain(case.spec, theirs)
    close(case.oracle.maps("standard", theirs), expected, "the oracle itself")
    for name, rule in RULES.items():
        ours, theirs = case.target()
        expected = case.oracle.maps(name, theirs)
        attr = fa.rule_backprop(case.model, rule, case.argnums)
        close(case.maps(attr, ours), expected, name)
    ours, theirs = case.target()
    expected = oracles.plain(case.spec, theirs)
    close(case.maps(fa.gradient(case.model, case.argnums), ours), expected, "gradient")
    net = networks.build(case.spec)  # what a function closes over may write to itself
    attr = fa.guided_backprop(lambda *a, **k: net(*a, **k), case.argnums)
    close(case.maps(attr, ours), case.oracle.maps("guided", theirs), "guided of a function")


def sweeps(case):
    """A sweep is the loop, is vmap, is the oracle."""
    name = case.rule()
    attr = fa.rule_backprop(case.model, RULES[name], case.argnums)
    expected = [case.oracle.maps(name, t) for t in range(CLASSES)]
    expected = [torch.stack(column) for column in zip(*expected)]
    chunk = case.random.choice((None, 1, 3, "auto"))
    targets = range(CLASSES)
    if not case.indexed:
        targets = [lambda out, t=t: networks.scores(out)[:, t] for t in range(CLASSES)]
    maps = fa.sweep(attr, *case.args, targets=targets, chunk_size=chunk, **case.kwargs)
    close(tensors(maps), expected, f"sweep {name}")
    both = fa.bundle(fa.gradient(case.model, case.argnums), attr)
    plain, ours = fa.sweep(both, *case.args, targets=targets, chunk_size=chunk, **case.kwargs)
    close(tensors(ours), expected, f"bundle {name}")
    standard = [oracles.plain(case.spec, t) for t in range(CLASSES)]
    close(tensors(plain), [torch.stack(c) for c in zip(*standard)], "bundle gradient")
    if case.indexed:
        maps = vmap(lambda t: case.maps(attr, t))(torch.arange(CLASSES))
        close(maps, expected, f"vmap {name}")


def layers(case):
    """The methods at layers, of what comes out and of what goes in."""
    if not case.layers:
        raise Skip("no layers")
    for layer in case.random.sample(case.layers, min(2, len(case.layers))):
        number = case.random.randrange(layer.calls)
        name = f"{layer.name}:{number}" if case.random.random() < 0.7 else layer.name
        number = number if ":" in name else -1
        for at_input in (False, True):
            _at_layer(case, layer, name, number, at_input)


def _at_layer(case, layer: Layer, name, number, at_input):
    ours, theirs = case.target()
    what = f"{'input' if at_input else 'output'} of a layer"
    if at_input and layer.writes and not _in_place(case, layer):
        return  # documented: an error
    how = {"attribute_to_layer_input": at_input}
    attr = fa.layer_gradient_x_activation(case.model, name, **how)
    net = networks.build(case.spec)
    shown, _ = oracles.differentiable(case.args)
    out, explain = attr.linearize(*case.args, **case.kwargs)
    # Torch may choose another kernel where nothing is differentiated before the layer.
    close(tensors(out), tensors(_detached(net(*shown, **case.kwargs))), f"forward at the {what}")
    if layer.alias and not _in_place(case, layer) and not at_input:
        return  # whose tensor is it?
    expected = case.oracle.at_layer(layer.name, number, theirs, at_input)
    close(tensors(explain(ours)), [g * a for g, a in expected], what)
    if len(expected) > 1 or expected[0][1].dim() < 2:
        return
    ((g, a),) = expected
    late = oracles.cam(g, a)
    close(
        tensors(fa.grad_cam(case.model, name, **how)(*case.args, **case.kwargs, target=ours)),
        [late],
        f"grad_cam, {what}",
    )
    inputs = tensors(case.args)
    if (
        len(a) == case.spec.batch
        and case.oracle.reached()
        and all(a.dim() == x.dim() and 3 <= a.dim() <= 5 for x in inputs)
    ):
        attr = fa.guided_grad_cam(case.model, name, argnums=case.argnums, **how)
        guided = case.oracle.maps("guided", theirs)
        expected = [g * oracles.resized(late, x) for g, x in zip(guided, inputs)]
        close(case.maps(attr, ours), expected, f"guided_grad_cam, {what}")


def _in_place(case, layer):
    return getattr(case.model.get_submodule(layer.name), "inplace", False)


def derivative(case):
    """The derivative of a map by the inputs, three ways, against finite differences."""
    if not case.model.smooth:
        raise Skip("no derivative")
    name, (ours, theirs) = case.rule(), case.target()
    attr = fa.rule_backprop(case.model, RULES[name], case.argnums)
    v = case.directions(tensors(case.args))
    expected = oracles.numeric(
        lambda s: case.oracle.maps(name, theirs, oracles.moved(case.args, v, s))
    )
    if expected is None:
        raise Skip("a kink")

    def f(step):
        return case.maps(attr, ours, oracles.moved(case.args, v, step))

    zero = torch.zeros((), dtype=torch.float64)
    way = case.random.choice(("jvp", "grad", "backward"))
    if way == "jvp":
        found = jvp(f, (zero,), (torch.ones_like(zero),))[1]
        close(found, expected, f"jvp of {name}", 1e-5)
        return
    u = case.directions(expected, 5)
    number = sum((a * b).sum() for a, b in zip(expected, u))
    if way == "grad":
        found = grad(lambda s: sum((m * w).sum() for m, w in zip(f(s), u)))(zero)
    else:
        step = zero.clone().requires_grad_()
        value = sum((m * w).sum() for m, w in zip(f(step), u))
        found = oracles.gradients(value, [step])[0]
    size = sum(a.abs().sum() for a in expected).item()
    close([found], [number], f"{way} of {name}", 1e-5 * max(1.0, size / max(1, abs(number))))


def params(case):
    """``f(params, x)`` with other parameters, its maps, and their derivative by them."""
    others = case.others()
    net = networks.build(case.spec)
    shown, _ = oracles.differentiable(case.args)
    expected = _detached(functional_call(net, others, shown, case.kwargs))
    f, _ = fa.make_functional(case.model)
    close(tensors(f(others, *case.args, **case.kwargs)), tensors(expected), "f(params, x)")
    name, (ours, theirs) = case.rule(), case.target()
    attr, _ = case.by_params(lambda f, **k: fa.rule_backprop(f, RULES[name], **k))
    maps = tensors(attr(others, *case.args, **case.kwargs, target=ours))
    close(maps, case.oracle.maps(name, theirs, params=others), f"{name} of f(params, x)")
    if not case.model.smooth:
        return
    v = dict(zip(others, case.directions(others.values())))
    expected = oracles.numeric(
        lambda s: case.oracle.maps(
            name, theirs, params={n: p + s * v[n] for n, p in others.items()}
        )
    )
    if expected is None:
        return

    def moved(others):
        return tensors(attr(others, *case.args, **case.kwargs, target=ours))

    u = case.directions(expected, 5)
    slope = grad(lambda p: sum((m * w).sum() for m, w in zip(moved(p), u)))(others)
    found = sum((slope[n] * v[n]).sum() for n in others)
    number = sum((a * b).sum() for a, b in zip(expected, u))
    size = sum(a.abs().sum() for a in expected).item()
    close([found], [number], f"slope by params of {name}", 1e-5 * max(1.0, size))


def ensemble(case):
    """Stacked parameters under vmap."""
    sets = [case.others(seed) for seed in (1, 2)]
    stacked = {n: torch.stack([s[n] for s in sets]) for n in sets[0]}
    name, (ours, theirs) = case.rule(), case.target()
    attr, _ = case.by_params(lambda f, **k: fa.rule_backprop(f, RULES[name], **k))
    maps = vmap(lambda p: tensors(attr(p, *case.args, **case.kwargs, target=ours)))(stacked)
    each = [case.oracle.maps(name, theirs, params=s) for s in sets]
    close(maps, [torch.stack(c) for c in zip(*each)], f"ensemble {name}")


def batches(case):
    """Several batches under vmap."""
    several = [networks.inputs(case.spec, seed) for seed in (0, 1)]
    flat = [tensors(args) for args, _ in several]
    stacked = [torch.stack(column) for column in zip(*flat)]
    name, (ours, theirs) = case.rule(), case.target()
    attr = fa.rule_backprop(case.model, RULES[name], case.argnums)

    def one(*xs):
        zeros = oracles.moved(case.args, [-t for t in tensors(case.args)], 1.0)
        return case.maps(attr, ours, oracles.moved(zeros, xs, 1.0))

    maps = vmap(one)(*stacked)
    each = [case.oracle.maps(name, theirs, args, case.kwargs) for args, _ in several]
    close(maps, [torch.stack(c) for c in zip(*each)], f"batches {name}")


def _detached(out):
    return tree_map(lambda t: t.detach() if isinstance(t, torch.Tensor) else t, out)


CHECKS = (forward, rules, sweeps, layers, derivative, params, ensemble, batches, relevance)
