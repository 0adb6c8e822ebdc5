"""Mutants of fold_shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions.fold_shape import FoldShape
from tests.rewriter.fusions.disproving import assert_disproved, mutate


@pytest.mark.parametrize(
    "change",
    [
        lambda numbers: numbers + 1,
        lambda numbers: numbers[::-1],
        lambda numbers: numbers[:1],
        lambda numbers: numbers.astype(np.int32),
        lambda numbers: numbers.astype(np.float32),
    ],
)
def test_other_numbers_are_disproved(change: Callable[[np.ndarray], np.ndarray]) -> None:
    def rewrite(self: FoldShape, op: Builder, plan: np.ndarray) -> ir.Value:
        return op.initializer(change(plan), "shape")

    assert_disproved(
        mutate(FoldShape, rewrite=rewrite),
        """<ir_version: 8, opset_import: ["" : 15]> g (float[N, 3, 4, W] x) => (int64[] z)
        { z = Shape <start = 1, end = 3> (x) }""",
    )
