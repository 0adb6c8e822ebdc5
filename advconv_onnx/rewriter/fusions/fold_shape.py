"""Compute a shape expression whose numbers are known, though the shape is not known as a whole.

    Shape(x)  =  [1, 3, 224, 224]        Gather(Shape(x), 1)  =  3        where x is (N, 3, H, W)

through Gather, Slice, Concat, Squeeze, Unsqueeze, Reshape, Cast between integers, Add, Sub, Mul,
Div, Equal and Where. Where sizes are dynamic, equal ones and those compared with -1 are known too.
Refused silently while a number is not known.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.rule import NoSite, Rule, Site
from advconv_onnx.rewriter.shapes import EXPRESSIONS, numbers_of

Plan = np.ndarray


class FoldShape(Rule[Plan]):
    """Gather(Shape(x)) -> a constant."""

    name = "fold_shape"
    roots = EXPRESSIONS
    affine_in_weights = False
    needs_shapes = True

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        y = root.outputs[0]
        found = numbers_of(y, root.graph)
        if not found.is_known or y.dtype is None:
            raise NoSite
        shape = (len(found.items),) if found.rank else ()
        return Site(found.nodes, np.array(found.items, y.dtype.numpy()).reshape(shape))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        return op.initializer(plan, "shape")

    def keeps(self, node: ir.Node) -> bool:
        return True


RULE = FoldShape()


def _model(nodes: str, constants: str = "int64 one = {1}", x: str = "N, 3, H, W", **o: str) -> str:
    out, opset = o.get("out", "int64[] z"), o.get("opset", "13")
    return f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[{x}] x) => ({out})
    <{constants}> {{ {nodes} }}"""


EXAMPLES = (
    _model("z = Shape(x)", x="2, 3, 4"),
    _model("z = Shape <start = 1, end = -1> (x)", x="N, 3, 4, W", opset="15"),
    _model("z = Size(x)", x="2, 3, 4"),
    _model("s = Shape(x) z = Gather(s, one)", "int64 one = {1}"),
    _model("s = Shape(x) z = Gather(s, i)", "int64[2] i = {-3, 1}"),
    _model("s = Shape(x) z = Slice(s, b, e)", "int64[1] b = {1}, int64[1] e = {-2}"),
    _model("s = Shape(x) z = Slice <starts = [1], ends = [2]> (s)", opset="9"),
    _model("s = Shape(x) t = Cast <to = 6> (s) z = Gather(t, one)", out="int32[] z"),
    _model(
        "s = Shape(x) h = Slice(s, b, e) c = Concat <axis = 0> (h, b) z = Gather(c, one)",
        "int64 one = {1}, int64[1] b = {2}, int64[1] e = {3}",
    ),
    # The second operand of Equal lies below any size.
    _model("s = Shape(x) z = Equal(s, m)", "int64[1] m = {-1}", out="bool[] z"),
)

NEAR_MISSES = (
    (_model("z = Shape(x)"), ""),
    (_model("s = Shape(x) z = Gather(s, i)", "int64 i = {2}"), ""),
    (_model("s = Shape(x) z = Gather(s, i)", "int64 i = {9}"), ""),
    (_model("s = Shape(x) z = Equal(s, m)", "int64[1] m = {3}", out="bool[] z"), ""),
    (_model("z = Size(x)"), ""),
    (_model("z = Add(x, x)", out="float[] z"), ""),
)
