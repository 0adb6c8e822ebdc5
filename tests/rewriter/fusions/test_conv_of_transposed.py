"""Mutants of conv_of_transposed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.fusions import conv_of_transposed
from advconv_onnx.rewriter.fusions.conv_of_transposed import ConvOfTransposed
from advconv_onnx.rewriter.rule import Site
from advconv_onnx.rewriter.sliding import Sliding
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _same_pads(self: ConvOfTransposed, op: Builder, plan: Any) -> ir.Value:
    convolution, sliding = plan
    spans = np.array(sliding.spans)
    begins, ends = (tuple((spans - pads).tolist()) for pads in (sliding.begins, sliding.ends))
    other = dataclasses.replace(sliding, begins=begins, ends=ends)
    return ConvOfTransposed.rewrite(self, op, (convolution, other))


def _swapped_pads(self: ConvOfTransposed, op: Builder, plan: Any) -> ir.Value:
    convolution, sliding = plan
    other = dataclasses.replace(sliding, begins=sliding.ends, ends=sliding.begins)
    return ConvOfTransposed.rewrite(self, op, (convolution, other))


def _not_flipped(self: ConvOfTransposed, op: Builder, plan: Any) -> ir.Value:
    convolution, sliding = plan
    spatial = tuple(range(2, convolution.rank))
    weight = np.flip(convolution.weight, spatial)
    other = dataclasses.replace(convolution, weight=weight)
    return ConvOfTransposed.rewrite(self, op, (other, sliding))


def _strided(self: ConvOfTransposed, root: ir.Node, opset: int) -> Site[Any]:
    convolution = Convolution.of(root)
    return Site((root,), (convolution, Sliding.of(convolution)))


@pytest.mark.parametrize(
    ("rewrite", "example"),
    [(_same_pads, 1), (_swapped_pads, 1), (_not_flipped, 0), (_not_flipped, 4)],
)
def test_mutant_is_disproved(rewrite: Any, example: int) -> None:
    mutant = mutate(ConvOfTransposed, rewrite=rewrite)
    assert_disproved(mutant, conv_of_transposed.EXAMPLES[example])


def test_strides_are_disproved() -> None:
    assert_disproved(mutate(ConvOfTransposed, find=_strided), conv_of_transposed.NEAR_MISSES[0][0])
