"""Kernels in autograd's graph, of which nobody can say what they run."""

import pytest
import torch

import funcattr as fa


def test_graphs_of_cuda_and_functions_handed_to_torch_are_refused():
    """What `torch.cuda.make_graphed_callables` and `flex_attention` leave there."""

    class Graphed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g

    class Handed(Graphed):
        __module__ = "torch._higher_order_ops.flex_attention"

    model = lambda own: lambda x: own.apply(x.relu()).relu()
    with pytest.raises(fa.FuncattrError, match=r"GraphedBackward.*a CUDA graph"):
        fa.guided_backprop(model(Graphed))(torch.randn(2, 3), target=1)
    fa.guided_backprop(model(Handed))(torch.randn(2, 3), target=1)
    with pytest.raises(fa.FuncattrError, match=r"HandedBackward.*may hide attention"):
        fa.lrp(model(Handed), fa.composites.attn_lrp())(torch.randn(2, 3), target=1)
