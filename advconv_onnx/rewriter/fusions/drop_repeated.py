"""Drop an operator that the one before it has made superfluous, or that takes it back.

    Relu(y)  =  Abs(y)  =  y      of a Relu, Abs, Sigmoid, Softplus, HardSigmoid, Exp or Softmax,
                                  which is never negative
    Floor(Ceil(x))  =  Ceil(x)    for any two of Floor, Ceil, Round
    Sign(Sign(x))  =  Sign(x)
    Not(Not(x))  =  Neg(Neg(x))  =  x

The first operator stays for other readers.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.rule import NoSite, Rule, Site
from advconv_onnx.rewriter.walk import producer

_WHOLE = {"Floor", "Ceil", "Round"}
_NEVER_NEGATIVE = {"Relu", "Abs", "Sigmoid", "Softplus", "HardSigmoid", "Exp", "Softmax"}
_SUPERFLUOUS_AFTER = {
    "Relu": _NEVER_NEGATIVE,
    "Abs": _NEVER_NEGATIVE,
    "Sign": {"Sign"},
    **dict.fromkeys(_WHOLE, _WHOLE),
}
_INVERSES = ("Not", "Neg")


class DropRepeated(Rule[ir.Node]):
    """Relu(Relu(x)) -> Relu(x)."""

    name = "drop_repeated"
    roots = frozenset((*_SUPERFLUOUS_AFTER, *_INVERSES))
    affine_in_weights = False

    def find(self, root: ir.Node, opset: int) -> Site[ir.Node]:
        first = producer(root.inputs[0], graph=root.graph)
        if first.op_type in _SUPERFLUOUS_AFTER.get(root.op_type, ()):
            # Both results are replaced, so that the proof sees what the first one makes.
            return Site((first, root), first, (first.outputs[0], root.outputs[0]))
        if root.op_type in _INVERSES and first.op_type == root.op_type:
            return Site((first, root), first)
        raise NoSite

    def rewrite(self, op: Builder, plan: ir.Node) -> ir.Value | Sequence[ir.Value]:
        x = plan.inputs[0]
        assert x is not None
        if plan.op_type in _INVERSES:
            return x
        same = op.node(plan.op_type, plan.inputs, dict(plan.attributes)).outputs[0]
        return same, same

    def keeps(self, node: ir.Node) -> bool:
        return True


RULE = DropRepeated()


def _model(nodes: str, more: str = "", x: str = "float", opset: int = 14) -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g ({x}[N, C] x) => ({x}[] z{more}) {{ {nodes} }}"""


EXAMPLES = (
    _model("y = Relu(x) z = Relu(y)"),
    _model("y = Abs(x) z = Relu(y)", opset=9),
    _model("y = HardSigmoid <alpha = 0.5> (x) z = Abs(y)"),
    _model("y = Softmax <axis = 1> (x) z = Relu(y)"),
    _model("y = Floor(x) z = Round(y)"),
    _model("y = Round(x) z = Ceil(y)"),
    _model("y = Sign(x) z = Sign(y)"),
    _model("y = Neg(x) z = Neg(y)"),
    _model("y = Neg(x) z = Neg(y)", x="int64"),
    _model("y = Not(x) z = Not(y)", x="bool"),
    _model("y = Sigmoid(x) z = Relu(y) v = Neg(y)", ", float[] v"),
    _model("y = Neg(x) z = Neg(y) v = Exp(y)", ", float[] v"),
    _model("y = Exp(x) z = Abs(y)", ", float[] y"),
)

NEAR_MISSES = (
    (_model("y = Relu(x) z = Neg(y)"), ""),
    (_model("y = Tanh(x) z = Relu(y)"), ""),
    (_model("y = Neg(x) z = Abs(y)"), ""),
    (_model("y = Sign(x) z = Floor(y)"), ""),
    (_model("y = HardSigmoid(x) z = Sign(y)"), ""),
    (_model("y = Sqrt(x) z = Relu(y)"), ""),
)
