"""Fold a per-channel affine operator into the convolutions that read it.

    conv(a * x + c, w)  =  conv(x, a * w) + sum over taps and channels of w * c

for an Add, Sub, Mul, Div or inference BatchNormalization before Conv, and its multiplication alone
before ConvTranspose. Refused when a shift c meets padding (a padded border is 0, not c) or a
ConvTranspose (border pixels receive fewer taps); when the operator widens its input; and unless
every reader of its output is a convolution that can take it, because the operator would then stay.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.affine import Affine, batchnorm, elementwise
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.rule import Refused, Rule, Site
from advconv_onnx.rewriter.walk import producer, varying

Plan = tuple[ir.Value, Convolution, Affine]


class FoldAffineForward(Rule[Plan]):
    """Conv(a * x + c) -> Conv(x)."""

    name = "fold_affine_forward"
    roots = frozenset(("Conv", "ConvTranspose"))

    def keeps(self, node: ir.Node) -> bool:
        return True  # The other readers are convolutions, whose turn comes.

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        y = root.inputs[0]
        element = producer(y, "Add", "Sub", "Mul", "Div", "BatchNormalization", graph=root.graph)
        x = varying(element)
        assert y is not None
        if y.is_graph_output():
            raise Refused(f"'{y.name}' is also an output of the graph")
        for reader, position in y.uses():
            if reader.op_type not in ("Conv", "ConvTranspose") or position != 0:
                raise Refused(f"'{y.name}' is also read by '{reader.name}' ({reader.op_type})")
            _read(element, x, reader)
        return Site((element, root), (x, *_read(element, x, root)))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, convolution, affine = plan
        weight = convolution.scale_input(affine.scale)
        bias = convolution.bias
        if affine.shift.any():
            bias = bias + convolution.response_to(affine.shift)
        return convolution.rebuild(op, x, weight, bias)


def _read(element: ir.Node, x: ir.Value, reader: ir.Node) -> tuple[Convolution, Affine]:
    convolution = Convolution.of(reader)
    if element.op_type == "BatchNormalization":
        affine = batchnorm(element)
    else:
        _check_not_widened(element, x, convolution)
        affine = elementwise(element, x, convolution.rank, convolution.in_channels)
    shifts = element.op_type not in ("Mul", "Div")
    if shifts and convolution.transposed:
        raise Refused("a shift before a ConvTranspose reaches border pixels through fewer taps")
    if shifts and convolution.is_padded:
        raise Refused("a shift before a padded convolution is missing in the padding")
    return convolution, affine


def _check_not_widened(node: ir.Node, x: ir.Value, convolution: Convolution) -> None:
    """A constant of one value and low rank never widens; others need to know the input's shape."""
    other = constant(node.inputs[1] if node.inputs[0] is x else node.inputs[0])
    if other is not None and other.size == 1 and other.ndim < convolution.rank:
        return
    if x.shape is None or len(x.shape) != convolution.rank:
        raise Refused(f"the rank of '{x.name}' is unknown, the constant might widen it")
    if x.shape[1] != convolution.in_channels:
        raise Refused(
            f"'{x.name}' has {x.shape[1]} channels and the convolution {convolution.in_channels}: "
            "the constant widens it"
        )


RULE = FoldAffineForward()


def _model(nodes: str, constants: str, channels: int = 2, outs: str = "float[N, 4, P, Q] z") -> str:
    weight = "float[4, 2, 1, 2] w = {1, -2, 3, 4, 5, -6, 7, 8, 1, 2, -3, 4, 5, 6, 7, -8}"
    return f"""<ir_version: 8, opset_import: ["" : 15]>
    g (float[N, {channels}, H, W] x) => ({outs}) <{weight}, {constants}> {{ {nodes} }}"""


_STATISTICS = """float[4] scale = {1.5, -2.0, 0.5, 3.0}, float[4] beta = {1.0, 0.0, -1.0, 2.0},
    float[4] mean = {0.5, -0.5, 2.0, 0.0}, float[4] variance = {1.0, 2.0, 0.25, 1e-8}"""
_NORMALIZE = "y = BatchNormalization(x, scale, beta, mean, variance)"

EXAMPLES = (
    _model("y = Sub(x, c) z = Conv(y, w)", "float[2, 1, 1] c = {2.5, -1}"),
    _model("y = Mul(c, x) z = Conv <pads = [1, 1, 1, 1]> (y, w)", "float c = {2.5}"),
    _model("y = Sub(c, x) z = Conv <strides = [2, 2]> (y, w)", "float[1] c = {2.5}"),
    _model(
        "y = Div(x, c) z = ConvTranspose <group = 2, strides = [2, 2]> (y, w)",
        "float[1, 4, 1, 1] c = {1, 2, -4, 8}",
        channels=4,
    ),
    _model(f"{_NORMALIZE} z = Conv <group = 2> (y, w)", _STATISTICS, channels=4),
    # Depthwise with a multiplier, one spatial axis, an old opset.
    """<ir_version: 4, opset_import: ["" : 9]> g (float[N, 2, L] x) => (float[N, 4, P] z)
    <float[4, 1, 2] w = {1, -2, 3, 4, 5, -6, 7, 8}, float[2, 1] c = {1, -2}> {
        y = Add(c, x)
        z = Conv <group = 2, dilations = [2], auto_pad = "VALID"> (y, w)
    }""",
)

NEAR_MISSES = (
    (_model("y = Sub(c, x) z = Conv <pads = [0, 0, 0, 1]> (y, w)", "float c = {0}"), "padding"),
    (_model("y = Add(x, c) z = Conv <pads = [0, 0, 0, 1]> (y, w)", "float c = {1}"), "padding"),
    (
        _model(
            'y = Sub(x, c) z = Conv <auto_pad = "SAME_UPPER"> (y, w)', "float[2, 1, 1] c = {1, 2}"
        ),
        "padding",
    ),
    (
        _model("y = Add(x, c) z = ConvTranspose(y, w)", "float c = {1}", channels=4),
        "fewer taps",
    ),
    # 1 -> 2 channels: the multiplication makes the second channel.
    (
        _model("y = Mul(x, c) z = Conv(y, w)", "float[1, 2, 1, 1] c = {1, 2}", channels=1),
        "widens",
    ),
    (_model("y = Mul(x, c) z = Conv(y, w)", "float[2] c = {1, 2}"), "one value per channel"),
    (
        _model(
            "y = Mul(x, c) z = Conv(y, w) v = Relu(y)", "float c = {2}", outs="float[] z, float[] v"
        ),
        "also read by",
    ),
    (
        _model("y = Mul(x, c) z = Conv(y, w)", "float c = {2}", outs="float[] z, float[] y"),
        "also an output",
    ),
    # The product is the weight of another convolution.
    (
        _model(
            "y = Mul(x, c) z = Conv(y, w) v = Conv(x, y)",
            "float c = {2}",
            outs="float[] z, float[] v",
        ),
        "also read by",
    ),
)
