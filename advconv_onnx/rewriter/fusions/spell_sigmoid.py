"""Spell a decomposed sigmoid as the operator Sigmoid.

    y / (1 + exp(-x))      =  y * Sigmoid(x)
    (1 + tanh(x / 2)) / 2  =  Sigmoid(x)

with a division or a Reciprocal. ONNX Runtime fuses Sigmoid into the convolution before it and is
otherwise faster by 1.6 to 1.9 too (measured), being one pass over memory instead of four. Refused
for other constants, types other than float, and when an intermediate value is read elsewhere; where
y is x itself it is a SiLU, the business of ``spell_silu``.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.activations import one_plus_exp_of_minus, require_float
from advconv_onnx.rewriter.builder import Builder, scaled
from advconv_onnx.rewriter.constants import constant, rank_of, scalar
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import factors, producer, shifted

Plan = tuple[ir.Value, ir.Value | None, float]


class SpellSigmoid(Rule[Plan]):
    """1 / (1 + exp(-x)) -> Sigmoid(x)."""

    name = "spell_sigmoid"
    roots = frozenset(("Div", "Reciprocal", "Mul"))
    affine_in_weights = False

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        try:
            site = _quotient(root)
        except NoSite:
            site = _tanh(root)
        require_float(site.plan[0])
        return site

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, y, factor = plan
        gate = op.Sigmoid(x)
        return scaled(op, gate, factor, x) if y is None else op.Mul(y, gate)


def _quotient(root: ir.Node) -> Site[Plan]:
    if root.op_type == "Mul":
        raise NoSite
    numerator = root.inputs[0] if root.op_type == "Div" else None
    x, nodes = one_plus_exp_of_minus(root.inputs[-1], root.graph)
    if numerator is x:
        raise NoSite
    if numerator is None:
        return Site((*nodes, root), (x, None, 1.0))
    number = scalar(numerator, rank_of(x))
    if number is None and constant(numerator) is not None:
        raise Refused("the numerator is a constant of many values")
    plan = (x, numerator, 1.0) if number is None else (x, None, number)
    return Site((*nodes, root), plan)


def _tanh(root: ir.Node) -> Site[Plan]:
    """(1 + tanh(x / 2)) / 2."""
    if root.op_type == "Reciprocal":
        raise NoSite
    outer = factors(root)
    if len(outer.values) != 1 or outer.scale != 0.5:
        raise NoSite
    value, one, add = shifted(outer.values[0], root.graph)
    tanh = producer(value, "Tanh", graph=root.graph)
    inner = factors(producer(tanh.inputs[0], "Mul", "Div", graph=root.graph))
    if one != 1 or len(inner.values) != 1 or inner.scale != 0.5:
        raise NoSite
    return Site((*inner.nodes, tanh, add, *outer.nodes), (inner.values[0], None, 1.0))


RULE = SpellSigmoid()


def _model(
    nodes: str, one: str = "1", type_: str = "float", out: str = "[N, C, H, W] z", opset: int = 13
) -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g ({type_}[N, C, H, W] x, {type_}[N, C, 1, 1] u) => ({type_}{out})
    <{type_} one = {{{one}}}, {type_} two = {{2}}, {type_} half = {{0.5}}, {type_} minus = {{-1}},
     {type_}[2] many = {{1, 1}}> {{ {nodes} }}"""


EXAMPLES = (
    _model("a = Neg(x) b = Exp(a) c = Add(b, one) z = Div(one, c)"),
    _model("a = Mul(x, minus) b = Exp(a) c = Add(one, b) z = Div(one, c)", opset=9),
    _model("a = Neg(x) b = Exp(a) c = Add(one, b) z = Reciprocal(c)"),
    _model("a = Neg(x) b = Exp(a) c = Add(one, b) z = Div(two, c)"),
    _model("a = Neg(x) b = Exp(a) c = Add(one, b) z = Div(u, c)"),
    _model("a = Neg(x) b = Exp(a) c = Add(one, b) d = Reciprocal(c) z = Mul(d, x)"),
    _model("a = Mul(x, half) b = Tanh(a) c = Add(one, b) z = Mul(c, half)"),
    _model("a = Div(x, two) b = Tanh(a) c = Add(b, one) z = Div(c, two)"),
)

NEAR_MISSES = (
    (_model("a = Neg(x) b = Exp(a) c = Add(b, one) z = Div(one, c)", "1.5"), "not 1"),
    (_model("b = Exp(x) c = Add(b, one) z = Div(one, c)"), ""),
    (_model("a = Mul(x, two) b = Exp(a) c = Add(b, one) z = Div(one, c)"), ""),
    (_model("a = Neg(x) b = Exp(a) c = Add(b, one) z = Div(c, one)"), ""),
    (_model("a = Neg(x) b = Exp(a) c = Add(b, one) z = Div(x, c)"), ""),
    (_model("a = Neg(x) b = Exp(a) c = Add(b, one) z = Div(many, c)", out="[] z"), "many values"),
    (_model("a = Neg(x) b = Exp(a) c = Add(b, one) z = Reciprocal(c)", type_="double"), "DOUBLE"),
    (_model("a = Mul(x, two) b = Tanh(a) c = Add(b, one) z = Mul(c, half)"), ""),
    (_model("a = Mul(x, half) b = Tanh(a) c = Add(b, two) z = Mul(c, half)"), ""),
    (
        _model("a = Neg(x) b = Exp(a) c = Add(b, one) z = Div(one, c)", out="[] z, float[] b"),
        "also an output",
    ),
)
