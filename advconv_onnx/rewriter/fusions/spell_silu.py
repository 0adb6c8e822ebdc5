"""Spell SiLU as a product with Sigmoid.

    x / (1 + exp(-x))  =  Swish(x; alpha = 1)  =  x * Sigmoid(x)

ONNX Runtime recognizes the product and keeps it in its blocked layout after a convolution; the four
operators of the quotient pass over memory four times (1.3 to 3 times slower, measured), and it has
no kernel for Swish, which is brought back to the product. Refused for other constants and when an
intermediate value is read elsewhere.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.activations import one_plus_exp_of_minus
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site


class SpellSilu(Rule[ir.Value]):
    """x / (1 + exp(-x)) -> x * Sigmoid(x)."""

    name = "spell_silu"
    roots = frozenset(("Div", "Swish"))
    affine_in_weights = False

    def find(self, root: ir.Node, opset: int) -> Site[ir.Value]:
        x = root.inputs[0]
        if x is None:
            raise NoSite
        if root.op_type == "Swish":
            alpha = root.attributes.get_float("alpha", 1.0)
            if alpha != 1:
                raise Refused(f"Swish has alpha={alpha:g}")
            return Site((root,), x)
        exponent, nodes = one_plus_exp_of_minus(root.inputs[1], root.graph)
        if exponent is not x:
            raise NoSite
        return Site((*nodes, root), x)

    def rewrite(self, op: Builder, plan: ir.Value) -> ir.Value:
        return op.Mul(plan, op.Sigmoid(plan))


RULE = SpellSilu()


def _model(nodes: str, one: str = "1", opset: int = 14, out: str = "float[N, C, H, W] z") -> str:
    return f"""<ir_version: 10, opset_import: ["" : {opset}]>
    g (float[N, C, H, W] x, float[N, C, H, W] u) => ({out})
    <float[1] one = {{{one}}}, float minus = {{-1}}> {{ {nodes} }}"""


EXAMPLES = (
    _model("a = Neg(x) b = Exp(a) c = Add(b, one) z = Div(x, c)"),
    _model("a = Neg(x) b = Exp(a) c = Add(one, b) z = Div(x, c)", opset=9),
    _model("a = Mul(minus, x) b = Exp(a) c = Add(one, b) z = Div(x, c)"),
    _model("a = Neg(x) b = Exp(a) c = Sub(b, one) z = Div(x, c)", one="-1"),
    _model("z = Swish(x)", opset=24),
)

NEAR_MISSES = (
    (_model("a = Neg(x) b = Exp(a) c = Add(b, one) z = Div(x, c)", one="2"), "not 1"),
    (_model("z = Swish <alpha = 1.5> (x)", opset=24), "alpha=1.5"),
    (_model("a = Exp(x) b = Add(a, one) z = Div(x, b)"), ""),
    (_model("a = Neg(x) b = Exp(a) c = Sub(one, b) z = Div(x, c)"), ""),
    (_model("a = Neg(x) b = Exp(a) c = Add(b, one) z = Div(c, x)"), ""),
    (_model("a = Neg(u) b = Exp(a) c = Add(b, one) z = Div(x, c)"), ""),
    (
        _model("a = Neg(x) b = Exp(a) c = Add(b, one) z = Div(x, c)", out="float[] z, float[] c"),
        "also an output",
    ),
    (
        _model(
            "a = Neg(x) b = Exp(a) c = Add(b, one) z = Div(x, c) v = Sqrt(b)",
            out="float[] z, float[] v",
        ),
        "also read by",
    ),
)
