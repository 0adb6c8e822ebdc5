"""Reducing over axes that were not mapped back, or in another order, is disproved."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions.fold_transpose_into_reduce import (
    EXAMPLES,
    FoldTransposeIntoReduce,
)
from advconv_onnx.rewriter.layout import given_axes
from tests.rewriter.fusions.disproving import assert_disproved, mutate


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_old_axes_are_disproved(text: str) -> None:
    def rewrite(rule: FoldTransposeIntoReduce, op: Builder, plan: Any) -> ir.Value:
        node, x, _ = plan
        return FoldTransposeIntoReduce.rewrite(rule, op, (node, x, given_axes(node, 1, 4)))

    assert_disproved(mutate(FoldTransposeIntoReduce, rewrite=rewrite), text)
