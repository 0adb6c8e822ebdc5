import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advconv_onnx.runtime.kernels import (
    Window,
    convolve,
    convolve_transposed,
    pool_average,
    pool_max,
)

F = torch.nn.functional
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@st.composite
def windows(draw):
    rank = draw(st.integers(1, 3))

    def sizes(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, strides, dilations, pads = sizes(1, 3), sizes(1, 3), sizes(1, 3), sizes(0, 2)
    spatial = tuple(
        d * (k - 1) + 1 + extra for d, k, extra in zip(dilations, kernel, sizes(0, 4), strict=True)
    )
    return spatial, Window(kernel, strides, dilations, pads, pads)


def normal(*shape):
    return np.random.default_rng(math.prod(shape)).standard_normal(shape)


@settings(max_examples=60, deadline=None)
@given(windows(), st.integers(1, 2), st.integers(1, 3), st.integers(1, 2), st.booleans())
def test_convolve_equals_torch(geometry, group, per_group, batch, has_bias):
    spatial, window = geometry
    x = normal(batch, group * per_group, *spatial)
    weight = normal(2 * group, per_group, *window.kernel)
    bias = normal(2 * group) if has_bias else None
    want = CONVOLVE[len(spatial)](
        torch.from_numpy(x),
        torch.from_numpy(weight),
        None if bias is None else torch.from_numpy(bias),
        window.strides,
        window.begin,
        window.dilations,
        group,
    )
    np.testing.assert_allclose(convolve(x, weight, bias, window, group), want, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(windows(), st.integers(1, 2), st.integers(1, 3), st.integers(1, 2), st.booleans())
def test_convolve_transposed_equals_torch(geometry, group, per_group, batch, adjusted):
    spatial, window = geometry
    x = normal(batch, group * per_group, *spatial)
    weight, bias = normal(group * per_group, 2, *window.kernel), normal(2 * group)
    extra = [
        (max(s, d) - 1) * adjusted for s, d in zip(window.strides, window.dilations, strict=True)
    ]
    size = [
        (n - 1) * s + extent + more - b - e
        for n, s, extent, more, b, e in zip(
            spatial, window.strides, window.extent, extra, window.begin, window.end, strict=True
        )
    ]
    if min(size) < 1:
        return
    want = TRANSPOSED[len(spatial)](
        torch.from_numpy(x),
        torch.from_numpy(weight),
        torch.from_numpy(bias),
        window.strides,
        window.begin,
        extra,
        group,
        window.dilations,
    )
    got = convolve_transposed(x, weight, bias, window, group, size)
    np.testing.assert_allclose(got, want, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(windows(), st.booleans())
def test_pool_max_equals_torch(geometry, ceil_mode):
    spatial, window = geometry
    pads = tuple(min(pad, k // 2) for pad, k in zip(window.begin, window.kernel, strict=True))
    window = Window(window.kernel, window.strides, window.dilations, pads, pads)
    x = normal(2, 3, *spatial)
    want = MAX[len(spatial)](
        torch.from_numpy(x), window.kernel, window.strides, pads, window.dilations, ceil_mode
    )
    np.testing.assert_array_equal(pool_max(x, window, ceil_mode=ceil_mode), want)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("size", [7, 8, 9, 10])
def test_pool_average_equals_torch(size, include, ceil_mode):
    window = Window((3, 2), (2, 3), (1, 1), (1, 1), (1, 1))
    x = normal(2, 3, size, 11)
    want = F.avg_pool2d(torch.from_numpy(x), (3, 2), (2, 3), (1, 1), ceil_mode, include)
    got = pool_average(x, window, ceil_mode=ceil_mode, count_include_pad=include)
    np.testing.assert_allclose(got, want, atol=1e-13)


def test_pool_max_takes_integers():
    x = np.arange(-16, 0, dtype=np.int8).reshape(1, 1, 4, 4)
    window = Window((2, 2), (2, 2), (1, 1), (1, 1), (1, 1))
    assert pool_max(x, window, ceil_mode=False).dtype == np.int8
    assert pool_max(x, window, ceil_mode=False)[0, 0].tolist() == [
        [-16, -14, -13],
        [-8, -6, -5],
        [-4, -2, -1],
    ]


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("group", [1, 4])
def test_an_image_smaller_than_the_kernel_gives_an_empty_one(size, group):
    window = Window((7, 2), (2, 3), (1, 1), (0, 0), (0, 0))
    y = convolve(normal(2, 4, size, 6), normal(4, 4 // group, 7, 2), None, window, group)
    assert y.shape == (2, 4, 0, 2)
