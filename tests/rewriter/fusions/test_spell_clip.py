"""Mutants of spell_clip: bounds in the wrong order, lost, or misread."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from advconv_onnx.rewriter.fusions import spell_clip
from advconv_onnx.rewriter.fusions.spell_clip import SpellClip
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate

_REAL = SpellClip()
_RELU6 = spell_clip.EXAMPLES[0]
_BEYOND = spell_clip.EXAMPLES[9]


def _planning(change: Any) -> Any:
    """The rule with other bounds than it found."""

    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        site = _REAL.find(root, opset)
        x, low, high = site.plan
        return dataclasses.replace(site, plan=(x, *change(low, high)))

    return mutate(SpellClip, find=find)


@pytest.mark.parametrize(
    ("change", "example"),
    [
        (lambda low, high: (low, float("inf")), _RELU6),
        (lambda low, high: (-float("inf"), high), _RELU6),
        (lambda low, high: (low, high + 1e-3), _RELU6),
        (lambda low, high: (low + 1e-3, high), _RELU6),
        (lambda low, high: (-6, high), _RELU6),
        # The inner bounds win where they are disjoint from the outer ones.
        (lambda low, high: (1, 1), _BEYOND),
    ],
)
def test_other_bounds_are_disproved(change: Any, example: str) -> None:
    assert_disproved(_planning(change), example)


@pytest.mark.parametrize(
    ("nodes", "x"),
    [
        ("z = Min(x, k)", "N, 3, H, W"),
        ("z = Min(x, four)", "N"),
        ("z = Max(x, k)", "N, 3, H, W"),
        ("z = Mul(x, four)", "N, 3, H, W"),
        ("z = Max(x, k)", "N, 1, H, W"),
    ],
)
def test_what_is_no_bound_by_one_number_is_disproved(nodes: str, x: str) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        low, high = (4, float("inf")) if root.op_type == "Max" else (-float("inf"), 4)
        return Site((root,), (root.inputs[0], low, high))

    assert_disproved(
        mutate(SpellClip, find=find, roots=frozenset(("Min", "Max", "Mul"))),
        f"""<ir_version: 8, opset_import: ["" : 13]> g (float[{x}] x) => (float[] z)
        <float[3, 1, 1] k = {{4, 4, 3}}, float[1, 1, 1, 1] four = {{4}}> {{ {nodes} }}""",
    )
