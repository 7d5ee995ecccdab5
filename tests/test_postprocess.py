"""Post-processing of maps: against torch, SciPy and a formula written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import SINCE_2_3
from torch.testing import assert_close

import funcattr as fa


def maps(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


def smoothed_slowly(x, sigma):
    """One row, by the formula, tap after tap."""
    width = math.ceil(4 * sigma)
    w = [math.exp(-((i / (math.sqrt(2) * sigma + 2**-23)) ** 2)) for i in range(-width, width + 1)]
    at = lambda i: x[min(max(i, 0), len(x) - 1)]
    return [sum(v * at(i + k - width) for k, v in enumerate(w)) / sum(w) for i in range(len(x))]


@pytest.mark.parametrize(
    "shape, size, mode",
    [
        ((2, 3, 5), (9,), "linear"),
        ((2, 3, 5), 4, "nearest"),
        ((2, 1, 5, 4), (7, 9), "bilinear"),
        ((2, 1, 5, 4), (7, 9), "bicubic"),
        ((2, 1, 5, 4), 3, "area"),
        ((2, 1, 5, 4), [3, 8], "nearest-exact"),
        ((1, 2, 3, 4, 5), (6, 2, 4), "trilinear"),
    ],
)
def test_interpolate_is_that_of_torch(shape, size, mode):
    x = maps(*shape)
    assert_close(fa.interpolate(x, size, mode), F.interpolate(x, size, mode=mode), rtol=0, atol=0)


@pytest.mark.parametrize(
    "shape, size, mode, words",
    [
        ((2, 3), 4, "nearest", "1 to 3 spatial dimensions"),
        ((2, 3, 4), (4, 4), "nearest", "a size for each"),
        ((2, 3, 4), 4, "bilinear", "mode 'bilinear' does not resize maps of 1 spatial dimension;"),
        ((2, 3, 4, 4), 4, "linear", "there is 'nearest', .*'bilinear', 'bicubic'"),
        ((2, 3, 4, 4), 4, "cubist", "mode 'cubist'"),
    ],
)
def test_errors_of_interpolate(shape, size, mode, words):
    with pytest.raises(fa.ArgumentError, match=words):
        fa.interpolate(maps(*shape), size, mode)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 1, 4, 5), (0, 3, 2), (1, 2, 2, 2, 2)])
def test_channel_max_abs(shape):
    x = maps(*shape)
    assert_close(fa.channel_max_abs(x), x.abs().max(1, keepdim=True)[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    "bad", [None, [1.0], torch.ones(3), torch.ones(2, 0, 3), torch.ones(2, 3) > 0]
)
def test_errors_of_channel_max_abs(bad):
    with pytest.raises(fa.ArgumentError, match=r"^maps are"):
        fa.channel_max_abs(bad)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1, 2.3, 10])
def test_smoothing_is_the_formula(sigma):
    row = maps(7)
    expected = torch.tensor(smoothed_slowly(row.tolist(), sigma), dtype=torch.float64)
    assert_close(fa.gaussian_smooth(row.view(1, 1, 7), sigma).view(7), expected)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 5, 4), (1, 2, 3, 4, 5)])
def test_smoothing_is_separable(shape):
    x = maps(*shape)
    expected = x
    for dim in range(2, x.dim()):
        rows = expected.movedim(dim, -1)
        flat = [smoothed_slowly(row.tolist(), 0.8) for row in rows.reshape(-1, rows.shape[-1])]
        expected = torch.tensor(flat, dtype=x.dtype).reshape(rows.shape).movedim(-1, dim)
    assert_close(fa.gaussian_smooth(x, 0.8), expected)


# Replicate padding of bfloat16 on the CPU came after torch 2.0.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16][: 1 + SINCE_2_3])
def test_smoothing_keeps_the_dtype_and_constants(dtype):
    x = torch.full((2, 3, 6, 5), 2.0, dtype=dtype)
    assert_close(fa.gaussian_smooth(x, 1.5), x)


def test_sigma_0_and_an_empty_batch():
    x = maps(2, 1, 3, 3)
    assert fa.gaussian_smooth(x, 0) is x
    assert fa.gaussian_smooth(maps(0, 1, 3, 3), 1.0).shape == (0, 1, 3, 3)


@pytest.mark.parametrize(
    "bad, sigma, words",
    [
        (None, 1, "^maps are a float tensor"),
        (torch.ones(2, 3), 1, "^maps are .*got shape"),
        (torch.ones(2, 3, 4, dtype=torch.long), 1, "^maps are .*torch.int64"),
        (torch.ones(1, 1, 1, 1, 1, 1), 1, "^maps are"),
        (torch.ones(2, 3, 0), 1, "nothing to smooth"),
        (torch.ones(2, 3, 4), -1, "^sigma is a number of pixels"),
        (torch.ones(2, 3, 4), math.inf, "^sigma"),
        (torch.ones(2, 3, 4), math.nan, "^sigma"),
        (torch.ones(2, 3, 4), True, "^sigma"),
        (torch.ones(2, 3, 4), (1, 1), "^sigma"),
    ],
)
def test_errors_of_gaussian_smooth(bad, sigma, words):
    with pytest.raises(fa.ArgumentError, match=words):
        fa.gaussian_smooth(bad, sigma)


POST = {
    "channel_max_abs": fa.channel_max_abs,
    "gaussian_smooth": lambda x: fa.gaussian_smooth(x, 0.7),
    "interpolate": lambda x: fa.interpolate(x, (5, 7), "bilinear"),
}


@pytest.mark.parametrize("name", POST)
def test_under_torch_func(name):
    f, x = POST[name], maps(4, 2, 2, 3, 3)
    assert_close(torch.func.vmap(f)(x), torch.stack([f(one) for one in x]))
    assert torch.autograd.gradcheck(f, x[0].requires_grad_(), check_batched_grad=True)
    t = torch.randn_like(x[0])
    v = torch.func.jvp(f, (x[0].detach(),), (t,))[1]
    assert_close(v, torch.func.jacrev(f)(x[0].detach()).flatten(-4) @ t.flatten())


@pytest.mark.compiled
@pytest.mark.parametrize("name", POST)
def test_compiled(name):
    f, x = POST[name], maps(2, 2, 3, 3)
    assert_close(torch.compile(f, backend="aot_eager", fullgraph=True)(x), f(x))
