"""Run a Softmax over the last axis, where a Transpose brings its axis there anyway.

    Transpose(Softmax(x; axis = k); perm)  =  Softmax(Transpose(x; perm); axis = -1)

where perm ends in k, for Softmax and LogSoftmax since opset 13: ONNX Runtime transposes a strided
axis to the end and back around a Softmax, and then once more. Refused for another last axis, and
when something else reads the Softmax.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.layout import permutation
from advconv_onnx.rewriter.rule import NoSite, Rule, Site
from advconv_onnx.rewriter.softmax import ONE_AXIS
from advconv_onnx.rewriter.walk import producer

Plan = tuple[ir.Node, tuple[int, ...]]


class SpellSoftmaxLast(Rule[Plan]):
    """Transpose(Softmax(x)) -> Softmax(Transpose(x))."""

    name = "spell_softmax_last"
    roots = frozenset(("Transpose",))
    affine_in_weights = False

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        node = producer(root.inputs[0], "Softmax", "LogSoftmax", graph=root.graph)
        perm = permutation(root)
        axis = node.attributes.get_int("axis", -1) % len(perm)
        if opset < ONE_AXIS or axis != perm[-1] or perm[-1] == len(perm) - 1:
            raise NoSite
        return Site((node, root), (node, perm))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        node, perm = plan
        moved = op.Transpose(node.inputs[0], perm=perm)
        return op.node(node.op_type, [moved], {"axis": -1}).outputs[0]


RULE = SpellSoftmaxLast()


def _model(nodes: str, out: str = "float[] z", opset: int = 13) -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, 4, H, W] x) => ({out}) {{ {nodes} }}"""


EXAMPLES = (
    _model("y = Softmax <axis = 1> (x) z = Transpose <perm = [0, 2, 3, 1]> (y)"),
    _model("y = LogSoftmax <axis = -2> (x) z = Transpose <perm = [3, 1, 0, 2]> (y)", opset=18),
)

NEAR_MISSES = (
    (_model("y = Softmax <axis = 1> (x) z = Transpose <perm = [1, 2, 3, 0]> (y)"), ""),
    (_model("y = Softmax(x) z = Transpose <perm = [0, 1, 2, 3]> (y)"), ""),
    (_model("y = Softmax <axis = 1> (x) z = Transpose <perm = [0, 2, 3, 1]> (y)", opset=12), ""),
    (
        _model(
            "y = Softmax <axis = 1> (x) z = Transpose <perm = [0, 2, 3, 1]> (y)",
            "float[] z, float[] y",
        ),
        "also an output",
    ),
)
