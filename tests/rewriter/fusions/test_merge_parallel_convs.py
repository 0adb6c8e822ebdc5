"""Mutants of merge_parallel_convs: weights in another order, channels of groups mixed."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.fusions import merge_parallel_convs
from advconv_onnx.rewriter.fusions.merge_parallel_convs import MergeParallelConvs
from advconv_onnx.rewriter.rule import Site
from advconv_onnx.rewriter.walk import producer
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _reversed(self: MergeParallelConvs, op: Builder, plan: Any) -> ir.Value:
    return MergeParallelConvs.rewrite(self, op, plan[::-1])


def _without_check(self: MergeParallelConvs, root: ir.Node, opset: int) -> Site[Any]:
    convs = [producer(value, "Conv") for value in root.inputs]
    return Site((*convs, root), [Convolution.of(conv) for conv in convs])


@pytest.mark.parametrize("example", [0, 1, 2, 3, 5])
def test_weights_in_another_order_are_disproved(example: int) -> None:
    mutant = mutate(MergeParallelConvs, rewrite=_reversed)
    assert_disproved(mutant, merge_parallel_convs.EXAMPLES[example])


@pytest.mark.parametrize("reason", ["grouped", "join channels"])
def test_groups_and_other_axes_are_disproved(reason: str) -> None:
    (text,) = (text for text, why in merge_parallel_convs.NEAR_MISSES if why == reason)
    assert_disproved(mutate(MergeParallelConvs, find=_without_check), text)
