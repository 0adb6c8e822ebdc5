"""Spell Mish with one exponential, for ONNX Runtime's CPU provider.

    Mish(x) = x * tanh(log(1 + e^x)) = x * w / (w + 2),   w = e^x (e^x + 2)

since tanh(log u) = (u^2 - 1) / (u^2 + 1) and (1 + e^x)^2 = 1 + w. The exponent is bounded by 40,
where the fraction is 1 to the last bit of float64 and w^2 still far from overflow in float32; for
negative x nothing cancels. ONNX Runtime expands Mish to Softplus and Tanh, of which Softplus alone
takes five times an exponential: 3 to 8 times slower than the fraction, measured. Other providers,
where each operator is a pass over memory, keep what they have. Refused for small tensors, types
other than float32, and when an intermediate value is read elsewhere.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.activations import require_elements
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import maker, operands, producer, shifted

_LARGEST_EXPONENT = 40.0
_LARGE = 1024

Plan = ir.Value


class SpellMish(Rule[Plan]):
    """x * Tanh(Softplus(x)) -> x * w / (w + 2)."""

    name = "spell_mish"
    roots = frozenset(("Mish", "Mul"))
    affine_in_weights = False
    minimum_opset = 11
    providers = frozenset(("cpu",))

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        x, above = (root.inputs[0], ()) if root.op_type == "Mish" else _product(root)
        if x is None:
            raise NoSite
        if x.dtype != ir.DataType.FLOAT:
            raise Refused(f"the type of '{x.name}' is {x.dtype or 'unknown'}")
        require_elements(x, _LARGE)
        return Site((*above, root), x)

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        largest = op.initializer(np.float32(_LARGEST_EXPONENT), "largest")
        two = op.initializer(np.float32(2), "two")
        power = op.Exp(op.Clip(plan, None, largest))
        w = op.Mul(power, op.Add(power, two))
        return op.Mul(plan, op.Div(w, op.Add(w, two)))


def _product(root: ir.Node) -> tuple[ir.Value, tuple[ir.Node, ...]]:
    """Read x * tanh(softplus(x)): x and the nodes above the root."""
    for x, gate in operands(root):
        tanh = maker(gate, "Tanh", graph=root.graph)
        if tanh is not None:
            argument, nodes = _softplus(tanh)
            if argument is x:
                return x, (*nodes, tanh)
    raise NoSite


def _softplus(tanh: ir.Node) -> tuple[ir.Value | None, tuple[ir.Node, ...]]:
    node = producer(tanh.inputs[0], "Softplus", "Log", graph=tanh.graph)
    if node.op_type == "Softplus":
        return node.inputs[0], (node,)
    power, one, add = shifted(node.inputs[0], tanh.graph)
    exp = producer(power, "Exp", graph=tanh.graph)
    if one != 1:
        raise NoSite
    return exp.inputs[0], (exp, add, node)


RULE = SpellMish()


def _model(nodes: str, x: str = "float[N, 8, H, W] x", opset: int = 18, out: str = "z") -> str:
    type_ = x.split("[")[0]
    outputs = ", ".join(f"{type_}[] {name}" for name in out.split())
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g ({x}, {type_}[N, 8, H, W] u) => ({outputs})
    <{type_} one = {{1}}, {type_} two = {{2}}> {{ {nodes} }}"""


EXAMPLES = (
    _model("a = Softplus(x) b = Tanh(a) z = Mul(x, b)"),
    _model("a = Softplus(x) b = Tanh(a) z = Mul(b, x)", "float[2, 16, 8, 8] x", 11),
    _model("e = Exp(x) p = Add(one, e) a = Log(p) b = Tanh(a) z = Mul(x, b)"),
    _model("z = Mish(x)"),
    _model("z = Mish(x)", "float[N, S, 32] x"),
)

NEAR_MISSES = (
    (_model("a = Softplus(x) b = Tanh(a) z = Mul(x, b)", "float[9, 8, 2, 3] x"), "fewer than"),
    (_model("z = Mish(x)", "double[N, 8, H, W] x"), "DOUBLE"),
    (_model("a = Softplus(u) b = Tanh(a) z = Mul(x, b)"), ""),
    (_model("a = Softplus(x) b = Sigmoid(a) z = Mul(x, b)"), ""),
    (_model("e = Exp(x) p = Add(two, e) a = Log(p) b = Tanh(a) z = Mul(x, b)"), ""),
    (_model("a = Softplus(x) b = Tanh(a) z = Add(x, b)"), ""),
    (_model("a = Softplus(x) b = Tanh(a) z = Mul(x, b)", out="z b"), "also an output"),
    (_model("a = Softplus(x) b = Tanh(a) z = Mul(x, b)", opset=9), "opset 11"),
)
