"""Mutants of merge_slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.fusions import merge_slices
from advconv_onnx.rewriter.fusions.merge_slices import MergeSlices
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate

_Range = merge_slices._Range


def _composing(change: Callable[[Any, Any], Any]) -> Callable[..., Site[Any]]:
    """Read the site with another composition of its two ranges."""

    def find(self: MergeSlices, root: ir.Node, opset: int) -> Site[Any]:
        site = MergeSlices.find(self, root, opset)
        (inner,), (outer,) = (merge_slices._ranges(node, 3).values() for node in site.nodes)
        return Site(site.nodes, (site.plan[0], {1: change(inner, outer)}))

    return find


@pytest.mark.parametrize(
    "change",
    [
        lambda inner, outer: outer,
        lambda inner, outer: inner,
        lambda inner, outer: _Range(inner.start + outer.start, outer.end, 1),
        lambda inner, outer: _Range(outer.start, inner.start + outer.end, 1),
        lambda inner, outer: _Range(inner.start + outer.start, inner.start + outer.end, 1),
    ],
)
def test_mutant_is_disproved(change: Callable[[Any, Any], Any]) -> None:
    assert_disproved(
        mutate(MergeSlices, find=_composing(change)),
        """<ir_version: 8, opset_import: ["" : 13]> g (float[N, 9, H] x) => (float[] z)
        <int64[1] a = {1}, int64[1] b = {2}, int64[1] e = {6}, int64[1] f = {5}>
        { y = Slice(x, b, e, a) z = Slice(y, a, f, a) }""",
    )
