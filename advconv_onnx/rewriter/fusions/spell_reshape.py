"""Spell operators that only drop or move dimensions of size 1 as Squeeze or Reshape.

    Reduce over axes of size 1 that are dropped; Gather of the only element    =  Squeeze
    Transpose that keeps the order of all dimensions but those of size 1       =  Reshape

ONNX Runtime passes the memory on for both, where the others copy it, and neighbours merge with
them. Refused where a size could only be what is left beside a dynamic one: an empty tensor could
not be reshaped.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.layout import given_axes, permutation, sizes_of, target_of, with_ints
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site

Plan = tuple[ir.Value, str, list[int]]

_REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")


class SpellReshape(Rule[Plan]):
    """ReduceMean(x) -> Squeeze(x)."""

    name = "spell_reshape"
    roots = frozenset((*_REDUCTIONS, "Gather", "Transpose"))
    affine_in_weights = False
    needs_shapes = True
    minimum_opset = 5

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        x = root.inputs[0]
        assert x is not None
        if root.op_type == "Transpose":
            return Site((root,), (x, "Reshape", _moved(root)))
        axes = _gathered(root) if root.op_type == "Gather" else _reduced(root)
        return Site((root,), (x, "Squeeze", axes))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, op_type, numbers = plan
        if op_type == "Reshape":
            return with_ints(op, op_type, x, 5, shape=numbers)
        return with_ints(op, op_type, x, 13, axes=numbers)


def _reduced(node: ir.Node) -> list[int]:
    sizes = sizes_of(node.inputs[0])
    axes = given_axes(node, 1, len(sizes))
    is_kept = node.attributes.get_int("keepdims", 1) != 0
    if not axes or is_kept or any(sizes[axis] != 1 for axis in axes):
        raise NoSite
    return sorted(axes)


def _gathered(node: ir.Node) -> list[int]:
    sizes, index = sizes_of(node.inputs[0]), constant(node.inputs[1])
    axis = node.attributes.get_int("axis", 0) % max(len(sizes), 1)
    if index is None or index.ndim or not sizes or sizes[axis] != 1:
        raise NoSite
    return [axis]


def _moved(node: ir.Node) -> list[int]:
    sizes, perm = sizes_of(node.inputs[0]), permutation(node)
    kept = [axis for axis in perm if sizes[axis] != 1]
    wanted = tuple(sizes[axis] for axis in perm)
    if kept != sorted(kept) or wanted == sizes:
        raise NoSite
    target = target_of(wanted, sizes)
    if target.divides:
        raise Refused("an empty tensor could not be reshaped")
    return list(target.shape)


RULE = SpellReshape()


def _model(nodes: str, x: str, constants: str = "int64 i = {0}", opset: int = 18) -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[{x}] x) => (float[] z)
    <{constants}> {{ {nodes} }}"""


EXAMPLES = (
    _model("z = ReduceMean <keepdims = 0> (x, a)", "N, 1, H", "int64[1] a = {1}"),
    _model("z = ReduceSum <keepdims = 0, axes = [-1, 1]> (x)", "N, 1, H, 1", opset=11),
    _model("z = ReduceMax <keepdims = 0, axes = [2]> (x)", "N, C, 1", opset=13),
    _model("z = Gather <axis = 1> (x, i)", "N, 1, H"),
    _model("z = Gather <axis = -1> (x, i)", "N, C, 1", "int64 i = {-1}", opset=11),
    _model("z = Transpose <perm = [1, 0, 2]> (x)", "1, S, 8"),
    _model("z = Transpose <perm = [0, 2, 1, 3]> (x)", "N, 1, 4, 5"),
    _model("z = Transpose(x)", "1, M"),
    _model("z = Transpose <perm = [0, 2, 3, 1]> (x)", "2, 1, 4, 5"),
)

NEAR_MISSES = (
    (_model("z = ReduceMean <keepdims = 0> (x, a)", "N, C, H", "int64[1] a = {1}"), ""),
    (_model("z = ReduceMean <keepdims = 0> (x)", "1, 1"), ""),
    (_model("z = ReduceL1 <keepdims = 0> (x, a)", "N, 1, H", "int64[1] a = {1}"), ""),
    (_model("z = Gather <axis = 1> (x, i)", "N, 2, H"), ""),
    (_model("z = Gather <axis = 1> (x, i)", "N, 1, H", "int64[1] i = {0}"), ""),
    (_model("z = Transpose <perm = [1, 0, 2]> (x)", "1, S, W"), "empty"),
    (_model("z = Transpose <perm = [2, 1, 0]> (x)", "1, S, W"), ""),
    (_model("z = Transpose <perm = [0, 2, 1]> (x)", "4, 1, 1"), ""),
)
