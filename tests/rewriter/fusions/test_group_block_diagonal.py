"""Mutants of group_block_diagonal: other blocks kept, weights that are not zero dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.fusions import group_block_diagonal
from advconv_onnx.rewriter.fusions.group_block_diagonal import GroupBlockDiagonal
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _reversed_blocks(self: GroupBlockDiagonal, op: Builder, plan: Any) -> ir.Value:
    convolution, groups = plan
    rows = len(convolution.weight) // groups
    order = np.arange(len(convolution.weight)).reshape(groups, rows)[::-1].ravel()
    inner = groups // convolution.group
    columns = np.arange(convolution.weight.shape[1]).reshape(inner, -1)[::-1].ravel()
    weight = convolution.weight[order][:, columns]
    other = Convolution(convolution.node, weight, convolution.bias, convolution.group)
    return GroupBlockDiagonal.rewrite(self, op, (other, groups))


def _as_if_depthwise(self: GroupBlockDiagonal, root: ir.Node, opset: int) -> Site[Any]:
    convolution = Convolution.of(root)
    return Site((root,), (convolution, convolution.in_channels))


@pytest.mark.parametrize("example", [0, 1, 3, 5, 6])
def test_blocks_in_another_order_are_disproved(example: int) -> None:
    mutant = mutate(GroupBlockDiagonal, rewrite=_reversed_blocks)
    assert_disproved(mutant, group_block_diagonal.EXAMPLES[example])


@pytest.mark.parametrize("miss", [0, 4, 5])
def test_weights_off_the_blocks_are_disproved(miss: int) -> None:
    text, _ = group_block_diagonal.NEAR_MISSES[miss]
    assert_disproved(mutate(GroupBlockDiagonal, find=_as_if_depthwise), text)
