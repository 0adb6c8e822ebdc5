"""Factorizations: each is exactly the layer, for every geometry, and saves what it promises."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advconv_onnx.algebra.axis import (
    AxisOperator,
    average_pool,
    convolution,
    crop,
    pad,
    resize,
    transposed_convolution,
)
from advconv_onnx.algebra.certificate import certify
from advconv_onnx.algebra.factor import (
    Factorization,
    by_taps,
    folded,
    phases_factorization,
    pooled,
    tiled,
)
from advconv_onnx.algebra.phases import (
    Phase,
    dilated_phases,
    nearest_phases,
    strided_phases,
    transposed_phases,
)

sweep = settings(max_examples=120, deadline=None, derandomize=True)
sizes, kernels, strides = st.integers(1, 33), st.integers(1, 7), st.integers(1, 4)
dilations, tiles, scales = st.integers(1, 24), st.integers(1, 6), st.integers(2, 4)
pads = st.tuples(st.integers(-2, 30), st.integers(-2, 30))


def forms(operator: AxisOperator, phases: tuple[Phase, ...], tile: int) -> Iterator[Factorization]:
    yield by_taps(operator)
    yield phases_factorization(phases, operator.inputs, operator.outputs)
    yield tiled(phases, operator.inputs, operator.outputs, tile)


@sweep
@given(sizes, kernels, strides, dilations, pads, tiles)
def test_convolution(
    inputs: int, taps: int, stride: int, dilation: int, around: tuple[int, int], tile: int
) -> None:
    operator = convolution(inputs, taps, stride=stride, dilation=dilation, pads=around)
    for form in forms(operator, strided_phases(taps, stride, around, dilation), tile):
        certify("convolution", operator, form)


@sweep
@given(sizes, kernels, strides, dilations, pads, tiles, st.integers(0, 23))
def test_transposed_convolution(
    inputs: int,
    taps: int,
    stride: int,
    dilation: int,
    around: tuple[int, int],
    tile: int,
    more: int,
) -> None:
    more %= max(stride, dilation)
    operator = transposed_convolution(
        inputs, taps, stride=stride, dilation=dilation, pads=around, output_padding=more
    )
    for form in forms(operator, transposed_phases(taps, stride, dilation, around, more), tile):
        certify("transposed convolution", operator, form)


@sweep
@given(sizes, kernels, scales, strides, dilations, pads, tiles)
def test_nearest_and_convolution(
    inputs: int, taps: int, scale: int, stride: int, dilation: int, around: Any, tile: int
) -> None:
    kernel = convolution(inputs * scale, taps, stride=stride, dilation=dilation, pads=around)
    operator = kernel.after(resize(inputs, scale=scale))
    for form in forms(operator, nearest_phases(taps, scale, around, stride, dilation), tile):
        certify("nearest and convolution", operator, form)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(2, 12), st.integers(1, 5), scales, dilations, tiles,
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(["half_pixel", "align_corners", "asymmetric"]),
)  # fmt: skip
def test_any_resize_folds_into_the_tiles(
    inputs: int, taps: int, scale: int, dilation: int, tile: int, mode: str, coordinates: str
) -> None:
    enlarged = resize(inputs, scale=scale, mode=mode, coordinates=coordinates)
    pads = (taps * dilation // 2, 1)
    kernel = convolution(enlarged.outputs, taps, dilation=dilation, pads=pads)
    form = tiled(dilated_phases(taps, dilation, pads), kernel.inputs, kernel.outputs, tile)
    certify("resize and convolution", kernel.after(enlarged), folded(form, enlarged))
    assert folded(form, enlarged).multiplications == form.multiplications


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap", "constant"])
def test_any_padding_folds_into_the_tiles(mode: str) -> None:
    around = pad(9, 2, 3, mode)
    kernel = convolution(14, 3)
    certify(
        mode, kernel.after(around), folded(tiled(strided_phases(3, 1, (0, 0)), 14, 12, 4), around)
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(4, 30), kernels, strides, tiles, st.integers(1, 3), st.booleans())
def test_what_follows_folds_into_the_outputs(
    inputs: int, taps: int, stride: int, tile: int, size: int, everywhere: bool
) -> None:
    kernel = convolution(inputs, taps, stride=stride, pads=(taps, taps))
    form = tiled(strided_phases(taps, stride, (taps, taps)), inputs, kernel.outputs, tile)
    pool = average_pool(
        kernel.outputs, size, stride=2, pads=(size - 1, 0), count_include_pad=everywhere
    )
    certify("convolution and average pool", pool.after(kernel), pooled(form, pool))
    cut = crop(kernel.outputs, 1, 1)
    certify("convolution and crop", cut.after(kernel), pooled(form, cut))


@pytest.mark.parametrize("tile", range(1, 7))
def test_the_formula_in_floating_point(tile: int) -> None:
    """Two axes at once, as a layer computes it: transform, multiply, transform back."""
    rng = np.random.default_rng(0)
    rows = tiled(nearest_phases(3, 2, (1, 1)), 7, 14, tile)
    columns = tiled(dilated_phases(3, 2, (2, 1)), 9, 8, tile)
    (g, b, a), (g2, b2, a2) = (
        (np.array(form.weights, np.float64), form.before.dense(), form.after.dense())
        for form in (rows, columns)
    )
    x, w = rng.standard_normal((5, 7, 9)), rng.standard_normal((4, 5, 3, 3))
    kernels = np.einsum("rk,mckl,ql->rqmc", g, w, g2)
    tiled_x = np.einsum("rti,cij,quj->rqctu", b, x, b2)
    found = np.einsum("rot,rqmtu,qpu->mop", a, np.einsum("rqmc,rqctu->rqmtu", kernels, tiled_x), a2)
    enlarged = np.pad(x.repeat(2, axis=1), ((0, 0), (1, 1), (2, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(enlarged, (3, 5), (1, 2))[..., ::2]
    np.testing.assert_allclose(found, np.einsum("copkl,mckl->mop", windows, w), atol=1e-12)


@pytest.mark.parametrize(
    ("phases", "inputs", "outputs", "tile", "products", "most_tiles"),
    [
        (dilated_phases(3, 1, (1, 1)), 32, 32, 4, 6, 8),
        (dilated_phases(3, 1, (1, 1)), 14, 14, 6, 7, 3),  # 5, 5, 4: not 6, 6, 2
        (dilated_phases(3, 1, (1, 1)), 32, 32, 1, 3, 32),
        (dilated_phases(3, 12, (12, 12)), 33, 33, 4, 5, 12),  # tiles, not products, for classes
        (nearest_phases(3, 2, (1, 1)), 16, 32, 1, 4, 16),
        (nearest_phases(3, 2, (1, 1)), 16, 32, 4, 10, 4),
        (transposed_phases(4, 2, 1, (1, 1)), 16, 32, 2, 6, 8),
        (strided_phases(3, 2, (1, 1)), 32, 16, 4, 5 + 4, 4),
        (dilated_phases(3, 24, (24, 24)), 16, 16, 4, 1, 16),  # dead taps
        (transposed_phases(2, 3, 1, (0, 0)), 8, 23, 4, 8, 2),  # a phase of zeros costs nothing
        (dilated_phases(11, 1, (5, 5)), 64, 64, 6, 12, 32),  # no more than 12 pixels in a tile
        (dilated_phases(31, 1, (15, 15)), 64, 64, 6, 31, 64),
    ],
)  # fmt: skip
def test_multiplications(
    phases: tuple[Phase, ...], inputs: int, outputs: int, tile: int, products: int, most_tiles: int
) -> None:
    form = tiled(phases, inputs, outputs, tile)
    assert (len(form.weights), form.before.outputs) == (products, most_tiles)
    assert form.multiplications == products * most_tiles


def test_dead_taps_cost_nothing() -> None:
    operator = convolution(16, 3, dilation=24, pads=(24, 24))
    assert by_taps(operator).weights == ((Fraction(0), Fraction(1), Fraction(0)),)
    assert len(phases_factorization(dilated_phases(3, 24, (24, 24)), 16, 16).weights) == 16


@pytest.mark.parametrize("pads", [(5, 0), (0, 9)])
def test_a_layer_that_sees_nothing_is_a_product_of_nothing(pads: tuple[int, int]) -> None:
    operator = convolution(3, 3, dilation=4, pads=pads)
    operator = AxisOperator(3, tuple(((),) * operator.outputs for _ in operator.rows))
    nothing = Phase(0, 1, ((Fraction(0),) * 3,), 1, 1, (0, operator.outputs - 3))
    for form in forms(operator, (nothing,), 2):
        certify("nothing", operator, form)
        assert len(form.weights) == 1


def test_the_product_of_a_random_factorization_is_that_of_numpy() -> None:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return [
            [
                tuple((i, Fraction(int(c), 6)) for i, c in enumerate(row) if c)
                for row in rng.integers(-2, 3, shape[1:])
            ]
            for _ in range(shape[0])
        ]

    def operator(*shape: int) -> AxisOperator:
        return AxisOperator(shape[2], tuple(map(tuple, draw(*shape))))

    weights = tuple(tuple(Fraction(int(c), 4) for c in row) for row in rng.integers(-3, 4, (5, 3)))
    form = Factorization(weights, operator(5, 4, 6), operator(5, 7, 4))
    g = np.array(weights, np.float64)
    want = np.einsum("rk,rot,rti->koi", g, form.after.dense(), form.before.dense())
    np.testing.assert_allclose(form.product().dense(), want, atol=1e-12)
