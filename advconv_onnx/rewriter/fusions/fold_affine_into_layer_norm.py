"""Fold a constant Mul, Div, Add or Sub into the LayerNormalization before it.

    a * LayerNormalization(x; s, b) + c  =  LayerNormalization(x; a * s, a * b + c)

with one a and c per element of the normalized axes, or fewer that are repeated over them. Refused
when the constant varies along another axis or widens the result, when scale or bias are not
constant, and when something else reads the normalization.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.affine import Affine, affine_by
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.normalization import Normalization
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import maker, operands

Plan = tuple[Normalization, Affine]


class FoldAffineIntoLayerNorm(Rule[Plan]):
    """Add(LayerNormalization(x), c) -> LayerNormalization(x)."""

    name = "fold_affine_into_layer_norm"
    roots = frozenset(("Add", "Sub", "Mul", "Div"))
    affine_in_weights = False
    needs_shapes = True

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        for y, other in operands(root):
            node = maker(y, "LayerNormalization", graph=root.graph)
            array = constant(other)
            if node is not None and array is not None:
                norm = Normalization.of(node)
                numbers = _like_scale(array, norm)
                return Site((node, root), (norm, affine_by(root, numbers, y is root.inputs[0])))
        raise NoSite

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        norm, affine = plan
        return norm.rebuild(op, affine)


def _like_scale(array: np.ndarray, norm: Normalization) -> np.ndarray:
    """A constant as one number for each of the scale's.

    Raises:
        Refused: it varies along another axis, or widens the result.
    """
    sizes = norm.scale.shape
    padded = (1,) * max(len(sizes) - array.ndim, 0) + array.shape
    leading, inner = padded[: len(padded) - len(sizes)], padded[len(padded) - len(sizes) :]
    fits = all(mine in (1, theirs) for mine, theirs in zip(inner, sizes, strict=True))
    if array.ndim > norm.rank or any(size != 1 for size in leading) or not fits:
        raise Refused(f"the constant of shape {list(array.shape)} is not one of the scale's")
    return np.broadcast_to(array.astype(np.float64).reshape(inner), sizes)


RULE = FoldAffineIntoLayerNorm()


def _model(nodes: str, constant_: str, x: str = "float[N, S, 3] x", out: str = "z") -> str:
    outputs = ", ".join(f"float[] {name}" for name in out.split())
    return f"""<ir_version: 8, opset_import: ["" : 17]> g ({x}) => ({outputs})
    <float[3] s = {{1, -2, 0.5}}, float[3] b = {{0, 1, 3}}, {constant_},
     float[4, 2] t = {{1, 2, 3, 4, 5, 6, 7, 8}}> {{ {nodes} }}"""


_LAST = "y = LayerNormalization <epsilon = 0.25> (x, s)"
_BIASED = "y = LayerNormalization <epsilon = 0.25> (x, s, b)"
_IMAGE = "y = LayerNormalization <axis = -2> (x, t)"

EXAMPLES = (
    _model(f"{_LAST} z = Mul(y, c)", "float[3] c = {1, 2, -3}"),
    _model(f"{_BIASED} z = Mul(y, c)", "float[3] c = {1, 2, -3}"),
    _model(f"{_BIASED} z = Div(y, c)", "float[1, 3] c = {1, 2, -3}"),
    _model(f"{_LAST} z = Add(y, c)", "float[1, 1, 3] c = {1, 2, -3}"),
    _model(f"{_BIASED} z = Sub(c, y)", "float c = {2}"),
    _model(f"{_IMAGE} z = Mul(c, y)", "float[4, 1] c = {1, 2, -3, 4}", "float[N, S, 4, 2] x"),
    _model(f"{_IMAGE} z = Add(c, y)", "float[2] c = {1, 2}", "float[N, S, 4, 2] x"),
)

NEAR_MISSES = (
    (
        _model(f"{_LAST} z = Mul(y, c)", "float[3, 1] c = {1, 2, 3}", "float[N, 3, 3] x"),
        "not one of the scale's",
    ),
    (
        _model(f"{_LAST} z = Mul(y, c)", "float[1, 1, 1, 3] c = {1, 2, 3}"),
        "not one of the scale's",
    ),
    (_model(f"{_LAST} z = Div(c, y)", "float c = {2}"), "not affine"),
    (_model(f"{_LAST} z = Div(y, c)", "float c = {0}"), "zero"),
    (_model(f"{_LAST} z = Mul(y, c)", "float c = {2}", out="z y"), "also an output"),
    (_model(f"{_BIASED} z = Mul(y, c)", "float c = {3e38}"), "not finite"),
    (_model(f"{_LAST} z = Mul(y, x)", "float c = {1}"), ""),
)
