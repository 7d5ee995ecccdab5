"""A model that looks ids up more than once: embeddings stand for the ids that are explained."""

import pytest
import torch
from conftest import VERSION
from torch import nn
from torch.testing import assert_close

import funcattr as fa

Q = torch.tensor([[1, 2, 3, 0], [4, 5, 1, 1]])
D = torch.tensor([[7, 8, 9, 9], [6, 6, 2, 10]])


class Pair(nn.Module):
    """Of a query and a document, looked up in some order."""

    def __init__(self, order="q d", shift=0):
        super().__init__()
        torch.manual_seed(0)
        self.order, self.shift, self.table = order, shift, nn.Embedding(12, 6)
        self.double()

    def embedded(self, ids):
        return {name: self.table(ids[name] + self.shift) for name in self.order.split()}

    def forward(self, q, d):
        e = self.embedded({"q": q, "d": d})
        return self.score(e["q"], e["d"])

    def score(self, q, d):
        return torch.stack([(q.sum(1) * d.sum(1).tanh()).sum(1), (q * d).sum((1, 2))], 1)


def by_hand(model, n):
    """Gradient x input of one of the two, by plain autograd."""
    e = [model.table(Q).detach(), model.table(D).detach()]
    e[n].requires_grad_()
    (g,) = torch.autograd.grad(model.score(*e)[:, 1].sum(), e[n])
    return (g * e[n].detach()).sum(-1)


def attribution(model, argnums):
    return fa.input_x_gradient(fa.over_embeddings(model), argnums=argnums)


@pytest.mark.parametrize("order", ["q d", "d q"])
@pytest.mark.parametrize("n", [0, 1])
def test_it_is_the_ids_that_are_asked_for(order, n):
    model = Pair(order)
    attr = attribution(model, n)
    out, explain = attr.linearize(Q, D)
    assert torch.equal(out, model(Q, D))
    assert_close(explain(1), by_hand(model, n))
    assert_close(fa.sweep(attr, Q, D, targets=[0, 1])[1], by_hand(model, n))
    single = torch.vmap(lambda q, d: attr(q[None], d[None], target=1)[0])(Q, D)
    assert_close(single, by_hand(model, n))


@pytest.mark.parametrize("order", ["q d", "d q"])
def test_both_at_once(order):
    model = Pair(order)
    both = attribution(model, (0, 1))
    for n, maps in enumerate(both(Q, D, target=1)):
        assert_close(maps, by_hand(model, n))
    single = torch.vmap(lambda q, d: both(q[None], d[None], target=1))(Q, D)
    for n, maps in enumerate(single):
        assert_close(maps[:, 0], by_hand(model, n))


@pytest.mark.parametrize("order", ["q d", "d q"])
def test_of_the_same_ids_twice(order):
    model = Pair(order)
    maps = attribution(model, (0, 1))(Q, Q, target=1)
    assert_close(maps[0], maps[1])  # the second output is symmetric
    for n in 0, 1:
        with pytest.raises(fa.LayerError, match=r"more than once on these ids.*argnums=\(0, 1\)"):
            attribution(model, n)(Q, Q, target=1)


def test_other_ids_than_those_given_are_refused():
    for n in 0, 1:
        with pytest.raises(fa.LayerError, match=r"did not run on the ids \(it ran on others"):
            attribution(Pair(shift=1), n)(Q, D, target=1)
    attr = attribution(Pair(shift=1), 0)
    lost = torch.vmap(lambda q: attr(q[None], D[:1], target=1)[0])
    assert lost(Q).isnan().all()  # values cannot be looked at there


def test_of_another_dtype_they_are_the_same_ids():
    model = Pair()
    model.table.register_forward_pre_hook(lambda module, args: (args[0].int(),))
    assert_close(attribution(model, 1)(Q, D, target=1), by_hand(model, 1))


def test_once_more_on_the_same_ids_is_the_first_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(11, 6).double()

        def forward(self, ids):
            return (self.table(ids).square() + self.table(ids)).sum(1)

    model = Twice()
    attr = fa.input_x_gradient(fa.over_embeddings(model, per_token=False))
    e = model.table(Q).detach()
    g = torch.zeros_like(e)
    g[..., 1] = 2 * e[..., 1]
    assert_close(attr(Q, target=1), e * g)
    assert_close(torch.vmap(lambda q: attr(q[None], target=1)[0])(Q), e * g)


@pytest.mark.compiled
@pytest.mark.skipif(VERSION < (2, 13), reason="funcattr refuses to be compiled before")
@pytest.mark.parametrize("n", [0, 1])
def test_compiled_as_well(n):
    torch.compiler.reset()
    model = Pair("d q")
    compiled = torch.compile(attribution(model, n), backend="aot_eager", fullgraph=True)
    assert_close(compiled(Q, D, target=torch.tensor(1)), by_hand(model, n))
