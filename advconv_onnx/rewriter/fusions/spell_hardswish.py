"""Spell a decomposed hard-swish as the operator HardSwish (opset 14).

    x * clip(x + 3, 0, 6) / 6  =  x * HardSigmoid(x; 1/6, 1/2)  =  HardSwish(x)

in every order and grouping of the factors, the division by 6 also as a multiplication by 1/6; with
another factor than 1/6, which a convolution may have taken already, HardSwish(x) is scaled. ONNX
Runtime fuses HardSwish into the convolution before it; the four element-wise operators leave its
blocked layout and pass over memory four times. Refused when the constants are others or could widen
x, and when an intermediate value is read elsewhere.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder, scaled
from advconv_onnx.rewriter.constants import rank_of, scalar
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import factors, input_of, maker, shifted

_TOLERANCE = 1e-6
"""Relative: 1/6 is not exact in float32, and exporters round it differently."""


Plan = tuple[ir.Value, float]


class SpellHardswish(Rule[Plan]):
    """x * clip(x + 3, 0, 6) / 6 -> HardSwish(x)."""

    name = "spell_hardswish"
    roots = frozenset(("Mul", "Div"))
    affine_in_weights = False
    minimum_opset = 14

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        product = factors(root)
        if len(product.values) != 2:
            raise NoSite
        for x, gate in (product.values, product.values[::-1]):
            node = maker(gate, "Clip", "HardSigmoid", graph=root.graph)
            if node is None:
                continue
            if node.op_type == "Clip":
                y, shift, add = shifted(node.inputs[0], root.graph)
                if y is x:
                    _check_clip(node, shift)
                    return Site((add, node, *product.nodes), (x, 6 * product.scale))
            elif node.inputs[0] is x:
                _check_sigmoid(node)
                return Site((node, *product.nodes), (x, product.scale))
        raise NoSite

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, factor = plan
        return scaled(op, op.HardSwish(x), 1 if _close(factor, 1) else factor, x)


def _check_clip(clip: ir.Node, shift: float) -> None:
    found = (shift, *_bounds(clip))
    if found != (3.0, 0.0, 6.0):
        raise Refused(f"shift and bounds are {found}, not 3, 0 and 6")


def _check_sigmoid(sigmoid: ir.Node) -> None:
    attributes = sigmoid.attributes
    alpha, beta = attributes.get_float("alpha", 0.2), attributes.get_float("beta", 0.5)
    if not _close(alpha, 1 / 6) or not _close(beta, 0.5):
        raise Refused(f"HardSigmoid has alpha={alpha:g}, beta={beta:g}")


def _bounds(clip: ir.Node) -> tuple[float | None, float | None]:
    if len(clip.inputs) == 1:  # attributes, before opset 11
        return clip.attributes.get_float("min", None), clip.attributes.get_float("max", None)
    assert clip.inputs[0] is not None
    rank = rank_of(clip.inputs[0])
    return scalar(input_of(clip, 1), rank), scalar(input_of(clip, 2), rank)


def _close(found: float, wanted: float) -> bool:
    return math.isclose(found, wanted, rel_tol=_TOLERANCE)


RULE = SpellHardswish()


def _model(nodes: str, six: str = "6", opset: int = 14, out: str = "float[N, C, H, W] z") -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, C, H, W] x) => ({out})
    <float three = {{3}}, float lo = {{0}}, float hi = {{6}}, float[1] six = {{{six}}}>
    {{ {nodes} }}"""


EXAMPLES = (
    _model("a = Add(x, three) b = Clip(a, lo, hi) c = Mul(x, b) z = Div(c, six)"),
    _model("a = Add(three, x) b = Clip(a, lo, hi) c = Mul(six, b) z = Mul(c, x)", "0.16666667"),
    _model("a = Add(x, three) b = Clip(a, lo, hi) c = Div(x, six) z = Mul(c, b)"),
    _model("b = HardSigmoid <alpha = 0.16666667> (x) z = Mul(b, x)"),
    _model("a = Add(x, three) b = Clip(a, lo, hi) c = Mul(x, b) z = Div(c, six)", "5"),
    _model("a = Add(x, three) b = Clip(a, lo, hi) z = Mul(x, b)"),
)

NEAR_MISSES = (
    (_model("a = Add(x, lo) b = Clip(a, lo, hi) c = Mul(x, b) z = Div(c, six)"), "not 3"),
    (_model("a = Add(x, three) b = Clip(a, , hi) c = Mul(x, b) z = Div(c, six)"), "not 3"),
    (_model("b = HardSigmoid(x) z = Mul(b, x)"), "alpha=0.2"),
    (
        _model(
            "a = Add(x, three) b = Clip(a, lo, hi) c = Mul(x, b) z = Div(c, six) v = Relu(b)",
            out="float[N, C, H, W] z, float[N, C, H, W] v",
        ),
        "also read by",
    ),
    (
        _model("a = Add(x, three) b = Clip(a, lo, hi) c = Mul(x, b) z = Div(c, six)", opset=13),
        "opset 14",
    ),
    # Bounds as attributes: waits for a newer opset.
    (
        _model(
            "a = Add(x, three) b = Clip <min = 0.0, max = 6.0> (a) c = Mul(x, b) z = Div(c, six)",
            opset=9,
        ),
        "opset 14",
    ),
    (
        _model(
            "a = Add(x, three) b = Clip <min = 0.0, max = 5.0> (a) c = Mul(x, b) z = Div(c, six)",
            opset=9,
        ),
        "not 3",
    ),
)
