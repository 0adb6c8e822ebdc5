"""Softmax over the wrong axis is disproved."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions.spell_softmax_last import EXAMPLES, SpellSoftmaxLast
from tests.rewriter.fusions.disproving import assert_disproved, mutate


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_old_axis_is_disproved(text: str) -> None:
    def rewrite(rule: SpellSoftmaxLast, op: Builder, plan: Any) -> ir.Value:
        node, perm = plan
        moved = op.Transpose(node.inputs[0], perm=perm)
        axis = node.attributes.get_int("axis") % len(perm)
        return op.node(node.op_type, [moved], {"axis": axis}).outputs[0]

    assert_disproved(mutate(SpellSoftmaxLast, rewrite=rewrite), text)
