"""Mutants of trim_kernel: taps that are not zero dropped, pads or dilations left as they were."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.fusions import trim_kernel
from advconv_onnx.rewriter.fusions.trim_kernel import TrimKernel
from advconv_onnx.rewriter.sliding import Sliding
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _other_pads(own: Sliding, old: Sliding) -> Sliding:
    return dataclasses.replace(own, begins=old.begins, ends=old.ends)


def _swapped_pads(own: Sliding, old: Sliding) -> Sliding:
    return dataclasses.replace(own, begins=own.ends, ends=own.begins)


def _other_dilations(own: Sliding, old: Sliding) -> Sliding:
    return dataclasses.replace(own, dilations=old.dilations)


@pytest.mark.parametrize(
    ("change", "example"),
    [
        (_other_pads, 0),
        (_other_pads, 10),
        (_other_pads, 8),
        (_swapped_pads, 5),
        (_other_dilations, 3),
        (_other_dilations, 4),
        (_other_dilations, 9),
    ],
)
def test_another_geometry_is_disproved(change: Any, example: int) -> None:
    def rewrite(self: TrimKernel, op: Builder, plan: Any) -> ir.Value:
        sliding = change(plan.sliding, Sliding.of(plan.convolution))
        return TrimKernel.rewrite(self, op, dataclasses.replace(plan, sliding=sliding))

    assert_disproved(mutate(TrimKernel, rewrite=rewrite), trim_kernel.EXAMPLES[example])


@pytest.mark.parametrize("example", [0, 3, 5, 8])
def test_dropping_a_tap_that_is_not_zero_is_disproved(
    example: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = trim_kernel._used

    def fewer(convolution: Convolution, axis: int) -> list[int]:
        taps = used(convolution, axis)
        return taps[1:] if len(taps) > 1 else taps

    monkeypatch.setattr(trim_kernel, "_used", fewer)
    assert_disproved(TrimKernel(), trim_kernel.EXAMPLES[example])
