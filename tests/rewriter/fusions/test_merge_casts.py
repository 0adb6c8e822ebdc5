"""Mutants of merge_casts."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.fusions.merge_casts import MergeCasts, Plan
from advconv_onnx.rewriter.rule import Site
from advconv_onnx.rewriter.walk import producer
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _find(self: MergeCasts, root: ir.Node, opset: int) -> Site[Plan]:
    """Merge whatever the type between."""
    inner = producer(root.inputs[0], "Cast")
    x = inner.inputs[0]
    assert x is not None
    return Site((inner, root), (x, ir.DataType(root.attributes.get_int("to", 0))))


@pytest.mark.parametrize(
    ("before", "between", "last"), [("float", 7, 1), ("float", 9, 1), ("int64", 9, 7)]
)
def test_a_type_that_cuts_is_disproved(before: str, between: int, last: int) -> None:
    assert_disproved(
        mutate(MergeCasts, find=_find),
        f"""<ir_version: 8, opset_import: ["" : 13]> g ({before}[N, C] x) => ({before}[] z)
        {{ y = Cast <to = {between}> (x) z = Cast <to = {last}> (y) }}""",
    )
