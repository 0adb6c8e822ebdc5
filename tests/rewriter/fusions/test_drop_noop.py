"""Mutants of drop_noop: operators that do change something."""

from __future__ import annotations

import pytest

from advconv_onnx.rewriter.fusions.drop_noop import DropNoop
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate

_ANYTHING = mutate(DropNoop, find=lambda self, root, opset: Site((root,), root.inputs[0]))
"""Drops whatever it sees."""


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        ("z = Transpose <perm = [0, 1, 3, 2]> (x)", "float u = {0}"),
        ("z = Cast <to = 11> (x)", "float u = {0}"),
        ("z = Cast <to = 10> (x)", "float u = {0}"),
        ("z = Pad(x, p)", "int64[8] p = {0, 0, 0, 1, 0, 0, 0, 0}"),
        ("z = Pad(x, p)", "int64[8] p = {0, 0, 0, 1, 0, 0, 0, -1}"),
        ("z = Slice(x, b, e)", "int64[1] b = {1}, int64[1] e = {2147483647}"),
        ("z = Concat <axis = 1> (x, x)", "float u = {0}"),
        ("z = Max(x, u)", "float u = {0}"),
        ("z = Sum(x, x)", "float u = {0}"),
        ('z = Resize <mode = "cubic"> (x, , s)', "float[4] s = {1, 1, 1, 1.5}"),
        ("z = MaxPool <kernel_shape = [1, 2], pads = [0, 0, 0, 1]> (x)", "float u = {0}"),
        ("z = AveragePool <kernel_shape = [1, 1], strides = [1, 2]> (x)", "float u = {0}"),
        ("z = Tile(x, r)", "int64[4] r = {1, 1, 2, 1}"),
        ("z = Expand(x, r)", "int64[5] r = {1, 1, 1, 1, 1}"),
        ("z = DepthToSpace <blocksize = 2> (x)", "float u = {0}"),
        ("z = ReduceMax <keepdims = 1> (x)", "float u = {0}"),
    ],
)
def test_dropping_what_matters_is_disproved(node: str, constants: str) -> None:
    type_ = {"11": "double", "10": "float16"}.get(node.split("to = ")[-1][:2], "float")
    assert_disproved(
        _ANYTHING,
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 4, H, W] x) => ({type_}[] z) <{constants}> {{ {node} }}""",
    )
