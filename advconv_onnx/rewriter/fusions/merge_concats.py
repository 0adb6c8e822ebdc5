"""Merge a Concat among the inputs of a Concat on the same axis; drop a Concat of a whole Split.

    Concat(a, Concat(b, c), d)  =  Concat(a, b, c, d)
    Concat(all outputs of Split(x), in their order)  =  x

An inner Concat that something else reads stays what it is, and a Split stays for other readers.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import rank_of
from advconv_onnx.rewriter.rule import NoSite, Rule, Site
from advconv_onnx.rewriter.walk import is_only_read_by, maker

Plan = tuple[list[ir.Value], int]


class MergeConcats(Rule[Plan]):
    """Concat(Concat(x)) -> Concat(x)."""

    name = "merge_concats"
    roots = frozenset(("Concat",))
    affine_in_weights = False
    needs_shapes = True
    minimum_opset = 4  # before, an axis need not be given

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        if "axis" not in root.attributes:
            raise NoSite
        whole = _whole_split(root)
        if whole is not None:
            x = whole.inputs[0]
            assert x is not None
            return Site((whole, root), ([x], 0))
        nodes: list[ir.Node] = []
        parts: list[ir.Value] = []
        for value in root.inputs:
            assert value is not None
            inner = maker(value, "Concat", graph=root.graph)
            is_mine = inner is not None and is_only_read_by(value, root)
            if inner is None or not is_mine or not _is_same_axis(inner, root):
                parts.append(value)
                continue
            parts += [part for part in inner.inputs if part is not None]
            nodes.append(inner)
        if not nodes:
            raise NoSite
        return Site((*dict.fromkeys(nodes), root), (parts, _axis(root)))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        parts, axis = plan
        return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=axis)

    def keeps(self, node: ir.Node) -> bool:
        return node.op_type == "Split"


def _whole_split(root: ir.Node) -> ir.Node | None:
    """The Split whose outputs a Concat puts together again."""
    split = maker(root.inputs[0], "Split", graph=root.graph)
    if split is None or tuple(root.inputs) != tuple(split.outputs):
        return None
    return split if _is_same_axis(split, root) else None


def _axis(node: ir.Node) -> int:
    return node.attributes.get_int("axis", 0)


def _is_same_axis(one: ir.Node, other: ir.Node) -> bool:
    if _axis(one) == _axis(other):
        return True
    value = one.inputs[0]
    rank = None if value is None else rank_of(value)
    return rank is not None and (_axis(one) - _axis(other)) % rank == 0


RULE = MergeConcats()


def _model(nodes: str, inputs: str = "a", out: str = "float[] z", opset: int = 13) -> str:
    values = ", ".join(f"float[N, 4, H] {name}" for name in inputs)
    return f"""<ir_version: 8, opset_import: ["" : {opset}]> g ({values}) => ({out})
    <int64[2] s = {{1, 3}}> {{ {nodes} }}"""


EXAMPLES = (
    _model("y = Concat <axis = 1> (b, c) z = Concat <axis = 1> (a, y, d)", "abcd"),
    _model("y = Concat <axis = -2> (b, c) z = Concat <axis = 1> (y, a)", "abc"),
    _model(
        "y = Concat <axis = 2> (a, b) v = Concat <axis = 2> (c, d) z = Concat <axis = 2> (y, v)",
        "abcd",
    ),
    _model("y = Concat <axis = 1> (a, b) z = Concat <axis = 1> (y, y)", "ab"),
    _model("y = Concat <axis = 1> (a, a) z = Concat <axis = 1> (y, a)"),
    _model("b, c = Split <axis = 1> (a) z = Concat <axis = 1> (b, c)"),
    _model("b, c = Split <axis = -2> (a, s) z = Concat <axis = 1> (b, c)"),
    _model("b, c = Split <axis = 1, split = [1, 3]> (a) z = Concat <axis = 1> (b, c)", opset=11),
    _model(
        "b, c = Split <axis = 1> (a) z = Concat <axis = 1> (b, c) v = Relu(c)",
        out="float[] z, float[] v",
    ),
)

NEAR_MISSES = (
    (_model("y = Concat <axis = 2> (a, b) z = Concat <axis = 1> (y, y)", "ab"), ""),
    (
        _model(
            "y = Concat <axis = 1> (a, b) z = Concat <axis = 1> (y, a) v = Relu(y)",
            "ab",
            out="float[] z, float[] v",
        ),
        "",
    ),
    (_model("b, c = Split <axis = 1> (a) z = Concat <axis = 1> (c, b)"), ""),
    (_model("b, c = Split <axis = 1> (a) z = Concat <axis = 2> (b, c)"), ""),
    (_model("b, c = Split <axis = 1> (a) z = Concat <axis = 1> (b, c, b)"), ""),
    (_model("b, c = Split <axis = 1> (a) z = Concat <axis = 1> (b)"), ""),
)
