"""Mutants of drop_dead_channels: other channels dropped, activations that make zero something."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions import drop_dead_channels
from advconv_onnx.rewriter.fusions.drop_dead_channels import DropDeadChannels
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _last(kept: Any) -> Any:
    return kept + 1


def _fewer(kept: Any) -> Any:
    return kept[1:]


@pytest.mark.parametrize("change", [_last, _fewer])
@pytest.mark.parametrize("example", range(len(drop_dead_channels.EXAMPLES)))
def test_dropping_a_channel_that_is_alive_is_disproved(change: Any, example: int) -> None:
    def rewrite(self: DropDeadChannels, op: Builder, plan: Any) -> ir.Value:
        other = dataclasses.replace(plan, kept=change(plan.kept))
        return DropDeadChannels.rewrite(self, op, other)

    mutant = mutate(DropDeadChannels, rewrite=rewrite)
    assert_disproved(mutant, drop_dead_channels.EXAMPLES[example])


def test_a_filter_of_zeros_with_a_bias_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        drop_dead_channels, "_is_zero", lambda first: ~np.any(first.weight, axis=(1, 2, 3))
    )
    assert_disproved(DropDeadChannels(), drop_dead_channels.NEAR_MISSES[1][0])


def test_an_activation_of_zero_may_be_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drop_dead_channels, "_KEEP_ZERO", frozenset(("Sigmoid",)))
    assert_disproved(DropDeadChannels(), drop_dead_channels.NEAR_MISSES[2][0])
