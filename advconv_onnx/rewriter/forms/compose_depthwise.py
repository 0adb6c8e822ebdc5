"""Compose a depthwise convolution of very few channels and the 1x1 convolution behind it.

    conv1x1(conv(x, w, group = C) + b, v) + c  =  conv(x, v w) + v b + c

Exact everywhere, borders included, because a 1x1 convolution treats every pixel alike. It takes
more multiplications (where it takes fewer, ``fusions/compose_pointwise`` does it) and saves a pass
over an image of few channels, which fill no block. With one thread 1.41 times as fast for 1 channel
(to 16, 224x224), 1.30 for 3 (to 16, stride 2), 1.10 for 6, but 0.98 for 3 to 32 (112x112), 0.84 for
8 to 16 and 0.4 to 0.6 for 16 and more: refused from 8 channels on.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from advconv_onnx.rewriter.blocked import BLOCK
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.fusions import compose_pointwise
from advconv_onnx.rewriter.rule import NoSite, Refused, Site
from advconv_onnx.rewriter.walk import producer


class ComposeDepthwise(Form[compose_pointwise.Plan]):
    """Conv1x1(depthwise Conv(x)) -> Conv(x)."""

    name = "compose_depthwise"
    roots = frozenset(("Conv",))
    affine_in_weights = True

    def find(self, root: ir.Node, opset: int) -> Site[compose_pointwise.Plan]:
        node = producer(root.inputs[0], "Conv", graph=root.graph)
        first, second = Convolution.of(node), Convolution.of(root)
        if first.group != first.in_channels or math.prod(second.kernel) > 1:
            raise NoSite
        if second.is_padded or any(stride > 1 for stride in second.strides):
            raise Refused("the 1x1 convolution is strided or padded")
        if second.group > 1 or first.in_channels >= BLOCK:
            raise Refused("a dense convolution of so many channels or groups takes longer")
        return Site((node, root), (first, second))

    def rewrite(self, op: Builder, plan: compose_pointwise.Plan) -> ir.Value:
        return compose_pointwise.RULE.rewrite(op, plan)


FORMS = (ComposeDepthwise(),)


def _model(first: str, second: str = "group = 1", channels: int = 3, v: str = "4, 3, 1, 1") -> str:
    w = ", ".join(str(n * 5 % 7 - 3) for n in range(channels * 6))
    numbers = ", ".join(str(n * 3 % 7 - 3) for n in range(12))
    return f"""<ir_version: 8, opset_import: ["" : 13]>
    g (float[N, {channels}, H, W] x) => (float[] z)
    <float[{channels}, 1, 2, 3] w = {{{w}}}, float[{v}] v = {{{numbers}}},
     float[4] c = {{1, -2, 3, 4}}, float[{channels}] b = {{{", ".join("3" * channels)}}}>
    {{ y = Conv <group = {channels}, {first}> (x, w, b) z = Conv <{second}> (y, v, c) }}"""


EXAMPLES = (
    _model("pads = [1, 1, 0, 1]"),
    _model("strides = [2, 1], dilations = [1, 2], pads = [0, 2, 1, 0]"),
    _model('auto_pad = "SAME_UPPER"', "strides = [1, 1]"),
)

NEAR_MISSES = (
    (_model("pads = [1, 1, 0, 1]", "strides = [2, 1]"), "strided"),
    (_model("pads = [1, 1, 0, 1]", "pads = [0, 1, 0, 0]"), "padded"),
    (_model("pads = [1, 1, 0, 1]", channels=12, v="1, 12, 1, 1").replace(", c)", ")"), "so many"),
    (_model("pads = [1, 1, 0, 1]", v="2, 3, 2, 1").replace(", c)", ")"), ""),
)
