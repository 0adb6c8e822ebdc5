"""Fold a constant scale and shift into the Gemm before it.

    a * (alpha * (x B) + beta * C) + c  =  alpha * (x (a B)) + (a beta C + c)

with one a and one c per column, for Add, Sub, Mul, Div and an inference
BatchNormalization behind a Gemm whose B and C are constant. Refused when a constant varies by row,
when it widens the result, when a weight overflows, and when something else reads the product.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from advconv_onnx.rewriter.affine import Affine, batchnorm, elementwise
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import required
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import input_of, maker


@dataclasses.dataclass(frozen=True)
class _Product:
    """A Gemm with constants.

    Attributes:
        columns: B with a column for each output, (K, N), float64.
        bias: what is added to each output, (N,) or (M, N), float64.
    """

    node: ir.Node
    columns: NDArray[np.float64]
    bias: NDArray[np.float64]

    @classmethod
    def of(cls, node: ir.Node) -> _Product:
        weight = required(node.inputs[1], "weight")
        if not np.issubdtype(weight.dtype, np.floating):
            raise Refused(f"the weight is {weight.dtype}, not floating-point")
        transposed = node.attributes.get_int("transB", 0)
        columns = (weight.T if transposed else weight).astype(np.float64)
        given, beta = input_of(node, 2), node.attributes.get_float("beta", 1.0)
        if given is None:
            return cls(node, columns, np.zeros(columns.shape[1]))
        bias = required(given, "bias").astype(np.float64) * beta
        return cls(node, columns, bias)


Plan = tuple[_Product, Affine]


class FoldAffineIntoGemm(Rule[Plan]):
    """Mul(Gemm(x), a) -> Gemm(x)."""

    name = "fold_affine_into_gemm"
    roots = frozenset(("Add", "Sub", "Mul", "Div", "BatchNormalization"))
    affine_in_weights = False  # The probe draws no weights for a Gemm.
    minimum_opset = 11

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        operands = root.inputs[: 1 if root.op_type == "BatchNormalization" else 2]
        for value in operands:
            node = maker(value, "Gemm", graph=root.graph)
            if node is not None and value is not None:
                product = _Product.of(node)
                size = product.columns.shape[1]
                if root.op_type == "BatchNormalization":
                    affine = batchnorm(root)
                else:
                    affine = elementwise(root, value, 2, size)
                return Site((node, root), (product, affine))
        raise NoSite

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        product, affine = plan
        node = product.node
        assert node.inputs[1] is not None
        assert node.inputs[1].dtype is not None
        dtype = node.inputs[1].dtype.numpy()
        with np.errstate(over="ignore"):
            weight = (product.columns * affine.scale).astype(dtype)
            bias = (product.bias * affine.scale + affine.shift).astype(dtype)
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise Refused(f"a folded weight is not finite in {dtype}")
        attributes = {**node.attributes, "transB": 0, "beta": 1.0}
        inputs = [node.inputs[0], op.initializer(weight, "weight"), op.initializer(bias, "bias")]
        return op.node("Gemm", inputs, attributes).outputs[0]


RULE = FoldAffineIntoGemm()


def _model(nodes: str, constants: str = "float u = {1}", x: str = "float[N, 3] x") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 15]>
    g ({x}) => (float[] z) <float[3, 2] w = {{1, -2, 3, 4, 5, -6}}, float[2] b = {{1, 2}},
     float[2] s = {{1.5, -2}}, float[2] v = {{1, 0.25}}, float c = {{2.5}}, {constants}>
    {{ {nodes} }}"""


EXAMPLES = (
    _model("y = Gemm(x, w, b) z = BatchNormalization(y, s, b, b, v)"),
    _model("y = Gemm(x, w) z = Mul(s, y)"),
    _model(
        "y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, t, b) z = Sub(c, y)",
        "float[2, 3] t = {1, -2, 3, 4, 5, -6}",
    ),
    _model("y = Gemm <transA = 1> (x, w, k) z = Div(y, s)", "float[1] k = {3}", x="float[3, N] x"),
    _model("y = Gemm(x, w, k) z = Add(y, c)", "float[2, 2] k = {1, 2, 3, 4}", x="float[2, 3] x"),
)

NEAR_MISSES = (
    # N == M: the constant runs along the rows.
    (
        _model("y = Gemm(x, w) z = Mul(y, r)", "float[2, 1] r = {1, 2}", x="float[2, 3] x"),
        "one value per channel",
    ),
    (_model("y = Gemm(x, w) z = Mul(y, r)", "float[1, 1, 1] r = {2}"), "rank 3"),
    (_model("y = Gemm(x, w) z = Div(c, y)"), "not affine"),
    (_model("y = Gemm(x, w) z = Mul(y, r)", "float r = {1e38}"), "not finite"),
    (_model("y = Gemm(x, w) h = Mul(y, c) z = Add(h, y)"), "also read by"),
    (_model("q = Abs(w) y = Gemm(x, q) z = Mul(y, c)"), "weight is not constant"),
    (
        _model("y = Gemm(x, w) z, m, n = BatchNormalization <training_mode = 1> (y, s, b, b, v)"),
        "training",
    ),
)
