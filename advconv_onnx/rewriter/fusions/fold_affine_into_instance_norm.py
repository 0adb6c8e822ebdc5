"""Fold a constant Mul, Div, Add or Sub into the InstanceNormalization before it.

    a * InstanceNormalization(x; s, b) + c  =  InstanceNormalization(x; a * s, a * b + c)

with one a and c per channel. Refused when the constant varies along another axis or widens the
result, when scale or bias are not constant, and when something else reads the normalization.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.affine import Affine, elementwise
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.normalization import Normalization
from advconv_onnx.rewriter.rule import NoSite, Rule, Site
from advconv_onnx.rewriter.walk import maker

Plan = tuple[Normalization, Affine]


class FoldAffineIntoInstanceNorm(Rule[Plan]):
    """Add(InstanceNormalization(x), c) -> InstanceNormalization(x)."""

    name = "fold_affine_into_instance_norm"
    roots = frozenset(("Add", "Sub", "Mul", "Div"))
    affine_in_weights = False

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        for y in root.inputs:
            node = maker(y, "InstanceNormalization", graph=root.graph)
            if node is not None and y is not None:
                norm = Normalization.of(node)
                affine = elementwise(root, y, norm.rank, norm.scale.size)
                return Site((node, root), (norm, affine))
        raise NoSite

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        norm, affine = plan
        return norm.rebuild(op, affine)


RULE = FoldAffineIntoInstanceNorm()


def _model(node: str, constant: str, x: str = "float[N, 3, H, W] x", out: str = "z") -> str:
    outputs = ", ".join(f"float[] {name}" for name in out.split())
    return f"""<ir_version: 8, opset_import: ["" : 17]> g ({x}) => ({outputs})
    <float[3] s = {{1, -2, 0.5}}, float[3] b = {{0, 1, 3}}, {constant}> {{
        y = InstanceNormalization <epsilon = 0.25> (x, s, b)
        z = {node}
    }}"""


EXAMPLES = (
    _model("Mul(y, c)", "float[3, 1, 1] c = {1, 2, -3}"),
    _model("Add(c, y)", "float[1, 3, 1, 1] c = {1, 2, -3}"),
    _model("Sub(c, y)", "float c = {2.5}"),
    _model("Sub(y, c)", "float[1] c = {2.5}"),
    _model("Div(y, c)", "float[3, 1] c = {1, 2, -3}", "float[N, 3, L] x"),
    _model("Mul(y, c)", "float[3, 1, 1, 1] c = {1, 2, -3}", "float[N, 3, D, H, W] x"),
)

NEAR_MISSES = (
    # As many numbers as channels, along the width.
    (_model("Mul(y, c)", "float[3] c = {1, 2, 3}", "float[N, 3, H, 3] x"), "one value per channel"),
    (_model("Add(y, c)", "float[1, 1, 1, 1, 1] c = {1}"), "rank 5"),
    (_model("Div(c, y)", "float c = {2}"), "not affine"),
    (_model("Div(y, c)", "float c = {0}"), "zero"),
    (_model("Mul(y, c)", "float c = {2}", out="z y"), "also an output"),
    (_model("Mul(y, c)", "float c = {3e38}"), "not finite"),
    (_model("Mul(y, x)", "float c = {1}"), ""),
    (_model("Mul(x, c)", "float c = {1}"), ""),
)
