"""Mutants of merge_pads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions.merge_pads import MergePads
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _padding(change: Callable[[Any], Any]) -> Callable[..., ir.Value]:
    def rewrite(self: MergePads, op: Builder, plan: Any) -> ir.Value:
        return MergePads.rewrite(self, op, (plan[0], change(plan[1])))

    return rewrite


@pytest.mark.parametrize(
    "change",
    [
        lambda padding: dataclasses.replace(padding, pads=padding.pads[::-1]),
        lambda padding: dataclasses.replace(padding, value=0.0),
        lambda padding: dataclasses.replace(padding, mode="edge"),
        lambda padding: dataclasses.replace(padding, pads=(0, 0, 1, 0, 1, 2)),
    ],
)
def test_mutant_is_disproved(change: Callable[[Any], Any]) -> None:
    assert_disproved(
        mutate(MergePads, rewrite=_padding(change)),
        """<ir_version: 8, opset_import: ["" : 18]> g (float[N, 2, W] x) => (float[] z)
        <int64[6] p = {0, 0, 1, 0, 1, 2}, int64[6] q = {0, 1, 2, 0, 0, 3}, float v = {2.5}>
        { y = Pad(x, p, v) z = Pad(y, q, v) }""",
    )
