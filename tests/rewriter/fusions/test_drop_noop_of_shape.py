"""Mutants of drop_noop_of_shape: sizes that are only alike."""

from __future__ import annotations

import pytest

from advconv_onnx.rewriter.fusions.drop_noop_of_shape import DropNoopOfShape
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate

_ANYTHING = mutate(DropNoopOfShape, find=lambda self, root, opset: Site((root,), root.inputs[0]))
"""Drops whatever it sees."""


@pytest.mark.parametrize(
    ("node", "x", "constants"),
    [
        ("z = Reshape(x, s)", "2, 3, 4", "int64[3] s = {3, 2, 4}"),
        ("z = Reshape(x, s)", "N, C, H", "int64[3] s = {0, 1, -1}"),
        ("z = Flatten <axis = 0> (x)", "N, C", "float u = {0}"),
        ("z = Squeeze(x)", "N, 1", "float u = {0}"),
        ("z = Transpose <perm = [0, 2, 1]> (x)", "N, 1, W", "float u = {0}"),
        ("z = Transpose <perm = [0, 2, 1]> (x)", "N, 3, 3", "float u = {0}"),
        ("z = Expand(x, s)", "N, 1, 4", "int64[2] s = {3, 1}"),
        ("z = Slice(x, b, e)", "N, 3, 4", "int64[2] b = {0, 0}, int64[2] e = {9, 2}"),
        ("z = Gather <axis = 1> (x, i)", "N, 3, 4", "int64[3] i = {0, 2, 1}"),
        ("z = Resize(x, , , s)", "1, 2, 5, 7", "int64[4] s = {1, 2, 7, 5}"),
        ("z = GlobalAveragePool(x)", "N, 4, 1, W", "float u = {0}"),
        ("z = ReduceMax <keepdims = 0> (x, a)", "N, 1, 4", "int64[1] a = {1}"),
        ("z = ReduceSum(x)", "1, 2", "float u = {0}"),
    ],
)
def test_dropping_what_matters_is_disproved(node: str, x: str, constants: str) -> None:
    assert_disproved(
        _ANYTHING,
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[{x}] x) => (float[] z) <{constants}> {{ {node} }}""",
    )
