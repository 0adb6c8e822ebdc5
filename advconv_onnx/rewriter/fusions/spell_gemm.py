"""Spell a matrix product and a bias as one Gemm.

    MatMul(A, B) + c  =  Gemm(A, B) + c  =  Gemm(A, B, c)

for matrices A and B and one value of c per column, or one for all. ONNX Runtime makes the same
fusion when it loads a model, so that it is never slower. Refused where c could widen the product,
and for other ranks than 2: the Reshapes around a Gemm would be new.
"""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant, rank_of
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import maker, operands

Plan = tuple[ir.Node, ir.Value]

_TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


class SpellGemm(Rule[Plan]):
    """Add(MatMul(A, B), c) -> Gemm(A, B, c)."""

    name = "spell_gemm"
    roots = frozenset(("Add",))
    affine_in_weights = False
    minimum_opset = 7  # before, broadcasting was an attribute

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        for value, bias in operands(root):
            node = maker(value, "MatMul", "Gemm", graph=root.graph)
            array = constant(bias)
            if node is not None and array is not None and value.dtype in _TYPES:
                _check_matrices(node)
                _check_bias(node, array.shape)
                return Site((node, root), (node, bias))
        raise NoSite

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        node, bias = plan
        attributes = {} if node.op_type == "MatMul" else dict(node.attributes)
        return op.node("Gemm", (*node.inputs[:2], bias), attributes).outputs[0]


def _check_matrices(node: ir.Node) -> None:
    if len(node.inputs) > 2:
        raise Refused("the Gemm has a bias already")
    if node.attributes.get_float("beta", 1.0) != 1:
        raise Refused("the Gemm would scale its bias")
    for value in node.inputs:
        if value is None or rank_of(value) != 2:
            raise NoSite


def _check_bias(node: ir.Node, shape: tuple[int, ...]) -> None:
    matrix = node.inputs[1]
    assert matrix is not None
    assert matrix.shape is not None
    columns = matrix.shape[0 if node.attributes.get_int("transB", 0) else 1]
    per_column = (*shape[:-1], columns) if shape and shape[-1] != 1 else shape
    if len(shape) > 2 or shape != per_column or (len(shape) == 2 and shape[0] != 1):
        raise Refused(f"a bias of shape {list(shape)} has not one value per column ({columns})")


RULE = SpellGemm()


def _model(nodes: str, c: str, a: str = "N, 3", out: str = "float[] z", opset: int = 13) -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[{a}] a) => ({out})
    <float[3, 2] b = {{1, -2, 3, 4, 5, -6}}, float{c}> {{ {nodes} }}"""


_TWO = "[2] c = {3, -4}"

EXAMPLES = (
    _model("y = MatMul(a, b) z = Add(y, c)", _TWO),
    _model("y = MatMul(a, b) z = Add(c, y)", "[1, 2] c = {3, -4}"),
    _model("y = MatMul(a, b) z = Add(y, c)", " c = {3}", opset=9),
    _model("y = MatMul(a, b) z = Add(y, c)", "[1] c = {3}"),
    _model("y = MatMul(a, b) z = Add(y, c)", "[1, 1] c = {3}"),
    _model("y = Gemm <alpha = 0.5, transA = 1> (a, b) z = Add(y, c)", _TWO, "3, N"),
    _model("y = Gemm <transB = 1> (a, b) z = Add(y, c)", "[3] c = {3, -4, 2}", "N, 2"),
)

NEAR_MISSES = (
    (_model("y = MatMul(a, b) z = Add(y, c)", _TWO, "N, M, 3"), ""),
    (_model("y = MatMul(a, b) z = Add(y, c)", "[2, 1] c = {3, -4}", "2, 3"), "per column"),
    (_model("y = MatMul(a, b) z = Add(y, c)", "[1, 1, 2] c = {3, -4}"), "per column"),
    (_model("y = MatMul(a, b) z = Add(y, a)", _TWO, "3, 3"), ""),
    (_model("y = Gemm(a, b, c) z = Add(y, c)", _TWO), "bias already"),
    (_model("y = Gemm <beta = 0.5> (a, b) z = Add(y, c)", _TWO), "scale its bias"),
    (
        _model("y = MatMul(a, b) z = Add(y, c) v = Abs(y)", _TWO, out="float[] z, float[] v"),
        "also read",
    ),
)
