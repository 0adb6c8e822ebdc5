"""Spell a mean over all spatial axes as GlobalAveragePool.

    ReduceMean(x; axes = all but batch and channels, keepdims = 1)  =  GlobalAveragePool(x)

ONNX Runtime computes GlobalAveragePool in its blocked layout and leaves that layout for ReduceMean.
Refused for other axes, without keepdims, and when x is not known to have rank 4 or 5: the mean of a
sequence (N, S, C) is mostly the start of a layer normalization, which ONNX Runtime must recognize.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import rank_of, required
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import input_of


class SpellGlobalPool(Rule[ir.Value]):
    """ReduceMean over H and W -> GlobalAveragePool."""

    name = "spell_global_pool"
    roots = frozenset(("ReduceMean",))
    affine_in_weights = False

    def find(self, root: ir.Node, opset: int) -> Site[ir.Value]:
        x = root.inputs[0]
        if x is None:
            raise NoSite
        rank = rank_of(x)
        if rank not in (4, 5):
            raise Refused(f"the rank of '{x.name}' is {rank or 'unknown'}")
        if not root.attributes.get_int("keepdims", 1):
            raise Refused("keepdims is 0")
        axes = _axes(root)
        if sorted(axis % rank for axis in axes) != list(range(2, rank)):
            raise Refused(f"the axes are {axes}, not all spatial ones")
        return Site((root,), x)

    def rewrite(self, op: Builder, plan: ir.Value) -> ir.Value:
        return op.GlobalAveragePool(plan)


def _axes(node: ir.Node) -> list[int]:
    """Axes of a reduction, an input since opset 18; none given are all, or none."""
    given = input_of(node, 1)
    if given is not None:
        return [int(axis) for axis in required(given, "axes")]
    return list(node.attributes.get_ints("axes", ()))


RULE = SpellGlobalPool()


def _model(node: str, opset: int = 18, x: str = "float[N, 3, H, W] x") -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g ({x}) => (float[] z) <int64[2] a = {{-1, 2}}, int64[1] c = {{1}}> {{ {node} }}"""


EXAMPLES = (
    _model("z = ReduceMean(x, a)"),
    _model("z = ReduceMean <axes = [2, 3]> (x)", opset=13),
    _model("z = ReduceMean <axes = [2, 3, 4]> (x)", opset=13, x="float[N, 3, D, H, W] x"),
)

NEAR_MISSES = (
    (_model("z = ReduceMean(x, c)"), "not all spatial"),
    (_model("z = ReduceMean(x)"), "not all spatial"),
    (_model("z = ReduceMean <keepdims = 0> (x, a)"), "keepdims"),
    (_model("z = ReduceMean(x, a)", x="float[N, S, C] x"), "rank of 'x' is 3"),
)
