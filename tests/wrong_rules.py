"""Wrong rules, sites and composites: rows as in `wrong_calls`."""
# ruff: noqa: E501

import math

import torch
from torch import nn
from wrong_calls import ARGUMENT, GUIDED, NET, SITE, X

import funcattr as fa

EPSILON = fa.rules.epsilon()


class Pair:
    def __init__(self, prepare=lambda o: (), pull=lambda o, g: o.pull(g)):
        self._prepare, self._pull = prepare, pull

    def prepare(self, operation):
        return self._prepare(operation)

    def pull(self, operation, g, *prepared):
        return self._pull(operation, g, *prepared)


def by_row(*row):
    return fa.gradient(fa.with_rules(NET, fa.Composite([row])))(X, target=0)


def by_rule(rule, **more):
    return fa.rule_backprop(NET, rule, **more)(X, target=0)


# fmt: off
RULES = {
    "no sites": (lambda: fa.guided_backprop(NET, sites=()), ARGUMENT, "no row, and so no rule: name at least one.*sites=.*require_match=False"),
    "an empty mapping": (lambda: fa.guided_backprop(NET, sites={}), ARGUMENT, "no row, and so no rule"),
    "a composite that was not made": (lambda: fa.lrp(NET, fa.composites.epsilon_plus), ARGUMENT, "composite is a Composite.*call it"),
    "a rule that was not made": (lambda: fa.Composite([("linear", fa.rules.z_plus)]), ARGUMENT, "makes a rule; call it, z_plus"),
    "a rule of two that was not made": (lambda: fa.Composite([("relu", fa.rules.alpha_beta)]), ARGUMENT, "makes a rule; call it, alpha_beta"),
    "a place that was not made": (lambda: fa.Composite([(fa.first, EPSILON)]), ARGUMENT, "first makes a place; call it"),
    "a row for no module's path": (lambda: by_row(("linear", lambda path: path == "typo"), EPSILON), SITE, "met none of the activations.*where the predicate holds"),
    "one beside others": (lambda: fa.lrp(NET, fa.Composite([(lambda path: path == "typo", EPSILON), ("linear", EPSILON)]))(X, target=0), SITE, "a row of the composite.*sites"),
    "a row for no module's class": (lambda: fa.lrp(NET, fa.Composite([(nn.GRU, EPSILON), ("linear", EPSILON)]))(X, target=0), SITE, "a row of the composite, GRU: epsilon"),
    "a fraction for a percentile": (lambda: fa.rect_grad(NET, 0.98), ARGUMENT, "98 and not 0.98"),
    "an empty composite": (lambda: fa.with_rules(NET, fa.Composite([])), ARGUMENT, "no row, and so no rule.*Composite"),
    "a number for sites": (lambda: fa.relu_rule(NET, sites=3), ARGUMENT, "sites names activations.*got 3"),
    "a bool for sites": (lambda: fa.relu_rule(NET, sites=True), ARGUMENT, "sites names activations.*got True"),
    "sites in lists": (lambda: fa.relu_rule(NET, sites=[["relu"]]), ARGUMENT, "sites names activations.*Did you mean 'relu'"),
    "a builtin in sites": (lambda: fa.relu_rule(NET, sites={len: GUIDED}), ARGUMENT, "from torch functions to rules, and .*len> is none"),
    "a module in sites": (lambda: fa.relu_rule(NET, sites={nn.ReLU(): GUIDED}), ARGUMENT, r"from torch functions to rules, and ReLU\(\) is none"),
    "a word as a rule in sites": (lambda: fa.relu_rule(NET, sites={torch.relu: "x"}), ARGUMENT, "from torch functions to rules; got .*'x'"),
    "a rule of one in sites": (lambda: fa.relu_rule(NET, sites={torch.relu: lambda x: x}), ARGUMENT, "two tensors.*'<lambda>' cannot be"),
    "a predicate of nothing": (lambda: fa.guided_backprop(NET, sites=lambda: True)(X, target=0), ARGUMENT, r"predicate on module paths, \(path\) -> bool; .*raised TypeError"),
    "a predicate that fails": (lambda: fa.guided_backprop(NET, sites=lambda path: path.foo)(X, target=0), ARGUMENT, "predicate on module paths.*raised AttributeError: 'str'"),
    "a predicate that never holds": (lambda: fa.guided_backprop(NET, sites=lambda path: False)(X, target=0), SITE, "where the predicate holds.; it met relu"),
    "a predicate and a function": (lambda: fa.guided_backprop(lambda x: NET(x), sites=lambda path: True), ARGUMENT, "a plain function has none; pass the module"),
    "sites of another kind": (lambda: fa.guided_backprop(NET, sites="gelu")(X, target=0), SITE, r"for \(gelu\); it met relu. Name other activations in sites="),
    "require_match by a word": (lambda: fa.guided_backprop(NET, require_match="no"), ARGUMENT, "require_match is True or False; got 'no'"),
    "require_match None": (lambda: fa.with_rules(NET, fa.Composite([("relu", GUIDED)]), require_match=None), ARGUMENT, "require_match is True or False; got None"),
    "a rule, None": (lambda: by_rule(None), ARGUMENT, r"rule is a function \(x, g\) -> g_in; got None"),
    "a pair as a rule": (lambda: by_rule(EPSILON), ARGUMENT, r"rule is a function \(x, g\)"),
    "a rule that was called": (lambda: by_rule(GUIDED(torch.ones(1), torch.ones(1))), ARGUMENT, "rule is a function.*got tensor"),
    "a rule of one": (lambda: by_rule(lambda x: x), ARGUMENT, r"two tensors, \(x, g\) -> g_in; '<lambda>' cannot be"),
    "a rule of three": (lambda: by_rule(lambda x, g, out: g), ARGUMENT, "two tensors"),
    "torch.relu as a rule": (lambda: by_rule(torch.relu), ARGUMENT, r"the rule 'relu' raised TypeError.*\(x, g\) -> g_in"),
    "a module as a rule": (lambda: by_rule(nn.ReLU()), ARGUMENT, r"the rule ReLU\(\) raised TypeError.*elementwise"),
    "a rule of fewer examples": (lambda: by_rule(lambda x, g: g[:1]), ARGUMENT, r"shape of x, here \(2, 4\); '<lambda>' returned shape \(1, 4\).*elementwise"),
    "a rule of bools": (lambda: by_rule(lambda x, g: g > 0), ARGUMENT, "float tensor.*returned shape .*torch.bool"),
    "a rule of a tuple": (lambda: by_rule(lambda x, g: (g,)), ARGUMENT, r"float tensor.*returned \(tensor"),
    "a rule of numpy": (lambda: by_rule(lambda x, g: g.numpy()), ARGUMENT, "float tensor.*returned array"),
    "a rule of a number": (lambda: by_rule(lambda x, g: 1.0), ARGUMENT, "float tensor.*returned 1.0"),
    "a rule that fails": (lambda: by_rule(lambda x, g: g.foo), ARGUMENT, "the rule '<lambda>' raised AttributeError: .*elementwise"),
    "a rule of no such dim": (lambda: by_rule(lambda x, g: g.sum(9)), ARGUMENT, "the rule '<lambda>' raised IndexError"),
    "a rule that writes to g": (lambda: by_rule(lambda x, g: g.clamp_(min=0)), ARGUMENT, r"the rule '<lambda>' writes to a tensor that it is given.*return a new one \(g.clamp"),
    "a rule that writes to x": (lambda: by_rule(lambda x, g: x.mul_(g)), ARGUMENT, r"writes to a tensor that it is given.*return a new one \(g.clamp"),
    "rows, a word": (lambda: fa.Composite("relu"), ARGUMENT, r"made of rows, Composite\(\[\(where, rule\), ...\]\); got 'relu'"),
    "rows, a dict": (lambda: fa.Composite({"relu": GUIDED}), ARGUMENT, r"made of rows.*got \{'relu'"),
    "rows, None": (lambda: fa.Composite(None), ARGUMENT, "made of rows.*got None"),
    "rows, one without its list": (lambda: fa.Composite(("relu", GUIDED)), ARGUMENT, r"a pair \(where, rule\); got 'relu'"),
    "a row of three": (lambda: by_row("relu", GUIDED, 1), ARGUMENT, r"a pair \(where, rule\); got \('relu'"),
    "a row the wrong way round": (lambda: by_row(GUIDED, "relu"), ARGUMENT, "rule is a function .*or a pair; got 'relu'"),
    "a composite added to a list": (lambda: fa.Composite([("relu", GUIDED)]) + [("linear", EPSILON)], TypeError, "'Composite' and 'list'"),
    "where, a list": (lambda: by_row(["relu", "tanh"], GUIDED), ARGUMENT, r"kind of operation, first.kind., a torch function.*got \['relu'"),
    "where, a class": (lambda: by_row(dict, GUIDED), ARGUMENT, "where of a row is a kind.*got <class"),
    "where, a module": (lambda: by_row(nn.ReLU(), GUIDED), ARGUMENT, "a module class, ReLU, or a predicate on module paths.*got a module itself"),
    "where, a function of math": (lambda: by_row(math.tanh, GUIDED), ARGUMENT, "predicate on module paths.*tanh> raised TypeError"),
    "where, one of two": (lambda: by_row(("relu", 3), GUIDED), ARGUMENT, "where of a row is a kind.*got 3"),
    "where, a kind of two": (lambda: by_row(("rleu", "activation"), GUIDED), ARGUMENT, "knows the kinds activation, .*got 'rleu'. Did you mean 'relu'"),
    "where, paths of a method": (lambda: fa.with_rules(NET.forward, fa.Composite([(lambda p: True, GUIDED)])), ARGUMENT, "plain function has none; pass the module"),
    "an elementwise rule for linear": (lambda: by_row("linear", GUIDED), ARGUMENT, r"'guided' is elementwise.*a row for linear takes a pair.*epsilon\(\)"),
    "an elementwise rule for F.conv2d": (lambda: by_row(nn.functional.conv2d, GUIDED), ARGUMENT, "'guided' is elementwise.*a row for convolution takes a pair"),
    "epsilon that was not called": (lambda: by_row("linear", fa.rules.epsilon), ARGUMENT, "makes a rule; call it, epsilon"),
    "a kind that never runs": (lambda: by_row("convolution", EPSILON), SITE, r"for \(convolution\)"),
    "prepare, None": (lambda: by_row("linear", Pair(lambda o: None)), ARGUMENT, "prepare of a rule returns a tuple of tensors.*'Pair' returned None"),
    "prepare, a tensor": (lambda: by_row("linear", Pair(lambda o: o.value())), ARGUMENT, "returns a tuple of tensors.*returned tensor"),
    "prepare, a number": (lambda: by_row("linear", Pair(lambda o: (1.0,))), ARGUMENT, r"returns a tuple of tensors.*returned \(1.0,\)"),
    "pull, None": (lambda: by_row("linear", Pair(pull=lambda o, g: None)), ARGUMENT, r"shape of x.*'Pair' returned None.*\(operation, g, \*prepared\)"),
    "pull, the output's shape": (lambda: by_row("linear", Pair(pull=lambda o, g: g)), ARGUMENT, r"shape of x, here \(2, 4\); 'Pair' returned shape \(2, 2\)"),
    "pull, integers": (lambda: by_row("linear", Pair(pull=lambda o, g: o.pull(g).long())), ARGUMENT, "float tensor .*returned shape .*torch.int64"),
    "pull without what is prepared": (lambda: by_row("linear", Pair(lambda o: (o.value(),))), ARGUMENT, r"'Pair' raised TypeError.*pull\(operation, g, \*prepared\)"),
    "pull that fails": (lambda: by_row("linear", Pair(pull=lambda o, g: g @ torch.ones(9, 9))), ARGUMENT, "^the rule 'Pair' raised RuntimeError"),
    "eps, infinite": (lambda: fa.rules.epsilon(math.inf), ARGUMENT, "eps is a finite number, zero or more; got inf"),
    "eps, not a number": (lambda: fa.rules.epsilon(math.nan), ARGUMENT, "eps is a finite number, zero or more; got nan"),
    "eps, a bool": (lambda: fa.rules.epsilon(True), ARGUMENT, "zero or more; got True"),
    "eps, a tensor": (lambda: fa.rules.epsilon(torch.tensor(0.1)), ARGUMENT, "eps is a finite number.*got tensor"),
    "create_graph through a rule": (lambda: torch.autograd.grad(fa.relu_rule(NET)(X.clone().requires_grad_()).sum(), NET[0].weight, create_graph=True), fa.FuncattrError, "create_graph=True cannot tell.*Take the map with funcattr.rule_backprop"),
}
# fmt: on
