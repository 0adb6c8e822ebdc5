"""Mutants of fold_target."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions.fold_target import FoldTarget
from tests.rewriter.fusions.disproving import assert_disproved, mutate


@pytest.mark.parametrize(
    ("target", "nodes"),
    [
        ((0, 0, 4), "t = Concat <axis = 0> (n, four, rest) z = Reshape(x, t)"),
        ((-1, 4, 0), "t = Concat <axis = 0> (n, four, rest) z = Reshape(x, t)"),
        ((0, 1, -1), "t = Concat <axis = 0> (n, four, rest) z = Reshape(x, t)"),
        ((1, 4, 2), "t = Concat <axis = 0> (n, four, one) z = Expand(y, t)"),
        ((2, 1, 1), "t = Concat <axis = 0> (n, four, one) z = Expand(y, t)"),
    ],
)
def test_another_target_is_disproved(target: tuple[int, ...], nodes: str) -> None:
    def rewrite(self: FoldTarget, op: Builder, plan: Any) -> ir.Value:
        return FoldTarget.rewrite(self, op, dataclasses.replace(plan, target=target))

    assert_disproved(
        mutate(FoldTarget, rewrite=rewrite),
        f"""<ir_version: 8, opset_import: ["" : 13]>
        g (float[N, H, 4] x, float[N, 1, 1] y) => (float[] z) <int64[1] zero = {{0}},
        int64[1] one = {{1}}, int64[1] four = {{4}}, int64[1] rest = {{-1}}>
        {{ s = Shape(x) n = Slice(s, zero, one) {nodes} }}""",
    )
