"""Axis operators against torch, ONNX Runtime and the formulas they stand for."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advconv_onnx.algebra.axis import (
    COORDINATES,
    AxisOperator,
    average_pool,
    convolution,
    crop,
    identity,
    insert_zeros,
    pad,
    resize,
    slide,
    transposed_convolution,
)

small = st.integers(1, 4)
pads = st.tuples(st.integers(0, 3), st.integers(0, 3))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 12), st.integers(1, 5), small, small, pads)
def test_convolution_is_that_of_torch(
    n: int, taps: int, stride: int, dilation: int, around: tuple[int, int]
) -> None:
    operator = convolution(n, taps, stride=stride, dilation=dilation, pads=around)
    if sum(around) + n < (taps - 1) * dilation + 1:
        assert operator.outputs == 0
        return
    impulses = torch.nn.functional.pad(torch.eye(n)[:, None], around)
    found = torch.conv1d(impulses, torch.eye(taps)[:, None], stride=stride, dilation=dilation)
    np.testing.assert_array_equal(operator.dense(), found.permute(1, 2, 0))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(1, 5), small, small, st.integers(0, 3), st.integers(0, 3))
def test_transposed_convolution_is_that_of_torch(
    n: int, taps: int, stride: int, dilation: int, cut: int, extra: int
) -> None:
    extra %= max(stride, dilation)
    if (n - 1) * stride + (taps - 1) * dilation + 1 + extra - 2 * cut < 1:
        return
    operator = transposed_convolution(
        n, taps, stride=stride, dilation=dilation, pads=(cut, cut), output_padding=extra
    )
    found = torch.conv_transpose1d(
        torch.eye(n)[:, None], torch.eye(taps)[None], stride=stride, padding=cut,
        output_padding=extra, dilation=dilation,
    )  # fmt: skip
    np.testing.assert_array_equal(operator.dense(), found.permute(1, 2, 0))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(1, 5), small, small, pads)
def test_transposed_convolution_is_its_formula(
    n: int, taps: int, stride: int, dilation: int, cuts: tuple[int, int]
) -> None:
    """The zero insertion of the definition against o = i * stride + k * dilation - pad."""
    operator = transposed_convolution(n, taps, stride=stride, dilation=dilation, pads=cuts)
    k, o, i = np.ogrid[:taps, : operator.outputs, :n]
    expected = o == i * stride + k * dilation - cuts[0]
    np.testing.assert_array_equal(operator.dense(), expected)


def interpolated(x: torch.Tensor, size: int, mode: str, align_corners: bool) -> torch.Tensor:
    options: dict[str, Any] = {} if mode == "nearest" else {"align_corners": align_corners}
    name = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    lifted = x[:, :, None].expand(-1, -1, 3, -1)
    return torch.nn.functional.interpolate(lifted, (3, size), mode=name, **options)[:, :, 0]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(1, 20), st.sampled_from(["linear", "cubic"]), st.booleans())
def test_interpolation_is_that_of_torch(n: int, m: int, mode: str, align_corners: bool) -> None:
    coordinates = "align_corners" if align_corners else "half_pixel"
    operator = resize(n, m, mode=mode, coordinates=coordinates)
    found = interpolated(torch.eye(n, dtype=torch.float64)[:, None], m, mode, align_corners)
    np.testing.assert_allclose(operator.dense()[0], found[:, 0].T, atol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(4, 8), (5, 7), (6, 3), (3, 3), (7, 4), (2, 9), (4, 1)])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize(
    ("mode", "rounding"),
    [("nearest", r) for r in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")]
    + [("linear", "floor"), ("cubic", "floor")],
)
def test_resize_is_that_of_onnxruntime(
    n: int, m: int, coordinates: str, mode: str, rounding: str
) -> None:
    if n == m and coordinates == "tf_half_pixel_for_nn":
        m += 1  # ONNX Runtime copies where nothing is resized, against the specification
    found = resized_by_onnxruntime(n, f"int64[4] size = {{{n}, 1, 1, {m}}}", mode, coordinates,
                                   rounding)  # fmt: skip
    operator = resize(
        n, m, mode=mode, coordinates=coordinates, rounding=rounding,
        cubic_coefficient=Fraction(-1, 2),
    )  # fmt: skip
    np.testing.assert_allclose(operator.dense()[0], found, atol=1e-6)


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_a_scale_may_leave_a_part_of_a_pixel(coordinates: str) -> None:
    found = resized_by_onnxruntime(5, "float[4] scale = {1, 1, 1, 1.5}", "linear", coordinates)
    operator = resize(5, scale=Fraction(3, 2), mode="linear", coordinates=coordinates)
    assert operator.outputs == 7
    np.testing.assert_allclose(operator.dense()[0], found, atol=1e-6)


def resized_by_onnxruntime(
    n: int, amount: str, mode: str, coordinates: str, rounding: str = "floor"
) -> Any:
    """What becomes of each of n pixels: (output, input)."""
    attributes = f'mode="{mode}", coordinate_transformation_mode="{coordinates}"'
    attributes += f', nearest_mode="{rounding}", cubic_coeff_a=-0.5'
    inputs = "none, none, size" if "size" in amount else "none, scale"
    # The last mode exists in opset 11 only.
    opset = 11 if coordinates == "tf_half_pixel_for_nn" else 19
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N,1,1,{n}] x) => (float[N,1,1,M] y)'
        f"<float[0] none = {{}}, {amount}> {{ y = Resize<{attributes}>(x, {inputs}) }}"
    )
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    [found] = session.run(None, {"x": np.eye(n, dtype=np.float32)[:, None, None]})
    return found[:, 0, 0].T


def test_what_lies_outside_can_be_left_out() -> None:
    rows = resize(4, scale=2, mode="cubic", coordinates="half_pixel", exclude_outside=True).rows[0]
    assert all(sum(weight for _, weight in row) == 1 for row in rows)
    assert rows != resize(4, scale=2, mode="cubic", coordinates="half_pixel").rows[0]


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize("around", [(0, 0), (2, 1), (0, 3)])
def test_pad_is_that_of_numpy(mode: Any, around: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal(5)
    found = pad(5, *around, mode).dense()[0] @ x
    np.testing.assert_array_equal(found, np.pad(x, around, mode))


def test_negative_padding_cuts() -> None:
    np.testing.assert_array_equal(pad(5, -1, -2).dense()[0], np.eye(5)[1:3])
    np.testing.assert_array_equal(pad(5, -1, 1).dense()[0], np.eye(6, 5)[1:])


@pytest.mark.parametrize(("n", "begin", "end"), [(2, 0, -3), (2, -3, 0), (1, -2, -2), (3, 4, -9)])
def test_no_more_is_cut_than_there_is(n: int, begin: int, end: int) -> None:
    assert pad(n, begin, end).outputs == 0


def test_what_is_cut_off_may_be_padded_again() -> None:
    np.testing.assert_array_equal(pad(2, -3, 3).dense()[0], np.zeros((2, 2)))
    np.testing.assert_array_equal(pad(2, 3, -4).dense()[0], np.zeros((1, 2)))


def test_cropping_and_leaving_alone() -> None:
    np.testing.assert_array_equal(crop(5, 1, 2).dense()[0], np.eye(5)[1:3])
    np.testing.assert_array_equal(identity(4).dense()[0], np.eye(4))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(3, 9), st.integers(1, 4), small, st.data(), st.booleans())
def test_average_pool_is_that_of_onnxruntime(
    n: int, size: int, stride: int, data: st.DataObject, everywhere: bool
) -> None:
    begin, end = (data.draw(st.integers(0, size - 1)) for _ in range(2))
    if n + begin + end < size:
        return
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["": 19]> g (float[N,1,{n}] x) => (float[N,1,M] y)'
        f"{{ y = AveragePool<kernel_shape=[{size}], strides=[{stride}], pads=[{begin}, {end}], "
        f"count_include_pad={int(everywhere)}>(x) }}"
    )
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    [found] = session.run(None, {"x": np.eye(n, dtype=np.float32)[:, None]})
    operator = average_pool(n, size, stride=stride, pads=(begin, end), count_include_pad=everywhere)
    np.testing.assert_allclose(operator.dense()[0], found[:, 0].T, atol=1e-6)


def test_a_window_of_padding_has_no_mean() -> None:
    assert average_pool(2, 2, pads=(2, 0)).rows[0][0] == ()


def test_dead_taps_are_those_that_see_padding() -> None:
    operator = convolution(5, 4, dilation=3, pads=(6, 3))
    assert operator.live_taps() == (1, 2, 3)
    assert [operator.is_zero_tap(k) for k in range(4)] == [True, False, False, False]
    assert operator.entries == operator.dense().size


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(4, 9), st.integers(1, 3), st.integers(1, 3))
def test_both_steps_may_have_taps(n: int, taps: int, later_taps: int) -> None:
    """One tap for each pair, those of the later step first."""
    earlier = transposed_convolution(n, taps, stride=2)
    later = convolution(earlier.outputs, later_taps, stride=2, pads=(1, 0))
    found = later.after(earlier).dense()
    want = np.einsum("kou,jui->kjoi", later.dense(), earlier.dense())
    np.testing.assert_array_equal(found, want.reshape(found.shape))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(2, 6), st.integers(1, 3), st.sampled_from(["nearest", "linear", "cubic"]))
def test_composition_is_the_matrix_product(n: int, scale: int, mode: str) -> None:
    enlarged = resize(n, scale=Fraction(scale), mode=mode, coordinates="half_pixel")
    kernel = convolution(enlarged.outputs, 3, pads=(1, 1))
    np.testing.assert_allclose(
        kernel.after(enlarged).dense(), kernel.dense() @ enlarged.dense()[0], atol=1e-15
    )


def test_equal_operators_compare_equal() -> None:
    """Nearest 2x after a pad is a transposed convolution of two ones, written differently."""
    repeated = resize(4, scale=2)
    spread = transposed_convolution(4, 2, stride=2)
    summed = AxisOperator(4, (tuple(a + b for a, b in zip(*spread.rows, strict=True)),))
    assert repeated == summed
    assert hash(repeated) == hash(summed)
    # Interpolated where nothing lies between the pixels: weights of zero are not kept.
    assert resize(4, 4, mode="linear") == resize(4, 4, mode="cubic") == resize(4, 4)
    assert repeated != resize(4, scale=2, coordinates="half_pixel", mode="linear")


def test_the_sizes_must_fit() -> None:
    with pytest.raises(ValueError, match="7 outputs before 6 inputs"):
        slide(6, 3).after(insert_zeros(4, 2))
    with pytest.raises(ValueError, match="outputs, scale"):
        resize(4)


def test_an_operator_of_a_large_axis_stays_sparse() -> None:
    operator = convolution(1000, 7, dilation=3, pads=(9, 9))
    assert operator.outputs == 1000
    entries = sum(len(row) for rows in operator.rows for row in rows)
    assert entries == sum(1000 - 3 * abs(k - 3) for k in range(7))
    assert math.prod((operator.taps, operator.outputs, operator.inputs)) == 7_000_000
