"""Every attributor and composite against zennit's of the same name, on the same models."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close, assert_unchanged, snapshot
from relevance.models import network, randn, ready
from relevance.zennit_oracle import skip_as_a_module, torchvision_stub
from torch import nn
from zennit_pairs import BOX, assert_same, both, composite_of, not_in_place, ours, signed, theirs

import funcattr as fa

with torchvision_stub():
    from zennit import canonizers, composites, rules, torchvision

NAMES = ("vgg", "vgg with batch norm", "resnet", "one dim", "three dims", "decoder")


@pytest.mark.parametrize("name", sorted(ours.COMPOSITES))
@pytest.mark.parametrize("net", NAMES)
def test_composites(net, name):
    model, _, x = network(net)
    if name == "beta_smooth":
        not_in_place(model)
        if net == "resnet":
            return  # its ReLUs run more than once, see the differences
    of = composite_of(ours.COMPOSITES[name].__name__)
    assert composites.COMPOSITES[name].__name__ == ours.COMPOSITES[name].__name__
    assert_same(of, model, x, attr_output=signed(x))


@pytest.mark.parametrize("name", ["EpsilonPlusFlat", "EpsilonGammaBox", "ExcitationBackprop"])
def test_arguments_of_composites(name):
    model, _, x = network("vgg")
    how = dict(stabilizer=0.1, zero_params=["bias"], layer_map=None)
    how |= {} if name == "ExcitationBackprop" else dict(epsilon=0.3, first_map=None)
    how |= dict(gamma=2.0) if name == "EpsilonGammaBox" else {}
    assert_same(composite_of(name, **how), model, x, attr_output=signed(x))
    more = lambda library: getattr(library, name)(
        *BOX.get(name, ()), layer_map=[((library.Convolution, nn.Linear), library.Gamma(0.5))]
    )
    assert_same(more, model, x, attr_output=signed(x))


@pytest.mark.parametrize("attributor", ["Gradient", "SmoothGrad", "IntegratedGradients"])
@pytest.mark.parametrize("name", [None, "EpsilonPlusFlat", "GuidedBackprop", "BetaSmooth"])
def test_attributors(attributor, name):
    model, _, x = network("vgg with batch norm")
    not_in_place(model)
    of = (lambda library: None) if name is None else composite_of(name)
    how = {} if attributor == "Gradient" else {"n_iter": 3}
    how |= {"noise_level": 0.3} if attributor == "SmoothGrad" else {}
    how |= {"baseline_fn": lambda x: x.flip(0)} if attributor == "IntegratedGradients" else {}
    hot = F.one_hot(torch.tensor([1, 3]), 4).to(x)
    assert_same(of, model, x, attributor, hot, seed=3, **how)


@pytest.mark.parametrize("name", [None, "EpsilonAlpha2Beta1"])
def test_relevance_of_the_output(name):
    """A tensor, a function, or the output itself; of the call, or of the attributor."""
    model, _, x = network("vgg")
    of = (lambda library: None) if name is None else composite_of(name)
    for given in signed(x), lambda out: out.softmax(1), None:
        assert_same(of, model, x, attr_output=given)
        # The call's comes before the attributor's.
        (_, one), (_, two) = both(of, model, x, attr_output=given)
        kept = ours.Gradient(model, of(ours), given)(x)[1]
        again = ours.Gradient(model, of(ours), lambda out: 7 * out)(x, given)[1]
        assert_close(kept, one)
        assert_close(again, two) if given is not None else assert_close(again, 7 * two)


def test_an_output_of_exactly_zero_may_have_relevance():
    model = ready(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU()))
    x = randn(6, 3)
    assert (model(x) == 0).any()
    assert_same(composite_of("EpsilonPlus"), model, x, attr_output=signed(x, 2))


RULES = {
    "Epsilon": lambda of: of.Epsilon(0.1),
    "Gamma": lambda of: of.Gamma(0.5, stabilizer=0.1),
    "ZPlus": lambda of: of.ZPlus(0.1, zero_params="bias"),
    "AlphaBeta": lambda of: of.AlphaBeta(1.5, 0.5),
    "ZBox": lambda of: of.ZBox(torch.full((1, 2, 8, 8), -3.0), torch.full((1, 2, 8, 8), 3.0)),
    "WSquare": lambda of: of.WSquare(),
    "Flat": lambda of: of.Flat(0.1),
    "Norm": lambda of: of.Norm(0.1),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_by_type_name_and_in_the_first_layer(name):
    model, _, x = network("vgg")
    rule = RULES[name]
    rest = lambda of: [
        ((of.Convolution, nn.Linear), of.Epsilon()),
        (of.Activation, of.Pass()),
        (of.AvgPool, of.Norm()),
        (of.Sum, of.Norm()),
        (of.BatchNorm, of.Pass()),
    ]
    first = lambda of: of.SpecialFirstLayerMapComposite(rest(of), [(of.Convolution, rule(of))])
    named = lambda of: of.NameLayerMapComposite([(("0", "13"), rule(of))], rest(of))
    mixed = lambda of: of.MixedComposite(
        [of.NameMapComposite([(["0"], rule(of))]), of.LayerMapComposite(rest(of))]
    )
    classes = lambda of: of.LayerMapComposite([(nn.Conv2d, rule(of)), *rest(of)])
    for make in (first, mixed) if name == "ZBox" else (first, named, mixed, classes):
        assert_same(make, model, x, attr_output=signed(x))


def test_zennits_own_types_and_its_activations_of_all_kinds():
    smooth = (nn.Softsign(), nn.Tanhshrink(), nn.LogSigmoid(), nn.GELU(), nn.Hardtanh(-0.2, 0.4))
    layers = [layer for act in smooth for layer in (nn.Linear(3, 3), act)]
    model, x = ready(nn.Sequential(*layers, nn.Linear(3, 4))), randn(2, 3)
    rules_of = lambda of: (of.Pass(), of.Epsilon(0.1))
    types = [(theirs.Activation,), (theirs.Linear, theirs.MaxPool)]
    assert_same(lambda of: of.LayerMapComposite(list(zip(types, rules_of(of)))), model, x)
    types = lambda of: [(of.Activation,), (of.Linear, of.MaxPool)]
    assert_same(lambda of: of.LayerMapComposite(list(zip(types(of), rules_of(of)))), model, x)


def test_parts_that_pass_as_a_whole():
    class Odd(nn.Module):
        def forward(self, x):
            return (x * 3).sin()

    model, x = ready(nn.Sequential(nn.Linear(3, 3), Odd(), nn.Linear(3, 4))), randn(2, 3)
    make = lambda of: of.LayerMapComposite([(Odd, of.Pass()), (nn.Linear, of.Epsilon())])
    assert_same(make, model, x)


def test_derivatives_of_relevance():
    """The true ones, by the input, also through a function of the output."""
    model = ready(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    call = ours.Gradient(model, ours.EpsilonPlus(0.1), lambda out: out**2, create_graph=True)
    x = randn(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: call(x), x)


def test_nothing_is_changed_and_nothing_has_to_be_undone():
    model, _, x = network("resnet")
    model.train()
    before, leaf = snapshot(model), x.clone().requires_grad_()
    known = [torchvision.ResNetCanonizer(), torchvision.VGGCanonizer()]
    attributor = ours.Gradient(model, ours.EpsilonPlusFlat(canonizers=known))
    outside = attributor(leaf)
    with pytest.raises(KeyError), attributor as same, torch.no_grad():
        assert same is attributor
        assert all(map(torch.equal, same(leaf), outside))
        raise KeyError
    assert not any(t.requires_grad for t in outside)
    assert leaf.grad is None
    assert_unchanged(model, before)


WRONG = {
    "a name that is none": (
        lambda: ours.NameMapComposite([(("1.1",), ours.Pass())]),
        "Did you mean",
    ),
    "names that are no tuple": (lambda: ours.NameMapComposite([("13", ours.Pass())]), "tuples"),
    "a container": (lambda: ours.NameMapComposite([(("",), ours.Flat())]), "several parts"),
    "no types": (lambda: ours.LayerMapComposite([("Linear", ours.Pass())]), "types of layers"),
    "no pairs": (lambda: ours.LayerMapComposite([ours.Linear]), "list of pairs"),
    "a class for the first": (
        lambda: ours.SpecialFirstLayerMapComposite([], [(nn.Conv2d, ours.Flat())]),
        "first_map takes",
    ),
    "zennit's own rule": (lambda: ours.LayerMapComposite([(nn.Linear, rules.Pass())]), "zennit's"),
    "zennit's own composite": (composites.EpsilonPlus, "by their names"),
    "a stabiliser": (lambda: ours.EpsilonPlus(epsilon=lambda z: z + 1), "is a number here"),
    "weights of zero": (lambda: ours.EpsilonPlus(zero_params=["weight"]), "zero_params"),
    "a rule of ReLUs": (
        lambda: ours.LayerMapComposite([(ours.Activation, ours.ReLUDeconvNet())]),
        "for torch.nn.ReLU",
    ),
    "rules of both sorts": (
        lambda: ours.MixedComposite([ours.GuidedBackprop(), ours.EpsilonPlus()]),
        "do not go together",
    ),
    "a part that is none": (lambda: ours.MixedComposite([composites.EpsilonPlus()]), "this module"),
    "code of the user's": (
        lambda: ours.EpsilonPlus(canonizers=[canonizers.AttributeCanonizer(skip_as_a_module)]),
        "canonizers are not needed",
    ),
    "code of the user's, inside": (
        lambda: ours.EpsilonPlus(canonizers=[canonizers.CompositeCanonizer([object()])]),
        "canonizers are not needed",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_had(name):
    make, words = WRONG[name]
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4)) for _ in range(2)), nn.Linear(4, 4))
    with pytest.raises(fa.ArgumentError, match=words):
        ours.Gradient(model, make())


CALLS = {
    "the shape of the relevance": lambda m, x: ours.Gradient(m)(x, torch.ones(2, 3)),
    "no relevance": lambda m, x: ours.Gradient(m)(x, lambda out: 1.0),
    "a class": lambda m, x: ours.Gradient(m)(x, 1),
    "no tensor": lambda m, x: ours.Gradient(m)((x,)),
    "several outputs": lambda m, x: ours.Gradient(lambda x: (m(x), x))(x),
    "a graph to retain": lambda m, x: ours.Gradient(m, retain_graph=True),
    "no noise": lambda m, x: ours.SmoothGrad(m, n_iter=0),
    "no steps": lambda m, x: ours.IntegratedGradients(m, n_iter=2.5),
    "a context": lambda m, x: ours.EpsilonPlus().context(m),
    "hooks": lambda m, x: ours.EpsilonPlus().register(m),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_calls(name):
    with pytest.raises(fa.ArgumentError):
        CALLS[name](nn.Linear(3, 4), torch.ones(2, 3))


def test_a_composite_of_funcattr_will_do():
    model, _, x = network("vgg")
    own = ours.Gradient(model, fa.composites.epsilon_plus())(x, signed(x))[1]
    assert_close(own, ours.Gradient(model, ours.EpsilonPlus())(x, signed(x))[1])
