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


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.compiled)])
@pytest.mark.parametrize("chunk_size", [None, 3, "auto"])
def test_sweeps(compile, chunk_size):
    how = {"targets": range(4), "chunk_size": chunk_size}
    expected = fa.sweep(fa.guided_backprop(tiny()), tiny_input(), **how)
    attr = fa.guided_backprop(tiny().cuda())
    came = fa.sweep(attr, tiny_input().cuda(), compile=compile, **how)
    assert_close(came.cpu(), expected, 1e-8)
