"""Compose a convolution and the 1x1 convolution that reads it, where that saves work.

    conv1x1(conv(x, w) + b, v) + c  =  conv(x, v w) + v b + c

with (v w)[m] = sum over the channels n between of v[m, n] w[n]: exact everywhere, borders included,
because a 1x1 convolution without padding treats every pixel alike. Refused unless the composed
weights are fewer (they count the multiplications per pixel), for a padded, strided or grouped 1x1,
a grouped first convolution, and when something else reads the value between.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import producer

Plan = tuple[Convolution, Convolution]


class ComposePointwise(Rule[Plan]):
    """Conv1x1(Conv(x)) -> Conv(x)."""

    name = "compose_pointwise"
    roots = frozenset(("Conv",))

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        node = producer(root.inputs[0], "Conv", graph=root.graph)
        first, second = Convolution.of(node), Convolution.of(root)
        if any(size != 1 for size in second.weight.shape[2:]) or second.group != 1:
            raise NoSite
        strides = root.attributes.get_ints("strides", [1])
        if any(stride != 1 for stride in strides) or second.is_padded:
            raise Refused("the 1x1 convolution is strided or padded")
        if first.group != 1:
            raise Refused(f"the first convolution has {first.group} groups")
        before = first.weight.size + second.weight.size
        after = second.out_channels * (first.weight.size // first.out_channels)
        if after >= before:
            raise Refused(f"composed it would have {after} weights, more than the {before} of both")
        return Site((node, root), (first, second))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        first, second = plan
        matrix = second.weight.reshape(second.out_channels, -1).astype(np.float64)
        weight = np.tensordot(matrix, first.weight.astype(np.float64), axes=1)
        bias = matrix @ first.bias + second.bias
        return first.rebuild(op, first.x, weight, bias)


RULE = ComposePointwise()


def _model(nodes: str, constants: str, channels: int = 2, outs: str = "float[N, 2, P, Q] z") -> str:
    weight = "float[4, 2, 1, 2] w = {1, -2, 3, 4, 5, -6, 7, 8, 1, 2, -3, 4, 5, 6, 7, -8}"
    return f"""<ir_version: 8, opset_import: ["" : 15]>
    g (float[N, {channels}, H, W] x) => ({outs}) <{weight}, {constants}> {{ {nodes} }}"""


_V = "float[2, 4, 1, 1] v = {1, 2, -3, 4, 5, 6, 7, -8}"

EXAMPLES = (
    _model("y = Conv <pads = [1, 0, 1, 1]> (x, w) z = Conv(y, v)", _V),
    _model(
        "y = Conv <strides = [2, 1]> (x, w, b) z = Conv(y, v, c)",
        f"{_V}, float[4] b = {{1, 2, 3, 4}}, float[2] c = {{5, 6}}",
    ),
    """<ir_version: 8, opset_import: ["" : 15]> g (float[N, 1, L] x) => (float[N, 1, P] z)
    <float[3, 1, 2] w = {1, -2, 3, 4, 5, -6}, float[1, 3, 1] v = {1, 2, -3}> {
        y = Conv <auto_pad = "SAME_LOWER"> (x, w)
        z = Conv(y, v)
    }""",
)

NEAR_MISSES = (
    (_model("y = Conv(x, w) z = Conv <pads = [0, 0, 0, 1]> (y, v)", _V), "padded"),
    (_model("y = Conv(x, w) z = Conv <strides = [1, 2]> (y, v)", _V), "strided"),
    (_model("y = Conv <group = 2> (x, w) z = Conv(y, v)", _V, channels=4), "groups"),
    (
        _model("y = Conv(x, w) z = Conv(y, w2)", "float[1, 4, 2, 1] w2 = {1, 2, 3, 4, 5, 6, 7, 8}"),
        "",
    ),
    (
        _model(
            "y = Conv(x, u) z = Conv(y, v)",
            "float[1, 2, 1, 2] u = {1, 2, 3, 4}, float[4, 1, 1, 1] v = {1, 2, 3, 4}",
            outs="float[N, 4, P, Q] z",
        ),
        "more than",
    ),
    (
        _model("y = Conv(x, w) z = Conv(y, v) u = Relu(y)", _V, outs="float[] z, float[] u"),
        "also read by",
    ),
)
