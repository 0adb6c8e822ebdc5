"""Folding into a Gemm with one mistake is disproved."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.affine import Affine
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions.fold_affine_into_gemm import EXAMPLES, FoldAffineIntoGemm
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _unscale_bias(rule: FoldAffineIntoGemm, op: Builder, plan: Any) -> ir.Value:
    product, affine = plan
    unbiased = dataclasses.replace(product, bias=product.bias / affine.scale)
    return FoldAffineIntoGemm.rewrite(rule, op, (unbiased, affine))


def _forget_shift(rule: FoldAffineIntoGemm, op: Builder, plan: Any) -> ir.Value:
    product, affine = plan
    unshifted = Affine(affine.scale, 0 * affine.shift)
    return FoldAffineIntoGemm.rewrite(rule, op, (product, unshifted))


def _reverse_columns(rule: FoldAffineIntoGemm, op: Builder, plan: Any) -> ir.Value:
    product, affine = plan
    reversed_ = Affine(affine.scale[::-1], affine.shift)
    return FoldAffineIntoGemm.rewrite(rule, op, (product, reversed_))


@pytest.mark.parametrize("mistake", [_unscale_bias, _forget_shift, _reverse_columns])
def test_a_mistake_is_disproved(mistake: Any) -> None:
    assert_disproved(mutate(FoldAffineIntoGemm, rewrite=mistake), EXAMPLES[0])
