"""Take a residual around a gate into the gate.

    x + x * g  =  x * (g + 1)

where the gate g, as in squeeze-and-excite blocks, has one value per channel: the addition then runs
over C values and not over C * H * W. Refused unless g is known to have size 1 in every spatial axis
(otherwise nothing is saved), and when x * g is read elsewhere.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import maker, operands

Plan = tuple[ir.Value, ir.Value]


class FactorGate(Rule[Plan]):
    """x + x * g -> x * (g + 1)."""

    name = "factor_gate"
    roots = frozenset(("Add",))

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        for x, gated in operands(root):
            product = maker(gated, "Mul", graph=root.graph)
            if product is not None and x in product.inputs:
                gate = product.inputs[1 if product.inputs[0] is x else 0]
                assert gate is not None
                _check(x, gate)
                return Site((product, root), (x, gate))
        raise NoSite

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, gate = plan
        assert gate.dtype is not None
        one = op.initializer(np.ones((), gate.dtype.numpy()), "one")
        return op.Mul(x, op.Add(gate, one))


def _check(x: ir.Value, gate: ir.Value) -> None:
    if constant(gate) is not None:
        raise NoSite  # A chain of constants, which merge_constants reads.
    if gate.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE):
        raise Refused(f"the type of '{gate.name}' is {gate.dtype}")
    if x.shape is None or gate.shape is None or len(x.shape) != len(gate.shape):
        raise Refused(f"the shapes of '{x.name}' and '{gate.name}' are not known to fit")
    if len(x.shape) < 3 or any(size != 1 for size in gate.shape[2:]):
        raise Refused(f"'{gate.name}' is not one value per channel")
    for mine, theirs in zip(gate.shape[:2], x.shape[:2], strict=True):
        if mine != 1 and mine != theirs:
            raise Refused(f"'{gate.name}' might widen '{x.name}'")


RULE = FactorGate()


def _model(nodes: str, gate: str = "float[N, 3, 1, 1] g") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 13]>
    g (float[N, 3, H, W] x, {gate}) => (float[N, 3, H, W] z) <float[1, 1, 1, 1] c = {{2}}>
    {{ {nodes} }}"""


EXAMPLES = (
    _model("a = Mul(x, g) z = Add(x, a)"),
    _model("a = Mul(g, x) z = Add(a, x)", "float[1, 3, 1, 1] g"),
)

NEAR_MISSES = (
    (_model("a = Mul(x, g) z = Add(x, a)", "float[N, 3, H, W] g"), "one value per channel"),
    (_model("a = Mul(x, g) z = Add(x, a)", "float[M, 3, 1, 1] g"), "might widen"),
    (_model("a = Mul(x, g) z = Add(g, a)"), "one value per channel"),
    (_model("a = Mul(x, c) z = Add(x, a)"), ""),
)
