"""Spell a SiLU (swish) as x * Sigmoid(x).

    x / (1 + exp(-x))  =  Swish(x; alpha=1)  =  x * Sigmoid(x)

ONNX Runtime 1.32 fuses Mul(x, Sigmoid(x)) into one operator that stays in its blocked layout. It
has no kernel for opset 24's Swish, which it inlines with two Casts (a block with it takes 1.1 to
1.6 times as long, ``benchmarks/spellings.py``), so the pair is the canonical spelling, and Swish is
brought back to it. Refused for other constants and when an intermediate value is read elsewhere.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import producer, shifted


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
        power, one, add = shifted(root.inputs[1], root.graph)
        exp = producer(power, "Exp", graph=root.graph)
        negative = producer(exp.inputs[0], "Neg", graph=root.graph)
        if negative.inputs[0] is not x:
            raise NoSite
        if one != 1:
            raise Refused(f"the constant added to exp(-x) is {one:g}, not 1")
        return Site((negative, exp, add, root), x)

    def rewrite(self, op: Builder, plan: ir.Value) -> ir.Value:
        return op.Mul(plan, op.Sigmoid(plan))


RULE = SpellSilu()


def _model(nodes: str, one: str = "1", opset: int = 14) -> str:
    return f"""<ir_version: 10, opset_import: ["" : {opset}]>
    g (float[N, C, H, W] x) => (float[N, C, H, W] z) <float one = {{{one}}}> {{ {nodes} }}"""


EXAMPLES = (
    _model("a = Neg(x) b = Exp(a) c = Add(b, one) z = Div(x, c)"),
    _model("a = Neg(x) b = Exp(a) c = Add(one, b) d = Reciprocal(c) z = Mul(d, x)"),
    _model("z = Swish(x)", opset=24),
)

NEAR_MISSES = (
    (_model("a = Neg(x) b = Exp(a) c = Add(b, one) z = Div(x, c)", one="2"), "not 1"),
    (_model("z = Swish <alpha = 1.5> (x)", opset=24), "alpha=1.5"),
    (_model("a = Exp(x) b = Add(a, one) z = Div(x, b)"), ""),
)
