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
    ("before", "between", "last", "after"),
    [("float", 7, 1, "float"), ("float", 9, 1, "float"), ("int64", 3, 7, "int64")],
)
def test_a_type_that_cuts_is_disproved(before: str, between: int, last: int, after: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 13]> g ({before}[N, C] x) => ({after}[] z)
    {{ m = Mul(x, x) y = Cast <to = {between}> (m) z = Cast <to = {last}> (y) }}"""
    if before == "int64":  # small integers fit into int8, their squares do not matter here
        text = text.replace(f"<to = {between}>", "<to = 9>")
    assert_disproved(mutate(MergeCasts, find=_find), text)
