"""What cannot be claimed about a layer; what can is held against ONNX Runtime by test_impulses."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.errors import InputError
from advconv_onnx.geometry import axis_geometry, least_size, sample_size

from .parsing import normal, parse


def nodes(body: str, shape: str = "1,3,8,8", opset: int = 18) -> tuple[ir.Node, ...]:
    """The nodes of a model without its last Identity."""
    model = parse(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[{shape}] x, int64[8] computed) '
        f"=> (float[] y) <float[4] up = {{1, 1, 2, 2}}, float[4] deep = {{1, 2, 2, 2}}, "
        f"int64[4] size = {{1, 3, 16, 24}}, float one = {{1}}> {{ {body} }}",
        w=normal(4, 3, 3, 3),
        t=normal(3, 4, 3, 3),
        around=np.array([0, 0, 1, 2, 0, 0, 1, 0]),
        deep_pads=np.array([0, 1, 0, 0, 0, 0, 0, 0]),
    )
    return tuple(node for node in model.graph if node.op_type != "Constant")


@pytest.mark.parametrize(
    ("body", "shape", "message"),
    [
        ('y = Resize<coordinate_transformation_mode="tf_crop_and_resize">(x, , up)', "1,3,8,8",
         "tf_crop_and_resize reads a region"),
        ('y = Resize<antialias=1, mode="linear">(x, , up)', "1,3,8,8", "antialias=1"),
        ('y = Resize<keep_aspect_ratio_policy="not_larger">(x, , , size)', "1,3,8,8",
         "keep_aspect_ratio_policy"),
        ("y = Resize(x, , deep)", "1,3,8,8", "resizes batch or channels"),
        ("y = Resize(x, , , size)", "1,3,H,W", "scale depends on sizes that are unknown"),
        ("p = Pad(x, computed) y = Conv(p, w)", "1,3,8,8", "computed when the model runs"),
        ("p = Pad(x, deep_pads) y = Conv(p, w)", "1,3,8,8", "changes batch or channels"),
        ("p = Pad(x, around, one) y = Conv(p, w)", "1,3,8,8", "adds 1 instead of zeros"),
        ("y = ConvTranspose<output_shape=[9, 9]>(x, t)", "1,3,H,W", "input size that is unknown"),
        ("y = Conv(x, x)", "1,3,H,W", "shape of its weight is unknown"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(body: str, shape: str, message: str) -> None:
    layer = nodes(body, shape)
    with pytest.raises(InputError, match=message):
        axis_geometry(layer, 0, sample_size(layer, 0, None))


def test_scales_come_from_sizes_where_those_are_given() -> None:
    layer = nodes("y = Resize(x, , , size)")
    assert [axis_geometry(layer, axis, 8).grid.outputs for axis in (0, 1)] == [16, 24]


def test_pads_of_a_pad_and_of_its_convolution_add_up() -> None:
    layer = nodes("p = Pad(x, around) y = Conv<pads=[1, 0, 1, 0]>(p, w)")
    axes = [axis_geometry(layer, axis, 8) for axis in (0, 1)]
    assert [axis.padding for axis in axes] == [(2, 2), (2, 0)]
    assert [axis.operator.outputs for axis in axes] == [10, 8]


@pytest.mark.parametrize("size", [13, 14, 15, None])
def test_the_sample_leaves_the_rest_that_the_model_leaves(size: int | None) -> None:
    layer = nodes("y = Conv<strides=[3, 3], pads=[1, 1, 1, 1]>(x, w)", "1,3,H,W")
    sample = sample_size(layer, 0, size)
    assert sample < 13
    assert size is None or sample % 3 == size % 3
    assert least_size(layer, 0, sample) == 1


@pytest.mark.parametrize(
    ("auto_pad", "cut"), [("NOTSET", (2, 1)), ("SAME_LOWER", (2, 1)), ("SAME_UPPER", (1, 2))]
)
def test_where_an_output_shape_cuts_more(auto_pad: str, cut: tuple[int, int]) -> None:
    """ONNX's ConvTranspose: less at the begin for SAME_UPPER, else more."""
    layer = nodes(f'y = ConvTranspose<auto_pad="{auto_pad}", output_shape=[7, 8]>(x, t)')
    for axis, (begin, end) in ((0, cut), (1, (1, 1))):
        assert axis_geometry(layer, axis, 8).padding == (2 - begin, 2 - end)
