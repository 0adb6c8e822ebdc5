"""Mutants of merge_clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.fusions import merge_clips
from advconv_onnx.rewriter.fusions.merge_clips import MergeClips
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate

_Bounds = merge_clips._Bounds


def _composing(change: Callable[[Any, Any], Any]) -> Callable[..., Site[Any]]:
    def find(self: MergeClips, root: ir.Node, opset: int) -> Site[Any]:
        site = MergeClips.find(self, root, opset)
        first, last = map(merge_clips._bounds, site.nodes)
        return Site(site.nodes, (site.plan[0], change(first, last)))

    return find


@pytest.mark.parametrize(
    ("change", "nodes"),
    [
        (lambda a, b: b, "y = Clip(x, one, two) z = Clip(y, zero, six)"),
        (lambda a, b: a, "y = Clip(x, zero, six) z = Clip(y, one, two)"),
        (
            lambda a, b: _Bounds(max(a.low, b.low), min(a.high, b.high)),
            "y = Clip(x, zero, one) z = Clip(y, two, six)",
        ),
        (lambda a, b: b.then(a), "y = Clip(x, zero, one) z = Clip(y, two, six)"),
        (lambda a, b: _Bounds(0), "y = Relu(x) z = Clip(y, zero, six)"),
    ],
)
def test_mutant_is_disproved(change: Callable[[Any, Any], Any], nodes: str) -> None:
    assert_disproved(
        mutate(MergeClips, find=_composing(change)),
        f"""<ir_version: 8, opset_import: ["" : 13]> g (float[N, C] x) => (float[] z)
        <float zero = {{0}}, float one = {{1}}, float two = {{2}}, float six = {{6}}>
        {{ {nodes} }}""",
    )
