"""Drop casts of sizes to int32 and back.

    Cast(Slice(Cast(Shape(x), to int32)), to int64)  =  Slice(Shape(x))

through Slice, Gather, Squeeze, Unsqueeze and Reshape, for numbers that are sizes: no dimension
comes near the limit of int32. Paddle writes shapes so. The first Cast stays for other readers.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.layout import cast_type
from advconv_onnx.rewriter.rule import NoSite, Rule, Site
from advconv_onnx.rewriter.shapes import numbers_of
from advconv_onnx.rewriter.walk import producer

_MOVING = ("Slice", "Gather", "Squeeze", "Unsqueeze", "Reshape")
_DEEPEST = 8

Plan = tuple[ir.Node, ...]


class DropShapeCast(Rule[Plan]):
    """Cast(Slice(Cast(x))) -> Slice(x)."""

    name = "drop_shape_cast"
    roots = frozenset(("Cast",))
    affine_in_weights = False
    needs_shapes = True
    minimum_opset = 6  # before, types were spelled as text

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        chain = _chain(root)
        sizes = chain[0].inputs[0]
        found = numbers_of(sizes, root.graph)
        # Sizes that were read, or computed to be so; nothing that an operator has made of them.
        if not found.nodes or None in found.items or any(_is_negative(n) for n in found.items):
            raise NoSite
        return Site(tuple(chain), tuple(chain[:-1]))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        value = plan[0].inputs[0]
        assert value is not None
        for node in plan[1:]:
            inputs = (value, *node.inputs[1:])
            value = op.node(node.op_type, inputs, dict(node.attributes)).outputs[0]
        return value

    def keeps(self, node: ir.Node) -> bool:
        return node.op_type not in _MOVING or node.outputs[0].dtype != ir.DataType.INT32


def _is_negative(number: object) -> bool:
    return isinstance(number, int) and number < 0


def _chain(root: ir.Node) -> list[ir.Node]:
    """From the Cast to int32 to the one to int64."""
    if cast_type(root) != ir.DataType.INT64:
        raise NoSite
    chain = [root]
    while len(chain) < _DEEPEST:
        node = producer(chain[0].inputs[0], "Cast", *_MOVING, graph=root.graph)
        chain.insert(0, node)
        if node.op_type == "Cast":
            x = node.inputs[0]
            if cast_type(node) != ir.DataType.INT32 or x is None or x.dtype != ir.DataType.INT64:
                break
            return chain
    raise NoSite


RULE = DropShapeCast()


def _model(nodes: str, out: str = "int64[] z") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 13]>
    g (float[N, C, H, 7] x, int64[4] k) => ({out})
    <int64[1] one = {{1}}, int64[1] two = {{2}}, int64 i = {{2}}> {{ s = Shape(x) {nodes} }}"""


_TO_32, _TO_64 = "Cast <to = 6>", "Cast <to = 7>"

EXAMPLES = (
    _model(f"c = {_TO_32} (s) d = Slice(c, one, two) z = {_TO_64} (d)"),
    _model(f"c = {_TO_32} (s) d = Gather(c, i) e = Unsqueeze(d, one) z = {_TO_64} (e)").replace(
        "one = {1}", "one = {0}"
    ),
    _model(f"c = {_TO_32} (s) z = {_TO_64} (c)"),
    _model(
        f"c = {_TO_32} (s) d = Slice(c, one, two) z = {_TO_64} (d) v = Abs(c)",
        "int64[] z, int32[] v",
    ),
)

NEAR_MISSES = (
    (_model(f"c = {_TO_32} (k) d = Slice(c, one, two) z = {_TO_64} (d)"), ""),
    (_model(f"p = Mul(s, s) c = {_TO_32} (p) d = Slice(c, one, two) z = {_TO_64} (d)"), ""),
    (_model(f"c = {_TO_32} (s) d = Slice(c, one, two) z = Cast <to = 6> (d)", "int32[] z"), ""),
    (_model(f"c = Cast <to = 2> (s) d = Slice(c, one, two) z = {_TO_64} (d)"), ""),
    (_model(f"c = {_TO_32} (s) d = Mul(c, c) z = {_TO_64} (d)"), ""),
    (
        _model(
            f"c = {_TO_32} (s) d = Slice(c, one, two) z = {_TO_64} (d) v = Abs(d)",
            "int64[] z, int32[] v",
        ),
        "also read",
    ),
)
