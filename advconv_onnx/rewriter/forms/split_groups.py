"""Split the groups of a convolution into convolutions of their own.

    conv(x, w, group = g)  =  concat(conv(x_1, w_1), ..., conv(x_g, w_g))      x = (x_1, ..., x_g)

ONNX Runtime's blocked kernels take a grouped convolution only if the channels of each group fill
blocks of 16 numbers; a dense one needs a multiple of 4 input channels. So groups of 24 or 40
channels are laid out in blocks only one by one. The Split leaves that layout, which costs a pass.
Exact for any size, stride, dilation and padding, because no tap moves.

Measured on AVX-512 with one thread, 3x3 between two 1x1: 1.07 times as fast for 2 groups of 24
channels (56x56 pixels), 1.2 for 2 of 40, 2 of 56, 3 of 40 and 4 of 24 (28x28), 1.3 for 4 of 12, 1.4
for 4 of 40 (14x14), 1.04 for 2 of 100. It does not pay for 8 groups (of 20: 0.93), for one tap
(0.7), or where groups are in blocks already (2 of 64: 0.92).

Refused there and where the input channels of a group are no multiple of 4 (one part would not be in
blocks either), for depthwise convolutions, and but for images of two axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.blocked import BLOCKED_RANK, QUARTER, fills_blocks
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.rule import NoSite, Refused, Site

_MOST = 8
"""Groups, from which on the parts are too many."""


class SplitGroups(Form[Convolution]):
    """Conv(x) -> Concat(Conv(Split(x)_1), Conv(Split(x)_2), ...)."""

    name = "split_groups"
    roots = frozenset(("Conv",))
    affine_in_weights = True
    minimum_opset = 4

    def find(self, root: ir.Node, opset: int) -> Site[Convolution]:
        group = root.attributes.get_int("group", 1)
        if group == 1:
            raise NoSite
        convolution = Convolution.of(root)
        inputs, outputs = convolution.in_channels // group, convolution.out_channels // group
        if convolution.rank != BLOCKED_RANK:
            raise Refused("only images of two axes are laid out in blocks")
        if fills_blocks(inputs, outputs):
            raise Refused("its groups are laid out in blocks already")
        if inputs % QUARTER:
            raise Refused(f"{inputs} input channels are not laid out in blocks")
        if group > _MOST or math.prod(convolution.kernel) == 1:
            raise Refused("so many groups, or of one tap, take less time than to split them")
        return Site((root,), convolution)

    def rewrite(self, op: Builder, plan: Convolution) -> ir.Value:
        weights, biases = (np.split(array, plan.group) for array in (plan.weight, plan.bias))
        parts = [
            plan.rebuild(op, x, weight, bias, group=1)
            for x, weight, bias in zip(_split(op, plan), weights, biases, strict=True)
        ]
        return op.Concat(*parts, axis=1)


def _split(op: Builder, plan: Convolution) -> Sequence[ir.Value]:
    """The channels of each group."""
    sizes = [plan.in_channels // plan.group] * plan.group
    if op.opset < 13:
        return op.node("Split", [plan.x], {"axis": 1, "split": sizes}, plan.group).outputs
    given = op.initializer(np.array(sizes, np.int64), "split")
    return op.node("Split", [plan.x, given], {"axis": 1}, plan.group).outputs


FORMS = (SplitGroups(),)


def _model(
    conv: str, inputs: int, weight: tuple[int, ...], size: str = "H, W", opset: int = 13
) -> str:
    numbers = ", ".join(str(n * 5 % 7 - 3) for n in range(math.prod(weight)))
    bias = ", ".join(str(n % 5 - 2) for n in range(weight[0]))
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, {inputs}, {size}] x) => (float[] z)
    <float[{", ".join(map(str, weight))}] w = {{{numbers}}}, float[{weight[0]}] b = {{{bias}}}>
    {{ z = Conv <{conv}> (x, w, b) }}"""


EXAMPLES = (
    _model("group = 2, pads = [1, 1, 1, 1]", 8, (6, 4, 3, 3)),
    _model("group = 4, strides = [2, 1], dilations = [1, 2]", 48, (16, 12, 1, 2), opset=11),
    _model('group = 3, auto_pad = "SAME_UPPER"', 12, (12, 4, 2, 2)),
)

NEAR_MISSES = (
    (_model("group = 1", 4, (4, 4, 3, 3)), ""),
    (_model("group = 4", 4, (4, 1, 3, 3)), "already"),
    (_model("group = 2", 32, (32, 16, 3, 3)), "already"),
    (_model("group = 2", 12, (4, 6, 3, 3)), "6 input channels"),
    (_model("group = 10", 40, (10, 4, 3, 3)), "so many"),
    (_model("group = 2", 8, (4, 4, 1, 1)), "one tap"),
    (_model("group = 2", 8, (4, 4, 3), "L"), "two axes"),
)
