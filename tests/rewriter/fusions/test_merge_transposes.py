"""Mutants of merge_transposes."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions.merge_transposes import MergeTransposes
from advconv_onnx.rewriter.layout import permutation
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _other_order(self: MergeTransposes, root: ir.Node, opset: int) -> Site[Any]:
    inner = MergeTransposes.find(self, root, opset).nodes[0]
    last = permutation(root)
    return Site((inner, root), (inner.inputs[0], tuple(last[a] for a in permutation(inner))))


def _dropped(self: MergeTransposes, op: Builder, plan: Any) -> ir.Value:
    x: ir.Value = plan[0]
    return x


@pytest.mark.parametrize("methods", [{"find": _other_order}, {"rewrite": _dropped}])
def test_mutant_is_disproved(methods: dict[str, Any]) -> None:
    assert_disproved(
        mutate(MergeTransposes, **methods),
        """<ir_version: 8, opset_import: ["" : 13]> g (float[A, B, C, D] x) => (float[] z) {
            y = Transpose <perm = [1, 0, 2, 3]> (x)
            z = Transpose <perm = [1, 2, 3, 0]> (y)
        }""",
    )
