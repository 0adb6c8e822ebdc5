"""Fold a zero Pad into the pads of the convolution that reads it.

    Conv(Pad(x, p), pads=q)           =  Conv(x, pads=q + p)
    ConvTranspose(Pad(x, p), pads=q)  =  ConvTranspose(x, pads=q - p * stride)

because a zero border of p pixels widens the output of a transposed convolution by p * stride on
that side. Refused for other modes and values, for padded batch or channels, negative pads, pads
that are not constant, ``auto_pad`` SAME, and where a ConvTranspose's pads would become negative.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.padding import Padding
from advconv_onnx.rewriter.rule import Refused, Rule, Site
from advconv_onnx.rewriter.walk import producer

Plan = tuple[ir.Value, Convolution, list[int]]


class FoldPad(Rule[Plan]):
    """Conv(Pad(x)) -> Conv(x)."""

    name = "fold_pad"
    roots = frozenset(("Conv", "ConvTranspose"))

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        pad = producer(root.inputs[0], "Pad", graph=root.graph)
        x = pad.inputs[0]
        assert x is not None
        convolution = Convolution.of(root)
        padding = _spatial_padding(pad, convolution.rank)
        change = -padding * convolution.strides if convolution.transposed else padding
        return Site((pad, root), (x, convolution, convolution.pads_changed(change)))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, convolution, pads = plan
        weight, bias = convolution.weight, convolution.bias
        return convolution.rebuild(op, x, weight, bias, pads=pads, auto_pad="NOTSET")


def _spatial_padding(pad: ir.Node, rank: int) -> NDArray[np.int64]:
    """Zeros added at the (beginnings, ends) of the spatial axes, shape (2, rank - 2)."""
    padding = Padding.of(pad, rank)
    if (padding.amounts < 0).any():
        raise Refused("the Pad crops")
    if padding.value != 0:
        raise Refused("the Pad's value is not zero")
    return padding.spatial


RULE = FoldPad()


def _model(nodes: str, constants: str, channels: int = 2, opset: int = 18, out: int = 4) -> str:
    weight = "float[4, 2, 1, 2] w = {1, -2, 3, 4, 5, -6, 7, 8, 1, 2, -3, 4, 5, 6, 7, -8}"
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, {channels}, H, W] x) => (float[N, {out}, P, Q] z) <{weight}, {constants}>
    {{ {nodes} }}"""


_PADS = "int64[8] p = {0, 0, 1, 2, 0, 0, 3, 0}"

EXAMPLES = (
    _model("y = Pad(x, p) z = Conv <strides = [2, 1], pads = [0, 1, 1, 0]> (y, w)", _PADS),
    _model(
        'y = Pad(x, p, v, a) z = Conv <auto_pad = "VALID", group = 2> (y, w)',
        "int64[4] p = {1, 2, 0, 1}, float v = {0}, int64[2] a = {-1, 2}",
        channels=4,
    ),
    _model(
        "y = Pad <pads = [0, 0, 1, 2, 0, 0, 3, 0]> (x) z = Conv(y, w)", "float u = {0}", opset=9
    ),
    _model(
        "y = Pad(x, p) z = ConvTranspose <strides = [2, 1], pads = [3, 2, 6, 1]> (y, w)",
        _PADS,
        channels=4,
        out=2,
    ),
    """<ir_version: 7, opset_import: ["" : 11]> g (float[N, 2, L] x) => (float[N, 4, P] z)
    <float[4, 1, 2] w = {1, -2, 3, 4, 5, -6, 7, 8}, int64[6] p = {0, 0, 2, 0, 0, 1}> {
        y = Pad(x, p)
        z = Conv <group = 2, dilations = [2]> (y, w)
    }""",
)

NEAR_MISSES = (
    (_model("y = Pad(x, p, v) z = Conv(y, w)", f"{_PADS}, float v = {{1}}"), "not zero"),
    (_model('y = Pad <mode = "reflect"> (x, p) z = Conv(y, w)', _PADS), "mode is reflect"),
    (_model("y = Pad(x, p) z = Conv(y, w)", "int64[8] p = {0, 0, 1, 1, 0, 0, -1, 1}"), "crops"),
    (
        _model("y = Pad(x, p) z = Conv(y, w)", "int64[8] p = {0, 1, 1, 1, 0, 0, 1, 1}", channels=1),
        "channels",
    ),
    (_model('y = Pad(x, p) z = Conv <auto_pad = "SAME_LOWER"> (y, w)', _PADS), "auto_pad"),
    (
        _model("y = Pad(x, p) z = ConvTranspose <pads = [0, 0, 0, 0]> (y, w)", _PADS, channels=4),
        "negative",
    ),
    # What one side adds, a crop of the other does not undo.
    (_model("y = Pad(x, p) z = Conv(y, w)", "int64[8] p = {0, 0, 2, 1, 0, 0, -1, -1}"), "crops"),
    (
        _model(
            "y = Pad(x, p) z = Conv <pads = [2, 2, 2, 2]> (y, w)",
            "int64[8] p = {0, 0, -1, 0, 0, 0, 0, 0}",
        ),
        "crops",
    ),
    (
        _model("u = Relu(v) y = Pad(x, p, u) z = Conv(y, w)", f"{_PADS}, float v = {{0}}"),
        "constant",
    ),
    (_model("q = Abs(p) y = Pad(x, q) z = Conv(y, w)", _PADS), "pads is not constant"),
    (
        _model("y = Pad(x, p) z = ConvTranspose <output_shape = [9, 9]> (y, w)", _PADS, channels=4),
        "output_shape",
    ),
)
