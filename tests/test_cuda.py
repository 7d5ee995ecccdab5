"""The same maps on a GPU, where there is one."""

import pytest
import torch
from helpers import METHODS, assert_close, tiny, tiny_input

import funcattr as fa

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method):
    expected = METHODS[method](tiny())(tiny_input(), target=1)
    came = METHODS[method](tiny().cuda())(tiny_input().cuda(), target=1)
    assert came.is_cuda
    assert_close(came.cpu(), expected, 1e-8)


COMPILED = [pytest.param(how, marks=pytest.mark.compiled) for how in (True, "reduce-overhead")]


@pytest.mark.parametrize("compile", [False, *COMPILED])
@pytest.mark.parametrize("chunk_size", [None, 3, "auto"])
def test_sweeps(compile, chunk_size):
    how = {"targets": range(4), "chunk_size": chunk_size}
    expected = fa.sweep(fa.guided_backprop(tiny()), tiny_input(), **how)
    attr = fa.guided_backprop(tiny().cuda())
    came = fa.sweep(attr, tiny_input().cuda(), compile=compile, **how)
    assert_close(came.cpu(), expected, 1e-8)


@pytest.mark.compiled
def test_chunks_of_cuda_graphs_are_one_s_own():
    attr, x = fa.guided_backprop(tiny().cuda()), tiny_input().cuda()
    how = {"targets": range(4), "chunk_size": 2, "compile": "reduce-overhead"}
    kept = [maps for _ in range(2) for _, maps in fa.stream(attr, x, **how)]
    expected = fa.sweep(attr, x, targets=range(4))
    assert_close(torch.cat(kept), torch.cat([expected, expected]), 1e-8)


@pytest.mark.parametrize("target", [torch.tensor([9]), [9]])
def test_targets_out_of_range_are_errors_that_a_gpu_survives(target):
    attr, x = fa.guided_backprop(tiny().cuda()), tiny_input(1).cuda()
    target = target.cuda() if isinstance(target, torch.Tensor) else target
    with pytest.raises(fa.TargetError):
        attr(x, target=target)
    with pytest.raises(fa.TargetError):
        fa.sweep(attr, x, targets=torch.tensor([0, 9]).cuda())
    assert attr(x, target=1).is_cuda
