"""Mutants of spell_reshape."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.fusions.spell_reshape import Plan, SpellReshape
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate


@pytest.mark.parametrize(
    ("node", "operator", "numbers"),
    [
        ("z = ReduceMean <keepdims = 0> (x, two)", "Squeeze", [1]),
        ("z = ReduceMean <keepdims = 0> (x, one)", "Reshape", [-1, 1]),
        ("z = Gather <axis = 1> (x, zero)", "Squeeze", [0]),
        ("z = Transpose <perm = [2, 1, 0]> (x)", "Reshape", [3, 1, -1]),
        ("z = Transpose <perm = [1, 0, 2]> (x)", "Reshape", [0, 1, 3]),
    ],
)
def test_mutant_is_disproved(node: str, operator: str, numbers: list[int]) -> None:
    def find(self: SpellReshape, root: ir.Node, opset: int) -> Site[Plan]:
        x = root.inputs[0]
        assert x is not None
        return Site((root,), (x, operator, numbers))

    assert_disproved(
        mutate(SpellReshape, find=find),
        f"""<ir_version: 8, opset_import: ["" : 18]> g (float[N, 1, 3] x) => (float[] z)
        <int64 zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}> {{ {node} }}""",
    )
