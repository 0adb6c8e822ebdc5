"""Mutants of merge_concats."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions.merge_concats import MergeConcats
from advconv_onnx.rewriter.rule import Site
from advconv_onnx.rewriter.walk import producer
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _reversed(self: MergeConcats, op: Builder, plan: Any) -> ir.Value:
    parts, axis = plan
    return MergeConcats.rewrite(self, op, (parts[::-1], axis))


def _any_axis(self: MergeConcats, root: ir.Node, opset: int) -> Site[Any]:
    inner = producer(root.inputs[0], "Concat")
    parts = [*inner.inputs, *root.inputs[1:]]
    return Site((inner, root), (parts, root.attributes.get_int("axis", 0)))


def _any_split(self: MergeConcats, root: ir.Node, opset: int) -> Site[Any]:
    split = producer(root.inputs[0], "Split")
    return Site((split, root), ([split.inputs[0]], 0))


@pytest.mark.parametrize(
    ("methods", "nodes"),
    [
        ({"rewrite": _reversed}, "y = Concat <axis = 1> (a, b) z = Concat <axis = 1> (y, b)"),
        ({"find": _any_axis}, "y = Concat <axis = 1> (a, b) z = Concat <axis = 2> (y, c)"),
        ({"find": _any_split}, "y, v = Split <axis = 1> (a) z = Concat <axis = 1> (v, y)"),
        ({"find": _any_split}, "y, v = Split <axis = 1> (a) z = Concat <axis = 2> (y, v)"),
    ],
)
def test_mutant_is_disproved(methods: dict[str, Any], nodes: str) -> None:
    assert_disproved(
        mutate(MergeConcats, **methods),
        f"""<ir_version: 8, opset_import: ["" : 13]>
        g (float[N, 4, H] a, float[N, 4, H] b, float[N, 8, H] c) => (float[] z) {{ {nodes} }}""",
    )
