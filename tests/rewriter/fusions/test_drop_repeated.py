"""Mutants of drop_repeated."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions.drop_repeated import DropRepeated
from advconv_onnx.rewriter.rule import Site
from advconv_onnx.rewriter.walk import producer
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _find(self: DropRepeated, root: ir.Node, opset: int) -> Site[ir.Node]:
    """Take any operator for superfluous."""
    first = producer(root.inputs[0])
    return Site((first, root), first, (first.outputs[0], root.outputs[0]))


def _rewrite(self: DropRepeated, op: Builder, plan: ir.Node) -> Sequence[ir.Value]:
    same = op.node(plan.op_type, plan.inputs, dict(plan.attributes)).outputs[0]
    return same, same


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Tanh(x) z = Relu(y)",
        "y = Sigmoid(x) z = Neg(y)",
        "y = Neg(x) z = Abs(y)",
        "y = Exp(x) z = Floor(y)",
        "y = Neg(x) z = Neg(y)",
        "y = Sqrt(x) z = Sqrt(y)",
    ],
)
def test_mutant_is_disproved(nodes: str) -> None:
    assert_disproved(
        mutate(
            DropRepeated,
            find=_find,
            rewrite=_rewrite,
            roots=frozenset(("Relu", "Neg", "Abs", "Floor", "Sqrt")),
        ),
        f"""<ir_version: 8, opset_import: ["" : 14]> g (float[N, C] x) => (float[] z)
        {{ {nodes} }}""",
    )
