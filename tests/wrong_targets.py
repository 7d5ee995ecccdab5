"""Wrong targets, in calls and in sweeps, and wrong reduces: rows as in `wrong_calls`."""
# ruff: noqa: E501

from collections import Counter

import numpy as np
import torch
from torch import nn
from wrong_calls import ARGUMENT, ATTR, CONV, IMAGES, NET, PARAMS, TARGET, F, X, scores, smooth

import funcattr as fa
from funcattr.compat import captum

BOTH = fa.bundle(ATTR, fa.gradient(NET))
DICT = fa.gradient(lambda x: {"logits": NET(x)})
CAM = fa.grad_cam(CONV, "1")
VMAP = r"^reduce raised .*a function of one map.*runs under torch.vmap: without .item\(\)"
RULE_VMAP = r"^the rule '<lambda>' raised .*runs under torch.vmap: without .item\(\)"
CALLABLE = "^the callable target raised .*a function of the output"


def sweep(attr=ATTR, **more):
    return fa.sweep(attr, X, **{"targets": [0, 1], **more})


def stream(attr=ATTR, **more):
    return list(fa.stream(attr, X, **{"targets": [0, 1], "chunk_size": 1, **more}))


def ruled_sweep(rule):
    return sweep(fa.rule_backprop(NET, rule))


def wave(x):
    return NET(x) * 1j


class Wave(nn.Module):
    def forward(self, x):
        return x * 1j


WAVES = fa.gradient(wave)
COMPLEX = r"a target of real outputs; got one of torch.complex64, of shape \(2,.*lambda out: out\[:, 3\].abs\(\)"


class Linear:
    """A pair that counts on numbers."""

    def prepare(self, operation):
        return ()

    def pull(self, operation, g):
        return operation.pull(g) * g.sum().item()


# fmt: off
# What is wrong about a target wherever it is given: its words, in a call and in an `explain`.
FORMS = {
    "a numpy float": (np.float32(1), "a target is None .*an int .*got .*float32"),
    "a numpy bool": (np.bool_(True), "of type bool"),
    "a complex number": (1j, "got 1j of type complex"),
    "bytes": (b"0", "got b'0' of type bytes"),
    "a set": ({0}, r"got \{0\} of type set"),
    "a dict": ({0: 1}, "of type dict"),
    "a slice": (slice(0, 1), "of type slice"),
    "a range": (range(2), r"got range\(0, 2\) of type range"),
    "an object": (object(), "of type object"),
    "a list of words": (["a", "b"], r"a target is None .*got \['a', 'b'\] of type list"),
    "a list of floats": ([0.0, 1.0], r"got \[0.0, 1.0\]"),
    "a list of bools": ([True, False], "of type list"),
    "a list of lists": ([[0], [1]], "a list of ints or of tuples.*of type list"),
    "a list of None": ([None, None], "of type list"),
    "a list of callables": ([len, len], "of type list"),
    "a list of float tensors": ([torch.tensor(0.0), torch.tensor(1.0)], "of type list"),
    "a list of long tensors": ([torch.tensor([0, 1])], "of type list"),
    "a tuple of floats": ((0.5,), r"got \(0.5,\) of type tuple"),
    "a tuple of tuples": (((0,),), "of type tuple"),
    "a tuple of a slice": ((slice(None),), "of type tuple"),
    "a complex tensor": (torch.tensor([1j]), "holds integers; got dtype torch.complex64"),
    "bools in a tensor": (torch.tensor([True, False]), "holds integers; got dtype torch.bool"),
    "three of two": (torch.tensor([0, 1, 1]), r"has 2 of them, as the output of shape \(2, 2\).*got 3"),
    "none of two": (torch.tensor([]).long(), "has 2 of them.*got 0"),
    "one out of range": (torch.tensor([0, 5]), r"dim 1 of the output, of shape \(2, 2\), lies in -2..1"),
    "a float array": (np.array([0.0, 1.0]), "array of targets holds integers; got dtype float64"),
    "an array of words": (np.array(["a"]), "array of targets holds integers"),
    "an array of two dims": (np.array([[0, 1]]), r"in one dimension; got shape \(1, 2\).*a list of tuples"),
    "tuples of too many": ([(0, 0), (0, 1)], "2 indices selects in the dims after the batch"),
    "ragged tuples": ([(0,), (0, 1)], r"tuples of a target list have one length; got \[\(0,\)"),
    "a callable of None": (lambda out: None, "a callable target returns a float tensor.*got NoneType"),
    "a callable of classes": (lambda out: out.argmax(), "float tensor.*got torch.int64"),
    "a callable of a tuple": (lambda out: (out,), "float tensor.*got tuple"),
    "a callable of a list": (lambda out: [out], "float tensor.*got list"),
    "a callable of numpy": (lambda out: out.detach().numpy(), f"{CALLABLE}.*without numpy"),
    "a callable of a key": (lambda out: out["logits"], CALLABLE),
    "a callable of an attribute": (lambda out: out.logits, CALLABLE),
    "a callable of nothing": (lambda: 0, CALLABLE),
    "a callable of another shape": (lambda out: out @ torch.ones(9, 9), CALLABLE),
    "a callable of another dim": (lambda out: out.sum(9), CALLABLE),
    "a class": (nn.ReLU, "float tensor, whose sum is explained; got ReLU"),
}

IN_CALLS = {
    "targets": (lambda: ATTR(X, targets=[0, 1]), ARGUMENT, r"several targets go in funcattr.sweep\(attr, x, targets=...\)"),
    "targets of a bundle": (lambda: BOTH(X, targets=[0, 1]), ARGUMENT, "several targets go in funcattr.sweep"),
    "targets smoothed": (lambda: fa.smooth_grad(ATTR, samples=2, sigma=0.1, generator=0)(X, targets=[0]), ARGUMENT, "^several targets go in funcattr.sweep"),
    "targets integrated": (lambda: fa.integrated_gradients(NET, steps=2)(X, targets=[0]), ARGUMENT, "^several targets go in funcattr.sweep"),
    "without its keyword, of a bundle": (lambda: BOTH(X, 1), ARGUMENT, r"goes by its keyword, attr\(x, target=1\)"),
    "without its keyword, smoothed": (lambda: fa.smooth_grad(ATTR, samples=2, sigma=0.1, generator=0)(X, 1), ARGUMENT, r"attr\(x, target=1\)"),
    "target to linearize": (lambda: ATTR.linearize(X, target=0), ARGUMENT, r"goes to the explain that it returns: out, explain = attr.linearize\(x\); explain\(3\)"),
    "targets to linearize": (lambda: ATTR.linearize(X, targets=[0]), ARGUMENT, r"Several go in funcattr.sweep\(attr, x, targets="),
    "target to linearize of a bundle": (lambda: BOTH.linearize(X, target=0), ARGUMENT, "goes to the explain"),
    "target to linearize of a mean": (lambda: fa.smooth_grad(ATTR, samples=2, sigma=0.1, generator=0).linearize(X, target=0), ARGUMENT, "^linearize takes(?!.*linearize takes).*goes to the explain"),
    "none at a layer": (lambda: CAM(IMAGES), TARGET, r"shape \(2, 2\), several numbers per example: a target says which"),
    "none of a bundle": (lambda: BOTH(X), TARGET, "several numbers per example"),
    "none smoothed": (lambda: smooth(target=None), TARGET, "several numbers per example"),
    "none under jacrev": (lambda: torch.func.jacrev(ATTR)(X), TARGET, "several numbers per example"),
    "none of a neuron": (lambda: fa.gradient(fa.layer_output(CONV, "1"))(IMAGES), TARGET, r"shape \(2, 4, 4, 4\), several numbers"),
    "out of range, smoothed": (lambda: smooth(target=5), TARGET, "lies in -2..1; got 5"),
    "out of range at a layer": (lambda: CAM(IMAGES, target=9), TARGET, "lies in -2..1; got 9"),
    "out of range of a layer": (lambda: fa.gradient(fa.layer_output(CONV, "1"))(IMAGES, target=(4, 0, 0)), TARGET, r"shape \(2, 4, 4, 4\), lies in -4..3"),
    "out of range, differentiated": (lambda: torch.func.grad(lambda x: ATTR(x, target=9).sum())(X), TARGET, "lies in -2..1; got 9"),
    "out of range with parameters": (lambda: fa.guided_backprop(F, 1)(PARAMS, X, target=-3), TARGET, "lies in -2..1; got -3"),
    "an int of a dict": (lambda: fa.gradient(scores)(X, target=0), TARGET, r"a dict, not a tensor.*callable.*lambda out.*got 0"),
    "an int of a list": (lambda: fa.gradient(lambda x: [NET(x)])(X, target=0), TARGET, "a list, not a tensor"),
    "an int of several layers": (lambda: fa.gradient(fa.layer_output(CONV, ["1", "0"]))(IMAGES, target=0), TARGET, "a list, not a tensor"),
    "an int of a complex output": (lambda: WAVES(X, target=1), TARGET, COMPLEX),
    "a tuple of a complex output": (lambda: WAVES(X, target=(1,)), TARGET, COMPLEX),
    "one per example of a complex output": (lambda: WAVES(X, target=[0, 1]), TARGET, COMPLEX),
    "a tensor of a complex output": (lambda: WAVES(X, target=torch.tensor(1)), TARGET, COMPLEX),
    "None of a complex output": (lambda: fa.gradient(lambda x: wave(x)[:, 0])(X), TARGET, COMPLEX),
    "a complex part of an output": (lambda: fa.gradient(lambda x: {"a": wave(x)}, output="a")(X, target=1), TARGET, COMPLEX),
    "a complex neuron": (lambda: fa.gradient(fa.layer_output(nn.Sequential(NET, Wave()), "1"))(X, target=1), TARGET, COMPLEX),
    "a complex output behind layers": (lambda: fa.layer_gradient_x_activation(nn.Sequential(NET, Wave()), "0")(X, target=1), TARGET, COMPLEX),
    "a complex number of a callable": (lambda: WAVES(X, target=lambda o: o[:, 1]), TARGET, "float tensor.*got torch.complex64"),
    "no batch under vmap": (lambda: torch.vmap(ATTR)(X, target=0), TARGET, r"shape \(2,\). A model of single examples needs a batch dimension of 1"),
    "floats under vmap": (lambda: torch.vmap(ATTR.linearize(X)[1])(torch.tensor([0.0, 1.0])), TARGET, r"holds integers; got dtype torch.float32. Pass target.long\(\)"),
    "too many under vmap": (lambda: torch.vmap(ATTR.linearize(X)[1])(torch.zeros(2, 3).long()), TARGET, "has 2 of them.*got 3"),
    ".item() under vmap": (lambda: torch.vmap(lambda x: ATTR(x[None], target=lambda o: o[:, o.argmax().item()]))(X), TARGET, rf"{CALLABLE}.*under torch.vmap without .item\(\)"),
    "an if under vmap": (lambda: torch.vmap(lambda x: ATTR(x[None], target=lambda o: o if o.sum() > 0 else -o))(X), TARGET, rf"{CALLABLE}.*torch.where"),
    "a callable, for captum": (lambda: captum.GuidedBackprop(NET).attribute(X, lambda o: o), AssertionError, "Target type"),
    "too large, for captum": (lambda: captum.GuidedBackprop(NET).attribute(X, 7), IndexError, "^index 7 is out of bounds"),
}

IN_SWEEPS = {
    "None": (lambda: sweep(targets=None), TARGET, "a sequence, a range or an integer tensor; got NoneType.*call the attribution itself"),
    "a set": (lambda: sweep(targets={0, 1}), TARGET, "got set"),
    "a generator": (lambda: stream(targets=(t for t in range(2))), TARGET, "got generator"),
    "bytes": (lambda: sweep(targets=b"01"), TARGET, "got bytes"),
    "a callable": (lambda: sweep(targets=lambda out: out), TARGET, "got function. For a single target call the attribution itself"),
    "a counter": (lambda: sweep(targets=Counter([0])), TARGET, "got Counter"),
    "an empty range": (lambda: sweep(targets=range(0)), TARGET, "targets is empty; expected at least one"),
    "an empty tensor": (lambda: stream(targets=torch.tensor([]).long()), TARGET, "targets is empty"),
    "a tensor of no dims": (lambda: sweep(targets=torch.tensor(1)), TARGET, r"a tensor \[T\] \(an int each\).*got shape \(\)"),
    "bools": (lambda: sweep(targets=torch.tensor([True])), TARGET, "holds integers; got dtype torch.bool"),
    "a float array": (lambda: sweep(targets=np.ones(2)), TARGET, "holds integers; got dtype float64"),
    "an array of objects": (lambda: sweep(targets=np.array([None])), TARGET, "holds integers; got dtype object"),
    "words": (lambda: sweep(targets=["a", "b"]), TARGET, "a target is None .*got 'a' of type str"),
    "a list of bools": (lambda: stream(targets=[True]), TARGET, "got True of type bool"),
    "a list of None": (lambda: sweep(targets=[None, None]), TARGET, "several numbers per example"),
    "three for two examples": (lambda: sweep(targets=[[0, 1, 1]]), TARGET, "has 2 of them.*got 3"),
    "a tensor for three examples": (lambda: stream(targets=torch.zeros(2, 3).long()), TARGET, "has 2 of them.*got 3"),
    "indices of two dims": (lambda: sweep(targets=[(0, 0)]), TARGET, "2 indices selects in the dims after the batch"),
    "out of range in a stream": (lambda: stream(targets=torch.tensor([0, 7])), TARGET, "lies in -2..1"),
    "out of range compiled": (lambda: sweep(targets=[0, 9], compile=True), TARGET, "lies in -2..1; got 9"),
    "out of range under vmap": (lambda: torch.vmap(lambda x: fa.sweep(ATTR, x[None], targets=[0, 9]))(X), TARGET, "lies in -2..1"),
    "callables that give no tensor": (lambda: sweep(targets=[lambda out: 3]), TARGET, "a callable target returns a float tensor.*got int"),
    "callables that fail": (lambda: sweep(targets=[lambda out: out["a"]]), TARGET, CALLABLE),
    "compiled callables": (lambda: sweep(targets=[lambda out: out], compile=True), ARGUMENT, "compile=True needs targets of one form that are no callables; .*compile=False"),
    "compiled forms that differ": (lambda: stream(targets=[0, None], compile=True), ARGUMENT, "targets of one form"),
    "ints of a complex output": (lambda: sweep(WAVES), TARGET, COMPLEX),
    "ints of a complex output in a stream": (lambda: list(fa.stream(WAVES, X, targets=[0, 1], chunk_size=1)), TARGET, COMPLEX),
    "ints of a complex output, compiled": (lambda: sweep(WAVES, compile=True), TARGET, COMPLEX),
    "progress by a word": (lambda: sweep(progress="yes"), ARGUMENT, "progress is True or False; got 'yes'"),
    "target as well": (lambda: sweep(target=0), ARGUMENT, r"funcattr.sweep\(attr, x, targets=...\)"),
    "no input": (lambda: fa.sweep(ATTR, targets=[0]), ARGUMENT, "argnums=0 names no argument"),
    "integers as input": (lambda: fa.sweep(ATTR, X.long(), targets=[0]), ARGUMENT, "float tensor; got a tensor of torch.int64"),
    "a method": (lambda: sweep(fa.gradient), ARGUMENT, r"attr is an Attribution \(funcattr.guided_backprop.*got a function"),
    "a list of attributions": (lambda: sweep([ATTR, ATTR]), ARGUMENT, "several go in funcattr.bundle, .*got a list"),
    "compiled before": (lambda: sweep(torch.compile(ATTR)), ARGUMENT, r"compile=True takes the place of torch.compile\(attr\).*got a function"),
    "a model in a stream": (lambda: fa.stream(NET, X, targets=[0], chunk_size=1), ARGUMENT, "attr is an Attribution.*got a Sequential"),
    "the input before": (lambda: fa.sweep(X, ATTR, targets=[0]), ARGUMENT, "got a Tensor"),
    "chunk_size, a bool": (lambda: sweep(chunk_size=True), ARGUMENT, "chunk_size is a positive int, None or 'auto'; got True"),
    "chunk_size, a tuple": (lambda: sweep(chunk_size=(1,)), ARGUMENT, r"None or 'auto'; got \(1,\)"),
    "chunk_size, a float tensor": (lambda: sweep(chunk_size=torch.tensor(1.5)), ARGUMENT, r"None or 'auto'; got tensor\(1.5"),
    "compile, no mode": (lambda: sweep(compile="fast"), ARGUMENT, "compile is True, False or a mode of torch.compile, one of default, reduce-overhead, .*; got 'fast'"),
    "compile, a number": (lambda: sweep(compile=1.5), ARGUMENT, "compile is True or False; got 1.5"),
    "reduce, a number": (lambda: sweep(reduce=3), ARGUMENT, "reduce is a function of one map; got 3"),
    "reduce to None": (lambda: sweep(reduce=lambda m: None), ARGUMENT, "returns a tensor, or a pytree of tensors; got NoneType"),
    "an output that is a dict": (lambda: sweep(DICT), TARGET, r"the output is a dict, not a tensor, so the target is a callable.*; got integers\.$"),
    "an output that is a dict, compiled": (lambda: sweep(DICT, compile=True), fa.FuncattrError, r"the output is a dict.*; got integers\.$"),
    "an output that is a dict, in a stream": (lambda: stream(attr=DICT, targets=torch.tensor([[0, 1]])), TARGET, r"got integers\.$"),
    "reduce to nothing": (lambda: sweep(reduce=lambda m: ()), ARGUMENT, r"returns a tensor, or a pytree of tensors; got no tensor, \(\)"),
    "reduce to nothing, compiled": (lambda: sweep(reduce=lambda m: [], compile=True), fa.FuncattrError, r"got no tensor, \[\]"),
    "reduce to an empty dict": (lambda: stream(reduce=lambda m: {}), ARGUMENT, r"a pytree of tensors; got no tensor, \{\}"),
    "reduce to a word": (lambda: stream(reduce=lambda m: "a"), ARGUMENT, "a pytree of tensors; got str"),
    "reduce to a number, too": (lambda: sweep(reduce=lambda m: [m.sum(), 1]), ARGUMENT, "got Tensor, int"),
    "reduce of nothing": (lambda: sweep(reduce=lambda: 0), ARGUMENT, VMAP),
    "reduce of two": (lambda: sweep(reduce=lambda a, b: a), ARGUMENT, "reduce raised TypeError.*a function of one map"),
    "reduce with .item()": (lambda: sweep(reduce=lambda m: m.sum().item()), ARGUMENT, VMAP),
    "reduce with an if": (lambda: sweep(reduce=lambda m: m if m.sum() > 0 else -m), ARGUMENT, rf"{VMAP}, numpy, or an if on values \(torch.where\)"),
    "reduce with numpy": (lambda: stream(reduce=lambda m: m.numpy()), ARGUMENT, VMAP),
    "reduce by numpy": (lambda: sweep(reduce=np.abs), ARGUMENT, VMAP),
    "reduce by float": (lambda: sweep(reduce=float), ARGUMENT, VMAP),
    "reduce by a mask": (lambda: sweep(reduce=lambda m: m[m > 0]), ARGUMENT, VMAP),
    "reduce to another shape": (lambda: sweep(reduce=lambda m: m.reshape(7)), ARGUMENT, VMAP),
    "reduce over no such dim": (lambda: sweep(reduce=lambda m: m.sum(9)), ARGUMENT, VMAP),
    "reduce by a key": (lambda: sweep(reduce=lambda m: m["a"]), ARGUMENT, VMAP),
    "reduce by an attribute": (lambda: sweep(reduce=lambda m: m.foo), ARGUMENT, VMAP),
    "reduce of a bundle": (lambda: sweep(BOTH, reduce=lambda m: m.sum()), ARGUMENT, r"^reduce raised AttributeError.*of a bundle, the tuple of them"),
    "reduce under vmap": (lambda: torch.vmap(lambda x: fa.sweep(ATTR, x[None], targets=[0], reduce=lambda m: m.sum().item()))(X), ARGUMENT, VMAP),
    "a rule with .item()": (lambda: ruled_sweep(lambda x, g: g * g.sum().item()), ARGUMENT, RULE_VMAP),
    "a rule with float": (lambda: ruled_sweep(lambda x, g: float(g.sum()) * g), ARGUMENT, RULE_VMAP),
    "a rule with an if": (lambda: ruled_sweep(lambda x, g: g if g.sum() > 0 else x), ARGUMENT, rf"{RULE_VMAP}.*torch.where"),
    "a rule with numpy": (lambda: ruled_sweep(lambda x, g: torch.as_tensor(g.numpy())), ARGUMENT, RULE_VMAP),
    "a rule with a list": (lambda: ruled_sweep(lambda x, g: torch.tensor(g.tolist())), ARGUMENT, RULE_VMAP),
    "a rule with a mask": (lambda: ruled_sweep(lambda x, g: g[g > 0]), ARGUMENT, RULE_VMAP),
    "a rule that writes to x": (lambda: ruled_sweep(lambda x, g: x.mul_(g)), ARGUMENT, RULE_VMAP),
    "a rule that writes to g": (lambda: ruled_sweep(lambda x, g: g.mul_(2)), ARGUMENT, "the rule '<lambda>' writes to a tensor that it is given.*return a new one"),
    "a rule of a sum": (lambda: ruled_sweep(lambda x, g: g.sum()), ARGUMENT, r"shape of x, here \(2, 4\).*returned shape \(\)"),
    "a rule of None": (lambda: ruled_sweep(lambda x, g: None), ARGUMENT, "returned None"),
    "a pair with .item()": (lambda: sweep(fa.gradient(fa.with_rules(NET, fa.Composite([("linear", Linear())])))), ARGUMENT, r"^the rule 'Linear' raised .*linear in g.*without .item\(\)"),
}
# fmt: on
