"""Fold an inference BatchNormalization into the convolution before it.

    s * (conv(x, w) + b - mean) + beta  =  conv(x, s * w) + s * (b - mean) + beta,
    s = scale / sqrt(variance + epsilon), one value per output channel

for Conv and ConvTranspose, any group. Refused in training mode, when statistics or weights are not
constant, when something else reads the convolution's output, and when a weight would overflow.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.affine import Affine, batchnorm
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.rule import Rule, Site
from advconv_onnx.rewriter.walk import producer

Plan = tuple[Convolution, Affine]


class FoldBatchnorm(Rule[Plan]):
    """BatchNormalization(Conv(x)) -> Conv(x)."""

    name = "fold_batchnorm"
    roots = frozenset(("BatchNormalization",))

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        node = producer(root.inputs[0], "Conv", "ConvTranspose", graph=root.graph)
        return Site((node, root), (Convolution.of(node), batchnorm(root)))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        convolution, affine = plan
        return convolution.rebuild_scaled(op, affine.scale, affine.shift)


RULE = FoldBatchnorm()

_STATISTICS = """
    float[4] scale = {1.5, -2.0, 0.5, 3.0}, float[4] beta = {1.0, 0.0, -1.0, 2.0},
    float[4] mean = {0.5, -0.5, 2.0, 0.0}, float[4] variance = {1.0, 2.0, 0.25, 1e-8}
"""
_WEIGHT = "float[4, 2, 1, 2] w = {1, -2, 3, 4, 5, -6, 7, 8, 1, 2, -3, 4, 5, 6, 7, -8}"

EXAMPLES = (
    f"""<ir_version: 8, opset_import: ["" : 15]>
    g (float[N, 2, H, W] x) => (float[N, 4, P, Q] z) <{_WEIGHT}, {_STATISTICS}> {{
        y = Conv <strides = [2, 1], pads = [0, 1, 1, 0]> (x, w)
        z = BatchNormalization <epsilon = 0.001> (y, scale, beta, mean, variance)
    }}""",
    f"""<ir_version: 8, opset_import: ["" : 15]>
    g (float[N, 4, H, W] x) => (float[N, 4, P, Q] z)
    <float[4] b = {{1, 2, 3, 4}}, {_WEIGHT}, {_STATISTICS}> {{
        y = Conv <group = 2, dilations = [1, 2]> (x, w, b)
        z = BatchNormalization (y, scale, beta, mean, variance)
    }}""",
    f"""<ir_version: 8, opset_import: ["" : 15]>
    g (float[N, 4, H, W] x) => (float[N, 4, P, Q] z)
    <float[4] b = {{1, 2, 3, 4}}, {_WEIGHT}, {_STATISTICS}> {{
        y = ConvTranspose <group = 2, strides = [2, 2]> (x, w, b)
        z = BatchNormalization (y, scale, beta, mean, variance)
    }}""",
    f"""<ir_version: 4, opset_import: ["" : 9]>
    g (float[N, 2, L] x) => (float[N, 4, P] z)
    <float[4, 1, 2] w = {{1, -2, 3, 4, 5, -6, 7, 8}}, {_STATISTICS}> {{
        y = Conv <group = 2, auto_pad = "SAME_UPPER"> (x, w)
        z = BatchNormalization <momentum = 0.1> (y, scale, beta, mean, variance)
    }}""",
)

NEAR_MISSES = (
    (
        f"""<ir_version: 8, opset_import: ["" : 15]>
        g (float[N, 2, H, W] x) => (float[N, 4, P, Q] z) <{_WEIGHT}, {_STATISTICS}> {{
            y = Conv (x, w)
            z = BatchNormalization <training_mode = 1> (y, scale, beta, mean, variance)
        }}""",
        "training mode",
    ),
    (
        f"""<ir_version: 8, opset_import: ["" : 15]>
        g (float[N, 2, H, W] x) => (float[N, 4, P, Q] z, float[N, 4, P, Q] v)
        <{_WEIGHT}, {_STATISTICS}> {{
            y = Conv (x, w)
            z = BatchNormalization (y, scale, beta, mean, variance)
            v = Relu(y)
        }}""",
        "also read by",
    ),
    (
        f"""<ir_version: 8, opset_import: ["" : 15]>
        g (float[N, 2, H, W] x, float[4, 2, 1, 2] w) => (float[N, 4, P, Q] z) <{_STATISTICS}> {{
            y = Conv (x, w)
            z = BatchNormalization (y, scale, beta, mean, variance)
        }}""",
        "weight is not constant",
    ),
    (
        f"""<ir_version: 4, opset_import: ["" : 9]>
        g (float[N, 2, H, W] x) => (float[N, 4, P, Q] z) <{_WEIGHT}, {_STATISTICS}> {{
            y = Conv (x, w)
            z, m, v, sm, sv = BatchNormalization (y, scale, beta, mean, variance)
        }}""",
        "training mode",
    ),
    (
        f"""<ir_version: 8, opset_import: ["" : 15]>
        g (float[N, 2, H, W] x, float[4] s) => (float[N, 4, P, Q] z) <{_WEIGHT}, {_STATISTICS}> {{
            y = Conv (x, w)
            z = BatchNormalization (y, s, beta, mean, variance)
        }}""",
        "scale is not constant",
    ),
)
