"""Cards of layers in all the places where a model can hold one."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx import catalog
from advconv_onnx.cards import card
from advconv_onnx.errors import InputError
from advconv_onnx.inspection import inspect
from advconv_onnx.records import ChannelBlock, Costs

from .parsing import normal, parse

HEADER = '<ir_version: 8, opset_import: ["": {}, "local": 1]> '


def conv_model(signature: str, body: str, opset: int = 18, **weights: np.ndarray) -> ir.Model:
    return parse(HEADER.format(opset) + f"g ({signature}) => (float[] y) {{ {body} }}", **weights)


def test_a_dilated_layer() -> None:
    model = catalog.build(
        "dilated_conv", input_shape=("N", 8, 20, 20), channels=16, rate=2, pads=2, bias=False
    )
    before = ir.to_proto(model).SerializeToString()
    found = card(model, "dilated_conv")
    assert ir.to_proto(model).SerializeToString() == before
    assert found.layer.kind == "dilated dense"
    assert found.channels == (8, 16)
    assert found.blocks == (ChannelBlock((0, 16), (0, 8)),)
    assert found.field == (5, 5)
    assert found.costs == Costs(8 * 16 * 9, 8 * 16 * 9 * 400, 4 * (24 * 400 + 8 * 16 * 9))
    assert found.dense == Costs(8 * 16 * 25, 8 * 16 * 25 * 400, 4 * (24 * 400 + 8 * 16 * 25))
    assert found.impulses.difference == 0
    for axis in found.axes:
        window = axis.windows[axis.interior]
        assert [b - a for a, b in itertools.pairwise(window)] == [2, 2]
        assert axis.padding == (2, 2)
        assert axis.cells[:3] == ((), (), ((0, 1.0),))
        assert axis.windows[0] == (0, 2, 4)


def test_groups_are_blocks() -> None:
    """The mission's example: 4 channels, 2 groups, 4 kernels each, 8 maps."""
    model = catalog.build("grouped_conv", input_shape=(1, 4, 9, 9), channels=8, group=2)
    found = card(model, "grouped_conv")
    assert found.blocks == (ChannelBlock((0, 4), (0, 2)), ChannelBlock((4, 8), (2, 4)))


def test_a_transposed_layer_is_zeros_and_a_dense_one() -> None:
    model = catalog.build(
        "conv_transpose", input_shape=(1, 3, 8, 8), channels=2, kernel_shape=4, strides=2, pads=1
    )
    found = card(model, "conv_transpose")
    begin, end = found.axes[0].padding
    image = found.axes[0].cells[begin : len(found.axes[0].cells) - end]
    assert image == tuple(((i // 2, 1.0),) if i % 2 == 0 else () for i in range(len(image)))
    assert found.field == (2, 2)
    assert found.dense is not None
    assert found.dense.macs == 4 * (found.costs.macs or 0)


def test_an_upsampled_layer_repeats_pixels() -> None:
    model = catalog.build("upsample_conv", input_shape=(1, 3, 8, 8), channels=2, scale=2, pads=1)
    found = card(model, "upsample_conv")
    assert found.layer.nodes == ("upsample_conv.upsample", "upsample_conv")
    assert found.axes[0].cells[1:5] == (((0, 1.0),), ((0, 1.0),), ((1, 1.0),), ((1, 1.0),))
    assert (found.interpolation, found.scales) == ("nearest", (2.0, 2.0))


@pytest.mark.parametrize("opset", [9, 10, 11, 18, 21])
def test_a_resize_alone_of_any_opset(opset: int) -> None:
    spelled = {9: "Upsample(x, s)", 10: "Resize(x, s)"}.get(
        opset, 'Resize<coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, r, s)'
    )
    model = conv_model(
        "float[1,5,4,4] x", f"y = {spelled}", opset,
        s=np.array([1, 1, 3, 2], np.float32), r=np.zeros(0, np.float32),
    )  # fmt: skip
    found = card(model, "y")
    assert found.layer.kind == "upsampling"
    assert found.scales == (3.0, 2.0)
    assert found.channels == (5, 5)
    assert len(found.blocks) == 5
    assert found.costs == Costs(0, 0, 4 * 5 * (16 + 96))
    assert found.dense is None
    assert found.axes[0].cells[:4] == (((0, 1.0),),) * 3 + (((1, 1.0),),)


def test_a_resize_of_opset_10_samples_asymmetrically() -> None:
    model = conv_model(
        "float[1,1,4,4] x", 'y = Resize<mode="linear">(x, s)', 10,
        s=np.array([1, 1, 2, 2], np.float32),
    )  # fmt: skip
    assert card(model, "y").axes[0].cells[:2] == (((0, 1.0),), ((0, 0.5), (1, 0.5)))


def test_sizes_that_the_model_computes() -> None:
    """As exporters spell "as large as the other input"."""
    model = conv_model(
        "float[1,3,5,5] x, float[1,3,15,10] z",
        'n = Shape(z) y = Resize<coordinate_transformation_mode="half_pixel", mode="linear">'
        "(x, , , n)",
    )
    assert card(model, "y").scales == (3.0, 2.0)


def test_the_field_in_the_model_is_that_of_inspect() -> None:
    model = conv_model("float[1,3,H,W] x", "a = Conv(x, w) y = Conv(a, w)", w=normal(3, 3, 3, 3))
    found = card(model, "y")
    assert found.field == (3, 3)
    assert found.layer.receptive_field == (5, 5)
    assert found.costs.parameters == 81
    assert found.costs.macs is None


def test_layers_in_branches_and_functions() -> None:
    model = parse(
        HEADER.format(18) + "g (float[1,3,8,8] x, bool c) => (float[] y) {"
        " a = local.twice(x, w)"
        " y = If(c) <then_branch = t () => (float[] p) { p = Conv(a, w) },"
        " else_branch = e () => (float[] q) { q = Conv<dilations=[2, 2]>(a, w) }> }"
        '<domain: "local", opset_import: ["": 18]> twice (i, v) => (o) '
        "{ k = Conv(i, v) o = Conv<strides=[2, 2]>(k, v) }",
        w=normal(3, 3, 3, 3),
    )
    assert card(model, "p").layer.kind == "dense"
    assert card(model, "q").layer.kind == "dilated dense"
    assert card(model, f"{card(model, 'q').layer.graph}: q").field == (5, 5)
    [strided] = [layer.name for layer in inspect(model).layers if layer.strides == (2, 2)]
    assert card(model, strided).layer.graph == "local::twice"


def test_a_function_of_another_opset() -> None:
    model = parse(
        HEADER.format(18) + "g (float[1,3,8,8] x) => (float[] y) { y = local.up(x) }"
        '<domain: "local", opset_import: ["": 10]> up (i) => (o) '
        "{ s = Constant<value = float[4] {1, 1, 2, 2}>() o = Upsample(i, s) }"
    )
    with pytest.raises(InputError, match=r"'o': .* axes are unknown"):
        card(model, "o")


def test_other_types_are_measured_in_float32() -> None:
    model = catalog.build("conv", input_shape=(1, 3, 8, 8), channels=4, dtype="float16")
    found = card(model, "conv")
    assert found.costs.bytes == 2 * (3 * 64 + 4 * 36 + 3 * 4 * 9 + 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("conv_tow", "no convolution or Resize is called 'conv_tow'; did you mean 'conv_two'"),
        ("same", "2 layers are called 'same'; use .* output instead: 'k', 'b/then_branch: p'"),
        ("integers", "layer 'integers': ConvInteger computes in integers, .*before it was quant"),
        ("unknown", "layer 'unknown': the shape of its weight is unknown"),
    ],
)
def test_what_cannot_be_shown_is_refused(name: str, message: str) -> None:
    text = (
        HEADER.format(18) + "g (float[1,3,8,8] x, float[] v, bool c, uint8[1,1,8,8] i) "
        "=> (float[] y, float[] u, int32[] n) {"
        " [conv_two] a = Conv(x, w) [same] k = Conv(x, w)"
        " [b] y = If(c) <then_branch = t () => (float[] p) { [same] p = Conv(a, w) },"
        " else_branch = e () => (float[] q) { q = Add(k, k) }>"
        " [unknown] u = Conv(x, v) [integers] n = ConvInteger(i, m) }"
    )
    model = parse(text, w=normal(3, 3, 3, 3), m=np.ones((1, 1, 3, 3), np.uint8))
    with pytest.raises(InputError, match=message):
        card(model, name)


def test_layers_of_one_name_are_told_apart_by_their_outputs() -> None:
    model = conv_model(
        "float[1,3,9,9] x", "[c] a = Conv(x, w) [c] b = Conv<strides=[2, 2]>(a, w) y = Relu(b)",
        w=normal(3, 3, 3, 3),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"called 'c'; .* output instead: 'a', 'b'"):
        card(model, "c")
    assert [card(model, name).layer.strides for name in "ab"] == [(1, 1), (2, 2)]


def test_a_model_without_layers_says_so() -> None:
    model = conv_model("float[1,3] x", "y = Relu(x)")
    with pytest.raises(InputError, match="the model has no such layer at all"):
        card(model, "y")


def test_padding_may_repeat_pixels() -> None:
    model = conv_model(
        "float[1,3,8,8] x", 'r = Resize(x, , s) p = Pad<mode="reflect">(r, a) y = Conv(p, w)',
        w=normal(2, 3, 3, 3), a=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        s=np.array([1, 1, 2, 2], np.float32),
    )  # fmt: skip
    axis = card(model, "y").axes[0]
    assert axis.padding == (1, 1)
    assert axis.cells[0] == axis.cells[2]
