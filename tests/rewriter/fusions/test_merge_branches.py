"""Mutants of merge_branches: checks left out, taps and signs in the wrong place."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx.parser
import onnx_ir as ir
import pytest

from advconv_onnx.optimizer.transaction import fuse
from advconv_onnx.rewriter.affine import Affine
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions import merge_branches
from advconv_onnx.rewriter.fusions.merge_branches import MergeBranches
from advconv_onnx.rewriter.simplify import settle
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _all_added(plan: Any) -> Any:
    branches = tuple(dataclasses.replace(branch, sign=1) for branch in plan.branches)
    return dataclasses.replace(plan, branches=branches)


def _shift_dropped(plan: Any) -> Any:
    scale, shift = plan.pointwise.scale, plan.pointwise.shift
    return dataclasses.replace(plan, pointwise=Affine(scale, 0 * shift))


def _input_dropped(plan: Any) -> Any:
    return dataclasses.replace(plan, pointwise=None)


def _in_the_corner(plan: Any) -> Any:
    """Each kernel's first tap where the result has its first."""
    begins = plan.sliding.begins
    branches = tuple(
        dataclasses.replace(branch, sliding=dataclasses.replace(branch.sliding, begins=begins))
        for branch in plan.branches
    )
    return dataclasses.replace(plan, branches=branches)


@pytest.mark.parametrize(
    ("change", "example"),
    [
        (_all_added, 5),
        (_all_added, 13),
        (_shift_dropped, 0),
        (_input_dropped, 1),
        (_input_dropped, 4),
        (_in_the_corner, 2),
        (_in_the_corner, 3),
        (_in_the_corner, 6),
        (_in_the_corner, 8),
    ],
)
def test_mutant_is_disproved(change: Any, example: int) -> None:
    def rewrite(self: MergeBranches, op: Builder, plan: Any) -> ir.Value:
        return MergeBranches.rewrite(self, op, change(plan))

    mutant = mutate(MergeBranches, rewrite=rewrite)
    assert_disproved(mutant, merge_branches.EXAMPLES[example])


@pytest.mark.parametrize(
    ("check", "reason"), [("_check_alike", "different sizes"), ("_check_keeps_shape", "another")]
)
def test_a_sum_that_broadcasts_is_disproved(
    check: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes agree only for an image as small as the kernel, whose result is one pixel."""
    texts = [text for text, why in merge_branches.NEAR_MISSES if reason in why]
    text = next(text for text in texts if "Conv(x, w)" in text and "3, 3" in text)
    monkeypatch.setattr(merge_branches, check, lambda *_: None)
    assert_disproved(MergeBranches(), text)


def test_all_branches_of_a_tree_of_additions_become_one() -> None:
    """Even those of which two alone would take more multiplications."""
    weights = ("float[4, 4, 1, 3] u", "float[4, 4, 3, 1] v", "float[4, 4, 3, 3] w")
    constants = ", ".join(
        f"{weight} = {{{', '.join(str(n % 5 - 2) for n in range(size))}}}"
        for weight, size in zip(weights, (48, 48, 144), strict=True)
    )
    text = f"""<ir_version: 8, opset_import: ["" : 15]> g (float[N, 4, H, W] x) => (float[] z)
    <{constants}> {{
        a = Conv <pads = [0, 1, 0, 1]> (x, u)
        b = Conv <pads = [1, 0, 1, 0]> (x, v)
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        d = Add(a, b) e = Add(d, c) z = Add(x, e)
    }}"""
    model = settle(ir.from_proto(onnx.parser.parse_model(text)))
    result = fuse(model, [MergeBranches()], seed=0)
    assert [node.op_type for node in result.model.graph] == ["Conv"]
