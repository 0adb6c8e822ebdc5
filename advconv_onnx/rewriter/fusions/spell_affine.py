"""Spell a constant scale and shift that no convolution can take as one BatchNormalization.

    x * a + c  =  BatchNormalization(x; scale = a, bias = c, mean = 0, variance = 1 - epsilon)

with one a and c per channel: one pass over memory instead of two, and ONNX Runtime computes it in
its blocked layout (as a 1x1 depthwise convolution), which a constant Add leaves; next to a
convolution it then folds away. Refused when channels or rank are unknown, and when a constant
varies along another dimension than the channels.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.affine import Affine, elementwise
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import maker

_EPSILON = 2.0**-20
"""Exact in float32, and so is 1 minus it, so that variance + epsilon is exactly 1."""

Plan = tuple[ir.Value, Affine]


class SpellAffine(Rule[Plan]):
    """Add(Mul(x, a), c) -> BatchNormalization(x)."""

    name = "spell_affine"
    roots = frozenset(("Add", "Sub"))

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        inner, y = _operand(root, "Mul", "Div")
        x = next((value for value in inner.inputs if constant(value) is None), None)
        if x is None or constant(y) is not None:
            raise NoSite
        if all(constant(value) is None for value in inner.inputs) or all(
            constant(value) is None for value in root.inputs
        ):
            raise NoSite
        if x.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            raise Refused(f"the type of '{x.name}' is {x.dtype}")
        if x.shape is None or len(x.shape) != 4 or not isinstance(x.shape[1], int):
            raise Refused(f"'{x.name}' is not known to be (N, C, H, W) with a fixed C")
        rank, channels = len(x.shape), x.shape[1]
        first = elementwise(inner, x, rank, channels)
        second = elementwise(root, y, rank, channels)
        scale, shift = first.scale * second.scale, first.shift * second.scale + second.shift
        return Site((inner, root), (x, Affine(scale, shift)))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, affine = plan
        assert x.dtype is not None
        dtype, size = x.dtype.numpy(), len(affine.scale)
        return op.BatchNormalization(
            x,
            op.initializer(affine.scale.astype(dtype), "scale"),
            op.initializer(affine.shift.astype(dtype), "shift"),
            op.initializer(np.zeros(size, dtype), "mean"),
            op.initializer(np.full(size, 1 - _EPSILON, dtype), "variance"),
            epsilon=_EPSILON,
        )


def _operand(root: ir.Node, *op_types: str) -> tuple[ir.Node, ir.Value]:
    """The first input that such a node makes."""
    for value in root.inputs:
        node = maker(value, *op_types, graph=root.graph)
        if node is not None and value is not None:
            return node, value
    raise NoSite


RULE = SpellAffine()


def _model(nodes: str, constants: str, x: str = "float[N, 3, H, W] x") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 15]>
    g ({x}) => (float[N, 3, H, W] z) <{constants}> {{ {nodes} }}"""


EXAMPLES = (
    _model("y = Mul(a, x) z = Add(y, c)", "float[1] a = {2.5}, float[3, 1, 1] c = {1, -2, 3}"),
    _model("y = Div(x, a) z = Sub(c, y)", "float[1, 3, 1, 1] a = {2, 4, -1}, float c = {0.5}"),
)

NEAR_MISSES = (
    (_model("y = Mul(x, a) z = Add(y, c)", "float[3] a = {1, 2, 3}, float c = {1}"), "per channel"),
    (
        _model(
            "y = Mul(x, a) z = Add(y, c)", "float a = {2}, float c = {1}", "float[N, C, H, W] x"
        ),
        "fixed C",
    ),
    (
        _model(
            "y = Mul(x, a) z = Add(y, c)",
            "float[1, 3, 1, 1] a = {2, 3, 4}, float c = {1}",
            "float[N, 1, H, W] x",
        ),
        "per channel",
    ),
)
