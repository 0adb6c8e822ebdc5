"""Mutants of fold_channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.fusions.fold_channels import FoldChannels
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _changing(change: Callable[[Any], Any]) -> Callable[..., ir.Value]:
    def rewrite(self: FoldChannels, op: Builder, plan: Any) -> ir.Value:
        return FoldChannels.rewrite(self, op, change(plan))

    return rewrite


def _keeping_the_bias(self: FoldChannels, op: Builder, plan: Any) -> ir.Value:
    convolution: Convolution = plan.convolution
    return convolution.rebuild(op, plan.x, convolution.weight[plan.outputs], convolution.bias)


_BEHIND = "y = Conv(x, w, b) z = Gather <axis = 1> (y, i)"
_BEFORE = "y = Gather <axis = 1> (x, i) z = Conv(y, w, b)"


@pytest.mark.parametrize(
    ("rewrite", "nodes"),
    [
        (_changing(lambda p: dataclasses.replace(p, outputs=np.argsort(p.outputs))), _BEHIND),
        (_changing(lambda p: dataclasses.replace(p, outputs=np.arange(3))), _BEHIND),
        (_changing(lambda p: dataclasses.replace(p, inputs=p.outputs)), _BEHIND),
        (_keeping_the_bias, _BEHIND),
        (_changing(lambda p: dataclasses.replace(p, inputs=np.argsort(p.inputs))), _BEFORE),
        (_changing(lambda p: dataclasses.replace(p, inputs=np.arange(3))), _BEFORE),
        (_changing(lambda p: dataclasses.replace(p, outputs=p.inputs)), _BEFORE),
    ],
)
def test_mutant_is_disproved(rewrite: Callable[..., ir.Value], nodes: str) -> None:
    assert_disproved(
        mutate(FoldChannels, rewrite=rewrite),
        f"""<ir_version: 8, opset_import: ["" : 15]> g (float[N, 3, H, W] x) => (float[] z)
        <float[3, 3, 1, 1] w = {{1, -2, 3, 4, 5, -6, 7, 8, 9}}, float[3] b = {{1, -2, 3}},
         int64[3] i = {{2, 0, 1}}> {{ {nodes} }}""",
    )
