"""Spell a ConvTranspose without strides as the Conv it is, where ONNX Runtime's Conv is faster.

    conv_transpose(x, w, pads=p)  =  conv(x, w', pads=d * (k - 1) - p)

with w' = w flipped along every spatial axis, its two channel axes swapped within each group, for
any group and dilation d. Refused where a pad would become negative, for ``output_shape``,
``output_padding`` and ``auto_pad`` SAME, whose meaning runtimes do not agree about, where padding
makes the output much larger than the input, and where the Conv is slower: it is 3 times as fast
for depthwise kernels and 1.2 to 1.5 times for channels that fill blocks of the layout that ONNX
Runtime uses for Conv only, but takes up to 4 times as long where they do not
(``benchmarks/structures.py``).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.blocked import BLOCKED_RANK, WIDEST_BLOCK, fills_blocks
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.sliding import Sliding
from advconv_onnx.rewriter.walk import input_of

Plan = tuple[Convolution, Sliding]

_MOST_GROWTH = 2
"""Cells by which the output may exceed the input: an 8x8 image that grows by 4 is 0.76 as fast."""

_LEAST_BLOCK = 8
"""Fewer input channels are read as they are."""


class ConvOfTransposed(Rule[Plan]):
    """ConvTranspose(x) -> Conv(x)."""

    name = "conv_of_transposed"
    roots = frozenset(("ConvTranspose",))

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        if any(stride != 1 for stride in root.attributes.get_ints("strides", [1])):
            raise NoSite
        convolution = Convolution.of(root)
        for name in ("output_padding", "output_shape"):
            if any(root.attributes.get_ints(name, [])):
                raise Refused(f"the ConvTranspose has an {name}")
        sliding = Sliding.of(convolution)
        pads = (*sliding.begins, *sliding.ends)
        if any(pad > span for pad, span in zip(pads, sliding.spans * 2, strict=True)):
            raise Refused("the Conv's pads would be negative")
        # The roles of pads and taps are exchanged: what is not padded here adds to the output.
        if any(growth < -_MOST_GROWTH for growth in sliding.growth):
            raise Refused("the output is much larger than the input, where a Conv is slower")
        _check_fast_path(convolution)
        return Site((root,), (convolution, sliding))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        convolution, sliding = plan
        spatial = tuple(range(2, convolution.rank))
        blocks = convolution.blocks(convolution.group)
        weight = np.flip(blocks.reshape(-1, *blocks.shape[2:]), spatial)
        spans = sliding.spans
        attributes = sliding.attributes | {
            "group": convolution.group,
            "pads": [
                span - pad
                for pad, span in zip((*sliding.begins, *sliding.ends), spans * 2, strict=True)
            ],
        }
        old = convolution.node.inputs[1]
        name = (old.name if old else None) or "weight"
        new = op.initializer(weight.astype(convolution.weight.dtype), name)
        return op.Conv(convolution.x, new, input_of(convolution.node, 2), **attributes)


def _check_fast_path(convolution: Convolution) -> None:
    """Refuse where the Conv is slower than the ConvTranspose, as far as was measured."""
    group = convolution.group
    inputs, outputs = convolution.in_channels // group, convolution.out_channels // group
    if convolution.rank != BLOCKED_RANK:
        if outputs < inputs:
            raise Refused("the Conv is slower where it has fewer outputs than inputs")
        return
    fits = outputs % WIDEST_BLOCK == 0 and (inputs < _LEAST_BLOCK or inputs % 4 == 0)
    if not (fills_blocks(inputs, outputs) or (group == 1 and fits)):
        raise Refused("the channels do not fill blocks of the Conv, which is then slower")


RULE = ConvOfTransposed()


def _model(
    attributes: str,
    weight: tuple[int, ...],
    bias: bool = False,
    spatial: str = "H, W",
    opset: int = 15,
) -> str:
    numbers = ", ".join(str(n % 7 - 3) for n in range(int(np.prod(weight))))
    group = 1 if "group" not in attributes else int(attributes.split("group = ")[1].split(",")[0])
    outputs = weight[1] * group
    given = f", float[{outputs}] b = {{{', '.join(map(str, range(outputs)))}}}" if bias else ""
    shape = ", ".join(map(str, weight))
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, {weight[0]}, {spatial}] x) => (float[] z)
    <float[{shape}] w = {{{numbers}}}{given}> {{
        z = ConvTranspose <{attributes}> (x, w{", b" * bias})
    }}"""


EXAMPLES = (
    _model("pads = [1, 1, 1, 1]", (4, 16, 3, 3)),
    _model("pads = [0, 1, 2, 0]", (3, 16, 3, 2), bias=True),
    _model("strides = [1, 1], kernel_shape = [3, 3]", (4, 16, 3, 3), bias=True),
    _model("dilations = [2, 1], pads = [2, 1, 3, 1]", (4, 16, 3, 3)),
    _model("pads = [1, 0, 0, 1], group = 4, dilations = [1, 1]", (4, 1, 2, 3), bias=True),
    _model("group = 2, pads = [1, 0, 1, 0]", (32, 16, 3, 1)),
    _model('auto_pad = "VALID"', (2, 16, 2, 2)),
    _model("pads = [0, 0, 0, 0]", (2, 16, 1, 1)),
    # One and three spatial axes, an old opset.
    _model("dilations = [2], pads = [1, 3]", (4, 16, 3), spatial="L", opset=9),
    _model("group = 2, pads = [0, 1, 0, 1, 1, 0]", (2, 1, 2, 3, 1), spatial="D, H, W"),
)

NEAR_MISSES = (
    (_model("strides = [2, 1]", (4, 16, 3, 3)), ""),
    (_model("pads = [3, 0, 0, 0]", (4, 16, 3, 3)), "negative"),
    (_model("output_padding = [1, 0], dilations = [2, 2]", (4, 16, 3, 3)), "output_padding"),
    (_model("output_shape = [9, 9]", (4, 16, 3, 3)), "output_shape"),
    (_model('auto_pad = "SAME_UPPER"', (4, 16, 3, 3)), "auto_pad"),
    (_model("pads = [0, 0, 0, 0]", (4, 16, 5, 5)), "much larger"),
    (_model("pads = [1, 1, 1, 1]", (4, 12, 3, 3)), "blocks"),
    (_model("pads = [1, 1, 1, 1]", (9, 16, 3, 3)), "blocks"),
    (_model("group = 2, pads = [1, 1, 1, 1]", (8, 8, 3, 3)), "blocks"),
    (_model("pads = [1, 1, 1, 1]", (8, 8, 3, 3)), "blocks"),
    (_model("pads = [1, 1]", (4, 2, 3), spatial="L"), "fewer outputs"),
    (
        """<ir_version: 8, opset_import: ["" : 15]>
        g (float[N, 4, H, W] x, float[4, 16, 3, 3] w) => (float[] z) { z = ConvTranspose(x, w) }""",
        "weight is not constant",
    ),
)
