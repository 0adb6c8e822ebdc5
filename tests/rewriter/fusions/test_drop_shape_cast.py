"""Mutants of drop_shape_cast."""

from __future__ import annotations

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions.drop_shape_cast import DropShapeCast, Plan
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _forgets_the_slice(self: DropShapeCast, op: Builder, plan: Plan) -> object:
    return plan[0].inputs[0]


def test_mutant_is_disproved() -> None:
    assert_disproved(
        mutate(DropShapeCast, rewrite=_forgets_the_slice),
        """<ir_version: 8, opset_import: ["" : 13]> g (float[N, C, H, 7] x) => (int64[] z)
        <int64[1] one = {1}, int64[1] two = {2}> {
            s = Shape(x)
            c = Cast <to = 6> (s)
            d = Slice(c, one, two)
            z = Cast <to = 7> (d)
        }""",
    )
