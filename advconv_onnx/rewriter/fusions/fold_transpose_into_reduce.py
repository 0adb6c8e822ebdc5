"""Reduce over the axes a Transpose has moved, without the Transpose.

    Reduce(Transpose(x; perm); axes, keepdims = 0)  =  Reduce(x; perm[axes], keepdims = 0)

where the axes that are left come in their old order: of an image whose channels are last, a mean
over height and width. Refused otherwise; a Transpose that something else reads stays for that.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.layout import given_axes, permutation
from advconv_onnx.rewriter.rule import NoSite, Rule, Site
from advconv_onnx.rewriter.walk import producer

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

Plan = tuple[ir.Node, ir.Value, list[int]]


class FoldTransposeIntoReduce(Rule[Plan]):
    """Reduce(Transpose(x)) -> Reduce(x)."""

    name = "fold_transpose_into_reduce"
    roots = frozenset(f"Reduce{name}" for name in _REDUCTIONS)
    affine_in_weights = False

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        transpose = producer(root.inputs[0], "Transpose", graph=root.graph)
        perm = permutation(transpose)
        axes = given_axes(root, 1, len(perm))
        if not axes or root.attributes.get_int("keepdims", 1) != 0:
            raise NoSite
        left = [axis for index, axis in enumerate(perm) if index not in axes]
        if left != sorted(left):
            raise NoSite
        x = transpose.inputs[0]
        assert x is not None
        return Site((transpose, root), (root, x, sorted(perm[axis] for axis in axes)))

    def keeps(self, node: ir.Node) -> bool:
        return node.op_type == "Transpose"

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        node, x, axes = plan
        if "axes" in node.attributes:
            return op.node(node.op_type, [x], {**node.attributes, "axes": axes}).outputs[0]
        given = op.initializer(np.array(axes, np.int64), "axes")
        return op.node(node.op_type, [x, given], dict(node.attributes)).outputs[0]


RULE = FoldTransposeIntoReduce()


def _model(nodes: str, out: str = "float[] z", opset: int = 18) -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, 4, H, W] x) => ({out}) <int64[2] a = {{1, -2}}, int64[1] b = {{1}}>
    {{ y = Transpose <perm = [0, 2, 3, 1]> (x) {nodes} }}"""


EXAMPLES = (
    _model("z = ReduceMean <keepdims = 0> (y, a)"),
    _model("z = ReduceMax <keepdims = 0, axes = [3]> (y)", opset=13),
    # The Transpose stays for another.
    _model("z = ReduceL2 <keepdims = 0> (y, a) v = Relu(y)", "float[] z, float[] v"),
)

NEAR_MISSES = (
    (_model("z = ReduceMean(y, a)"), ""),
    (_model("z = ReduceMean <keepdims = 0> (y, b)"), ""),
    (_model("z = ReduceSum <keepdims = 0> (y)"), ""),
    (_model("c = Abs(b) z = ReduceMean <keepdims = 0> (y, c)"), ""),
)
