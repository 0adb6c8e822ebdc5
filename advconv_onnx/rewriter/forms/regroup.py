"""Write a convolution of thin groups with fewer and wider groups, zeros between the old ones.

    conv(x, [w1; w2; ...], group = g)  =  conv(x, [diag(w1, ..., wr); ...], group = g / r)

It multiplies r times as much, most of it by zero, and can still be faster: ONNX Runtime's blocked
kernels take groups only if both their channels fill blocks of 16 numbers, or a single group; all
others are unrolled to columns and multiplied group by group, outside of that layout. A variant is
the width of the new groups, one more has a single group. Exact for any size, stride, dilation and
padding, because no tap moves.

Measured on AVX-512 with one thread, 3x3 between two 1x1: groups of 4 of 128 channels merged to 16
are 1.27 times as fast (56x56 pixels; to 32: 1.07), groups of 8 of 64 channels 1.51 times (28x28);
groups of 8 of 256 to 64, 0.95 times; groups of 24 to 48, 1.6 times for 2 of them (56x56), 1.75 for
14 (14x14). One group pays for few: 1.16 times for 4 groups of 12, 1.21 for 2 of 4, 0.41 for 32 of
8.

Refused for depthwise convolutions, which have kernels of their own, where the thinner of a group's
input and output would not have the variant's width, for more than 16 times the multiplications, and
but for images of two axes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import onnx_ir as ir

from advconv_onnx.rewriter.blocked import BLOCKED_RANK, fills_blocks
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.rule import NoSite, Refused, Site

_MOST = 16
"""Times the multiplications, from which on blocks cannot make up for them."""


class _Plan(NamedTuple):
    convolution: Convolution
    groups: int


class Regroup(Form[_Plan]):
    """Conv(x) -> Conv(x) of fewer groups."""

    roots = frozenset(("Conv",))
    affine_in_weights = True

    def __init__(self, width: int | None) -> None:
        """Make groups of ``width`` channels, of the thinner of input and output; None: one."""
        self._width = width
        self.name = f"regroup_{width or 'dense'}"

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        if root.attributes.get_int("group", 1) == 1:
            raise NoSite
        convolution = Convolution.of(root)
        group = convolution.group
        inputs, outputs = convolution.in_channels // group, convolution.out_channels // group
        if convolution.rank != BLOCKED_RANK:
            raise Refused("only images of two axes are laid out in blocks")
        if fills_blocks(inputs, outputs):
            raise Refused("its groups are laid out in blocks already")
        groups = self._groups(group, min(inputs, outputs))
        if group // groups > _MOST:
            raise Refused(f"it would multiply {group // groups} times as much")
        return Site((root,), _Plan(convolution, groups))

    def _groups(self, group: int, channels: int) -> int:
        if self._width is None:
            return 1
        merged, rest = divmod(self._width, channels)
        if rest or merged < 2 or merged >= group or group % merged:
            raise Refused(f"its groups cannot be merged to {self._width} channels")
        return group // merged

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        convolution, groups = plan
        weight = convolution.from_blocks(convolution.blocks(groups))
        return convolution.rebuild(op, convolution.x, weight, convolution.bias, group=groups)


FORMS = (Regroup(16), Regroup(32), Regroup(48), Regroup(None))


def _model(conv: str, inputs: int, weight: tuple[int, ...], size: str = "H, W") -> str:
    numbers = ", ".join(str(n * 5 % 7 - 3) for n in range(math.prod(weight)))
    bias = ", ".join(str(n % 5 - 2) for n in range(weight[0]))
    return f"""<ir_version: 8, opset_import: ["" : 13]>
    g (float[N, {inputs}, {size}] x) => (float[] z)
    <float[{", ".join(map(str, weight))}] w = {{{numbers}}}, float[{weight[0]}] b = {{{bias}}}>
    {{ z = Conv <{conv}> (x, w, b) }}"""


EXAMPLES = (
    _model("group = 8, pads = [1, 1, 1, 1]", 32, (32, 4, 3, 3)),
    _model(
        "group = 16, strides = [2, 1], dilations = [1, 2], pads = [2, 0, 1, 1]", 64, (64, 4, 2, 3)
    ),
    # Two outputs of each input channel, and half as many outputs as inputs.
    _model("group = 16", 16, (32, 1, 3, 1)),
    _model('group = 4, auto_pad = "SAME_UPPER"', 32, (16, 8, 2, 2)),
    _model("group = 2", 6, (10, 3, 1, 1)),
)

NEAR_MISSES = (
    (_model("group = 1", 4, (4, 4, 3, 3)), ""),
    (_model("group = 16", 16, (16, 1, 3, 3)), "already"),
    (_model("group = 2", 32, (32, 16, 1, 1)), "already"),
    (_model("group = 34", 68, (68, 2, 1, 1)), "times as much"),
    (_model("group = 2", 8, (8, 4, 3), "L"), "two axes"),
)
