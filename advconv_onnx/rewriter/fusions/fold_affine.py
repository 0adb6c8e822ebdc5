"""Fold a Neg or a constant Add, Sub, Mul or Div into the convolution before it.

    a * (conv(x, w) + b) + c  =  conv(x, a * w) + a * b + c,   a and c one value per output channel

for Conv and ConvTranspose, any group, the constant on either side. Refused when the constant varies
along another dimension than the channels (shape (W,) is such a case even when W equals C), when it
widens the result, when something else reads the convolution's output, and when a weight overflows.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.affine import Affine, elementwise
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.rule import NoSite, Rule, Site
from advconv_onnx.rewriter.walk import maker

Plan = tuple[Convolution, Affine]


class FoldAffine(Rule[Plan]):
    """Mul(Conv(x), a), Add(Conv(x), c) ... -> Conv(x)."""

    name = "fold_affine"
    roots = frozenset(("Add", "Sub", "Mul", "Div", "Neg"))

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        for value in root.inputs:
            node = maker(value, "Conv", "ConvTranspose", graph=root.graph)
            if node is not None and value is not None:
                convolution = Convolution.of(node)
                rank, channels = convolution.rank, convolution.out_channels
                affine = elementwise(root, value, rank, channels)
                return Site((node, root), (convolution, affine))
        raise NoSite

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        convolution, affine = plan
        return convolution.rebuild_scaled(op, affine.scale, affine.shift)


RULE = FoldAffine()


def _model(nodes: str, constants: str, channels: int = 2, out: str = "float[N, 4, P, Q] z") -> str:
    weight = "float[4, 2, 1, 2] w = {1, -2, 3, 4, 5, -6, 7, 8, 1, 2, -3, 4, 5, 6, 7, -8}"
    return f"""<ir_version: 8, opset_import: ["" : 15]>
    g (float[N, {channels}, H, W] x) => ({out}) <{weight}, {constants}> {{ {nodes} }}"""


EXAMPLES = (
    _model("y = Conv <pads = [1, 0, 0, 1]> (x, w) z = Add(y, c)", "float c = {2.5}"),
    _model("y = Conv(x, w, b) z = Sub(c, y)", "float[4] b = {1, 2, 3, 4}, float[1] c = {2.5}"),
    _model("y = Conv(x, w) z = Mul(c, y)", "float[4, 1, 1] c = {1, -2, 3, 0.5}"),
    _model(
        "y = ConvTranspose <group = 2, strides = [2, 3]> (x, w, b) z = Div(y, c)",
        "float[4] b = {1, 2, 3, 4}, float[1, 4, 1, 1] c = {1, -2, 4, 0.5}",
        channels=4,
    ),
    _model(
        'y = Conv <group = 2, auto_pad = "SAME_UPPER"> (x, w) z = Sub(y, c)',
        "float[1, 4, 1, 1] c = {1, -2, 4, 0.5}",
        channels=4,
    ),
    _model("y = ConvTranspose(x, w, b) z = Neg(y)", "float[2] b = {1, 2}", 4, "float[] z"),
    # One and three spatial axes, depthwise with a multiplier, and an old opset.
    """<ir_version: 4, opset_import: ["" : 9]> g (float[N, 2, L] x) => (float[N, 4, P] z)
    <float[4, 1, 2] w = {1, -2, 3, 4, 5, -6, 7, 8}, float[4, 1] c = {1, -2, 3, 0.5}> {
        y = Conv <group = 2, dilations = [2], pads = [1, 0]> (x, w)
        z = Mul(y, c)
    }""",
    """<ir_version: 8, opset_import: ["" : 15]> g (float[N, 2, D, H, W] x) => (float[] z)
    <float[2, 1, 1, 2, 1] w = {1, -2, 3, 4}, float[2, 1, 1, 1] c = {1, -2}> {
        y = ConvTranspose <group = 2, strides = [1, 2, 1], output_padding = [0, 1, 0]> (x, w)
        z = Sub(c, y)
    }""",
)

NEAR_MISSES = (
    # W == C: the constant runs along the width, though it has as many values as channels.
    (_model("y = Conv(x, w) z = Mul(y, c)", "float[4] c = {1, 2, 3, 4}"), "one value per channel"),
    (
        _model("y = Conv(x, w) z = Add(y, c)", "float[1, 1, 1, 1, 1] c = {1}", out="float[] z"),
        "rank 5",
    ),
    (
        _model("y = Conv(x, w) z = Add(y, c)", "float[2, 4, 1, 1] c = {1, 2, 3, 4, 5, 6, 7, 8}"),
        "one value per channel",
    ),
    (_model("y = Conv(x, w) z = Div(c, y)", "float c = {2}"), "not affine"),
    (_model("y = Conv(x, w) z = Div(y, c)", "float[4, 1, 1] c = {1, 0, 3, 4}"), "zero"),
    (_model("y = Conv(x, w) z = Mul(y, c)", "float c = {1e38}"), "not finite"),
    (_model("y = Conv(x, w) z = Add(y, y)", "float c = {1}"), ""),
    (
        _model(
            "y = Conv(x, w) z = Add(y, c) v = Relu(y)", "float c = {1}", out="float[] z, float[] v"
        ),
        "also read by",
    ),
    (
        _model("y = Conv(x, w) z = Mul(y, c)", "float c = {2}", out="float[] z, float[] y"),
        "also an output",
    ),
    (_model("y = Conv(x, w) z = Add(y, c)", "float[1, 1, 1, 2] c = {1, 2}"), "per channel"),
    (_model("y = Conv(x, w) d = Neg(c) z = Add(y, d)", "float c = {2}"), ""),
)
