"""What goes into layers and depends on no float input: all who read it count, or it is refused."""

import pytest
import torch
from conftest import needs_edges
from helpers import assert_close
from torch import nn

import funcattr as fa


class Tokens(nn.Module):
    """A layer whose input, made of token ids, others read before it, or after, or never."""

    def __init__(self, read, make=nn.Embedding):
        super().__init__()
        self.embedding, self.norm = make(7, 3), nn.LayerNorm(3)
        self.head, self.read = nn.Linear(3, 2), read
        self.double()

    def forward(self, ids):
        h = self.embedding(ids)
        before = h.tanh() if self.read == "before" else 0
        out = self.norm(h) + before
        return self.head(out + h * h if self.read == "after" else out).mean(1)


class Detached(nn.Module):
    """The same, where the input's part is cut off from the gradient, or is a learned query."""

    def __init__(self, read, learned=False):
        super().__init__()
        self.own, self.act, self.head = nn.Linear(3, 3), nn.Softplus(), nn.Linear(3, 2)
        self.read, self.query = read, nn.Parameter(torch.ones(1, 3)) if learned else None
        self.double()

    def forward(self, x):
        h = self.own(x.detach()) if self.query is None else self.query.expand(len(x), 3)
        before = h.tanh() if self.read == "before" else 0
        out = self.act(h) + before + x
        return self.head(out + h * h if self.read == "after" else out)


def total(model, layer, x, target):
    """The derivative by what goes into the layer, by a hook, times what goes in."""
    given = []

    def noted(_, args):
        args[0].retain_grad()
        given.append(args[0])

    handle = layer.register_forward_pre_hook(noted)
    out = model(x)
    handle.remove()
    out[:, target].sum().backward()
    return given[0].grad * given[0].detach()


IDS = torch.tensor([[1, 2, 2], [0, 6, 1]])
X = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def at_input(model, layer):
    return fa.layer_gradient_x_activation(model, layer, attribute_to_layer_input=True)


@needs_edges
@pytest.mark.parametrize("read", ["before", "after", "never"])
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_inputs_made_of_token_ids(read, frozen):
    model = Tokens(read)
    expected = [total(model, model.norm, IDS, t) for t in (0, 1)]
    model.requires_grad_(not frozen)
    attr = at_input(model, "norm")
    for t in (0, 1):
        assert_close(attr(IDS, target=t), expected[t])
    assert_close(fa.sweep(attr, IDS, targets=[0, 1]), torch.stack(expected))
    f, params = fa.make_functional(model)
    assert_close(at_input(f, "norm")(params, IDS, target=1), expected[1])


@needs_edges
def test_the_sum_of_a_bag_of_embeddings():
    model = Tokens("before", nn.EmbeddingBag)
    model.mean = None
    bag = lambda ids: nn.EmbeddingBag.forward(model.embedding, ids).unsqueeze(1)
    model.embedding.forward = bag
    assert_close(at_input(model, "norm")(IDS, target=1), total(model, model.norm, IDS, 1))


@pytest.mark.compiled
@needs_edges
def test_inputs_made_of_token_ids_in_compiled_code():
    model = Tokens("before")
    compiled = torch.compile(at_input(model, "norm"), fullgraph=True)
    assert_close(compiled(IDS, target=1), total(model, model.norm, IDS, 1))


@needs_edges
@pytest.mark.parametrize("read", ["before", "after"])
@pytest.mark.parametrize("learned", [False, True], ids=["detached", "learned"])
def test_what_depends_on_nothing_and_is_read_elsewhere_is_refused(read, learned):
    model = Detached(read, learned)
    with pytest.raises(fa.LayerError, match="does not depend on the input, and is read in other"):
        at_input(model, "act")(X, target=1)


@needs_edges
@pytest.mark.parametrize("learned", [False, True], ids=["detached", "learned"])
def test_what_depends_on_nothing_and_is_read_once(learned):
    model = Detached("never", learned)
    assert_close(at_input(model, "act")(X, target=1), total(model, model.act, X, 1))
