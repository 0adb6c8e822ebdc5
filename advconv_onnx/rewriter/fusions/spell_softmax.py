"""Spell a decomposed Softmax over the last axis as the operator.

    exp(x - max(x)) / sum(exp(x - max(x)))  =  exp(x) / sum(exp(x))  =  Softmax(x; axis = last)

with a Div, or a Mul by the Reciprocal of the sum. In ONNX Runtime the operator is 1.2 to 2.1 times
faster than the spelling (measured), and does not overflow where no maximum was subtracted. Refused
for another axis than the last, where ONNX Runtime would transpose, and when the rank is unknown,
types are not float, or an intermediate value is read elsewhere.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.activations import require_float
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import rank_of
from advconv_onnx.rewriter.layout import given_axes
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import maker, operands, producer

Plan = tuple[ir.Value, int]
Nodes = tuple[ir.Node, ...]


class SpellSoftmax(Rule[Plan]):
    """Exp(x) / ReduceSum(Exp(x)) -> Softmax(x)."""

    name = "spell_softmax"
    roots = frozenset(("Div", "Mul"))
    affine_in_weights = False

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        exp, total, inverse = _quotient(root)
        if total.inputs[0] is not exp.outputs[0]:
            raise NoSite
        y = exp.inputs[0]
        if y is None:
            raise NoSite
        rank = rank_of(y)
        if rank is None:
            raise Refused(f"the rank of '{y.name}' is unknown")
        _check_last_axis(total, rank)
        x, above = _without_maximum(y, rank, root.graph)
        require_float(x)
        return Site((*above, exp, total, *inverse, root), (x, rank - 1))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, axis = plan
        return op.Softmax(x, axis=axis)


def _quotient(root: ir.Node) -> tuple[ir.Node, ir.Node, Nodes]:
    """The Exp, the ReduceSum it is divided by, and the Reciprocal between them."""
    if root.op_type == "Div":
        exp = producer(root.inputs[0], "Exp", graph=root.graph)
        return exp, producer(root.inputs[1], "ReduceSum", graph=root.graph), ()
    for first, second in operands(root):
        exp_or_none = maker(first, "Exp", graph=root.graph)
        inverse = maker(second, "Reciprocal", graph=root.graph)
        if exp_or_none is not None and inverse is not None:
            total = producer(inverse.inputs[0], "ReduceSum", graph=root.graph)
            return exp_or_none, total, (inverse,)
    raise NoSite


def _check_last_axis(reduction: ir.Node, rank: int) -> None:
    if not reduction.attributes.get_int("keepdims", 1):
        raise NoSite
    axes = given_axes(reduction, 1, rank)
    if axes != [rank - 1]:
        raise Refused(f"the axes are {axes}, not the last one")


def _without_maximum(y: ir.Value, rank: int, graph: ir.Graph | None) -> tuple[ir.Value, Nodes]:
    """Read ``x - max(x)``: x and the nodes; y itself where it is something else."""
    difference = maker(y, "Sub", graph=graph)
    if difference is None or difference.inputs[0] is None:
        return y, ()
    maximum = maker(difference.inputs[1], "ReduceMax", graph=graph)
    if maximum is None or maximum.inputs[0] is not difference.inputs[0]:
        return y, ()
    _check_last_axis(maximum, rank)
    return difference.inputs[0], (maximum, difference)


RULE = SpellSoftmax()


def _model(nodes: str, opset: int = 18, x: str = "float[N, 4, S] x", out: str = "z") -> str:
    type_ = x.split("[")[0]
    outputs = ", ".join(f"{type_}[] {name}" for name in out.split())
    return f"""<ir_version: 8, opset_import: ["" : {opset}]> g ({x}) => ({outputs})
    <int64[1] last = {{-1}}, int64[1] one = {{1}}, int64[2] two = {{1, 2}}> {{ {nodes} }}"""


_OLD = """m = ReduceMax <axes = [-1]> (x) d = Sub(x, m) e = Exp(d) s = ReduceSum <axes = [2]> (e)
z = Div(e, s)"""

EXAMPLES = (
    _model("m = ReduceMax(x, last) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, last) z = Div(e, s)"),
    _model("e = Exp(x) s = ReduceSum(e, last) z = Div(e, s)", opset=13),
    _model("e = Exp(x) s = ReduceSum(e, last) r = Reciprocal(s) z = Mul(r, e)"),
    _model("e = Exp(x) s = ReduceSum(e, one) z = Div(e, s)", x="float[N, 4] x"),
    _model(_OLD, opset=11),
)

NEAR_MISSES = (
    (_model("e = Exp(x) s = ReduceSum(e, one) z = Div(e, s)"), "not the last"),
    (_model("e = Exp(x) s = ReduceSum(e, two) z = Div(e, s)"), "not the last"),
    (_model("e = Exp(x) s = ReduceSum(e) z = Div(e, s)"), "not the last"),
    (
        _model(
            "m = ReduceMax(x, one) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, last) z = Div(e, s)"
        ),
        "not the last",
    ),
    (_model("e = Exp(x) s = ReduceSum <keepdims = 0> (e, last) z = Div(e, s)"), ""),
    (_model("e = Exp(x) s = ReduceSum(x, last) z = Div(e, s)"), ""),
    (_model("e = Exp(x) s = ReduceSum(e, last) z = Div(s, e)"), ""),
    (_model("e = Exp(x) s = ReduceSum(e, last) z = Div(e, s)", x="double[N, 4] x"), "DOUBLE"),
    (_model("e = Exp(x) s = ReduceSum(e, last) z = Div(e, s)", out="z s"), "also an output"),
)
