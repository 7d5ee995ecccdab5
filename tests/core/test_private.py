"""What funcattr uses of torch without a promise: is it still there, and is all right without it?

When one of the first tests fails, a new torch has taken something away; `funcattr.core.private`
says what it was for. When one of the others fails, what happens without it is no longer right.
"""

import pytest
import torch
from conftest import CAN_COMPILE, SINCE_2_3
from helpers import Tiny, assert_close, tiny, tiny_input
from torch import nn

import funcattr as fa
from funcattr.core import private

X = tiny_input()
NEEDED = {
    "transforms_active": (torch._C, "_are_functorch_transforms_active"),
    "set_grad_enabled": (torch._C, "_set_grad_enabled"),
    "forward_mode_active": (torch.autograd.forward_ad, "_current_level"),
    "vmap_active": (torch._C._functorch, "get_interpreter_stack"),
    "below_a_mode": (torch._C, "_len_torch_dispatch_stack"),
    "is_batched": (torch._C._functorch, "is_batchedtensor"),
    "is_wrapped": (torch._C._functorch, "is_functorch_wrapped_tensor"),
    "left_behind": (torch._C._functorch, "maybe_get_level"),
    "unbatched": (torch._C._functorch, "get_unwrapped"),
    "is_view": (torch.Tensor, "_is_view"),
    "share_memory": (torch._C, "_is_alias_of"),
    "version": (torch.Tensor, "_version"),
    "watched": (torch.Tensor, "_backward_hooks"),
    "saved_tensors_are_hooked": (torch._C._autograd, "_top_saved_tensors_default_hooks"),
    "backward_under_modes": (torch.autograd.Variable, "_execution_engine"),
}


@pytest.mark.skipif(not CAN_COMPILE, reason="an old torch may go without; it is only slower")
@pytest.mark.parametrize("name", NEEDED)
def test_it_is_there(name):
    owner, attribute = NEEDED[name]
    assert hasattr(owner, attribute), (
        f"this torch has no {attribute}; see funcattr.core.private.{name} for what it was for, and "
        "what happens without it"
    )


@pytest.mark.compiled
def test_the_compiler_shows_and_traces_what_it_must():
    import torch._dynamo.variables.torch as dynamo
    from torch._functorch import eager_transforms

    assert hasattr(dynamo, "get_overridable_functions"), "see private.show_to_modes"
    assert hasattr(eager_transforms, "_autograd_grad"), "see private.grad_in_graph"
    assert hasattr(torch.compile(nn.ReLU()), "_orig_mod"), "see private.uncompiled"


@pytest.mark.skipif(not SINCE_2_3, reason="an old torch says less; it is only slower")
def test_what_they_say():
    x = torch.ones(2, requires_grad=True)
    assert not private.vmap_active() and not private.forward_mode_active()
    assert not private.is_batched(x) and not private.is_wrapped(x)
    assert not private.is_view(x) and private.is_view(x[:1])
    assert not private.watched(x)
    said = []

    def look(t):
        said.append((private.vmap_active(), private.is_batched(t), private.unbatched(t) is x))
        return t * 2

    torch.vmap(look)(x)
    torch.func.vjp(lambda t: look(t) * private.is_wrapped(t), x)
    assert said == [(True, True, True), (False, False, False)]
    with torch.autograd.forward_ad.dual_level():
        assert private.forward_mode_active()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        assert private.saved_tensors_are_hooked()
    y = x * 1
    before = private.version(y)
    y.add_(1)
    assert private.version(y) != before
    y.register_hook(lambda g: g)
    assert private.watched(y)


# Where each is used, and what stands in its place where it is missing.
WITHOUT = {
    "transforms_active": (["core.levels", "operations.site"], lambda: True),
    "forward_mode_active": (["core.levels", "operations.site"], lambda: True),
    "vmap_active": (["core.levels"], lambda: True),
    "is_batched": (["core.layout"], lambda t: False),
    "is_wrapped": (["operations.fold"], lambda t: True),
    "is_view": (["operations.intercept", "operations.behind"], lambda t: True),
    "watched": (["operations.fold"], lambda t: True),
    "saved_tensors_are_hooked": (["operations.intercept"], lambda: True),
    "set_grad_enabled": (["operations.watched"], None),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_all_is_right_without_it(monkeypatch, name):
    model = tiny()
    conv = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(True), nn.Flatten())
    conv.double().eval()

    def results():
        attr, cam = fa.guided_backprop(model), fa.grad_cam(model, "same:0")
        yield attr(X, target=1)
        yield fa.sweep(attr, X, targets=range(4), chunk_size=3)
        yield fa.sweep(fa.guided_backprop(conv), X, targets=range(3))
        yield cam(X, target=2)
        yield torch.func.grad(lambda x: (attr(x, target=1) ** 2).sum())(X)
        yield torch.vmap(lambda x: attr(x[None], target=1))(X)

    expected = list(results())
    modules, other = WITHOUT[name]
    for module in modules:
        monkeypatch.setattr(f"funcattr.{module}.{name}", other)
    for came, wanted in zip(results(), expected):
        assert_close(came, wanted, 1e-12)


def test_without_the_engine_a_checkpoint_is_refused(monkeypatch):
    from torch.utils.checkpoint import checkpoint

    model = tiny()
    attr = fa.guided_backprop(lambda x: checkpoint(model, torch.relu(x), use_reentrant=False))
    expected = fa.guided_backprop(model)(X, target=1)
    real = torch.autograd.Variable._execution_engine
    monkeypatch.setattr(torch.autograd.Variable, "_execution_engine", None)
    with pytest.raises(fa.FuncattrError, match="switch the checkpoints of the model off"):
        attr(X, target=1)
    monkeypatch.setattr(torch.autograd.Variable, "_execution_engine", real)
    assert_close(fa.guided_backprop(Tiny.forward.__get__(model))(X, target=1), expected)


class Rectified(torch.autograd.Function):
    """A ReLU with a backward of its own."""

    @staticmethod
    def forward(ctx, x):
        return torch.relu(x)

    @staticmethod
    def backward(ctx, g):
        return g


@pytest.mark.skipif(
    not hasattr(torch.autograd.Function.apply, "__code__"),
    reason="a Function has no frame here; no torch lacks both, and this one shows the switch",
)
def test_a_mode_that_does_not_see_the_switch_of_gradients(monkeypatch):
    """As with torch 2.0: frames tell a Function's forward from what runs under torch.no_grad."""
    monkeypatch.setattr("funcattr.operations.watched.set_grad_enabled", None)

    def gated(x):
        with torch.no_grad():
            gate = torch.relu(x)
        return torch.relu(x) * gate

    x = torch.randn(2, 3)
    assert_close(fa.guided_backprop(gated)(x, target=1)[:, 1], x[:, 1].relu())
    for model in (Rectified.apply, lambda x: gated(Rectified.apply(x))):
        with pytest.raises(fa.NoSiteError, match="in its forward"):
            fa.guided_backprop(model)(x, target=1)


def test_a_torch_that_is_too_old_to_compile_is_refused(monkeypatch):
    monkeypatch.setattr("funcattr.core.graph.CAN_COMPILE", False)
    with pytest.raises(fa.FuncattrError, match=r"compiles with torch .* without"):
        fa.sweep(fa.guided_backprop(tiny()), X, targets=[1], compile=True)


@pytest.mark.compiled
def test_a_compiler_that_says_nothing_is_refused(monkeypatch):
    import torch._dynamo.variables.torch as dynamo

    monkeypatch.delattr(dynamo, "get_overridable_functions")
    with pytest.raises(fa.FuncattrError, match=r"without torch\.compile"):
        private.show_to_modes([torch.relu_])
