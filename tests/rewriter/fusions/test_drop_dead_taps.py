"""Mutants of drop_dead_taps: taps that see a pixel dropped, pads left as they were."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions import drop_dead_taps
from advconv_onnx.rewriter.fusions.drop_dead_taps import DropDeadTaps
from advconv_onnx.rewriter.sliding import Sliding
from tests.rewriter.fusions.disproving import assert_disproved, mutate


@pytest.mark.parametrize("example", [0, 1, 3, 4, 6, 8])
def test_pads_of_the_whole_kernel_are_disproved(example: int) -> None:
    def rewrite(self: DropDeadTaps, op: Builder, plan: Any) -> ir.Value:
        old = Sliding.of(plan.convolution)
        sliding = dataclasses.replace(plan.sliding, begins=old.begins, ends=old.ends)
        return DropDeadTaps.rewrite(self, op, dataclasses.replace(plan, sliding=sliding))

    assert_disproved(mutate(DropDeadTaps, rewrite=rewrite), drop_dead_taps.EXAMPLES[example])


@pytest.mark.parametrize("example", [0, 1, 2, 3, 4, 6])
def test_other_taps_are_disproved(example: int) -> None:
    def rewrite(self: DropDeadTaps, op: Builder, plan: Any) -> ir.Value:
        """The taps before those that stay, along every axis that is cut."""
        kept = tuple(
            slice(part.start - 1, part.stop - 1, part.step) if part.start else part
            for part in plan.kept
        )
        return DropDeadTaps.rewrite(self, op, dataclasses.replace(plan, kept=kept))

    assert_disproved(mutate(DropDeadTaps, rewrite=rewrite), drop_dead_taps.EXAMPLES[example])


@pytest.mark.parametrize("miss", [1, 5])
def test_dropping_a_tap_that_sees_a_pixel_is_disproved(
    miss: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop_dead_taps, "_reaches", lambda offset, *_: offset == 0)
    assert_disproved(DropDeadTaps(), drop_dead_taps.NEAR_MISSES[miss][0])
