"""Mutants of merge_split_convs: other parts, another order."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions import merge_split_convs
from advconv_onnx.rewriter.fusions.merge_split_convs import MergeSplitConvs
from tests.rewriter.fusions.disproving import assert_disproved, mutate

MISREAD = [
    text
    for text, reason in merge_split_convs.NEAR_MISSES
    if "order" in reason or "has 4" in reason or "something else" in reason
]


def _reversed(self: MergeSplitConvs, op: Builder, plan: Any) -> ir.Value:
    x, convolutions = plan
    return MergeSplitConvs.rewrite(self, op, (x, convolutions[::-1]))


def _repeated(self: MergeSplitConvs, op: Builder, plan: Any) -> ir.Value:
    x, convolutions = plan
    return MergeSplitConvs.rewrite(self, op, (x, convolutions[:1] * len(convolutions)))


@pytest.mark.parametrize("rewrite", [_reversed, _repeated])
@pytest.mark.parametrize("text", merge_split_convs.EXAMPLES)
def test_weights_in_another_order_are_disproved(rewrite: Any, text: str) -> None:
    assert_disproved(mutate(MergeSplitConvs, rewrite=rewrite), text)


@pytest.mark.parametrize("text", MISREAD)
def test_parts_that_are_not_all_channels_in_order_are_disproved(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_split_convs, "_check_parts", lambda *_: None)
    assert_disproved(MergeSplitConvs(), text)
