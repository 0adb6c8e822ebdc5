"""Mutants of merge_resizes: scales that do not multiply, and roundings that do not compose."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from advconv_onnx.rewriter.fusions import merge_resizes
from advconv_onnx.rewriter.fusions.merge_resizes import MergeResizes
from advconv_onnx.rewriter.rule import NoSite, Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate


@pytest.mark.parametrize("example", range(len(merge_resizes.EXAMPLES)))
@pytest.mark.parametrize(
    "change", [lambda n, c, h, w: (n, c, w, h), lambda n, c, h, w: (n, c, h - 1, w)]
)
def test_other_scales_are_disproved(change: Any, example: int) -> None:
    real = MergeResizes()

    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        site = real.find(root, opset)
        x, scales = site.plan
        return dataclasses.replace(site, plan=(x, change(*scales)))

    assert_disproved(mutate(MergeResizes, find=find), merge_resizes.EXAMPLES[example])


@pytest.mark.parametrize(
    ("near_miss", "scales"),
    [(0, (1, 1, 4, 4)), (1, (1, 1, 4, 4)), (3, (1, 1, 1, 2)), (4, (1, 1, 6, 2))],
)
def test_what_does_not_compose_is_disproved(near_miss: int, scales: tuple[int, ...]) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        if root is not root.graph[-1]:
            raise NoSite
        return Site(tuple(root.graph), (root.graph.inputs[0], scales))

    assert_disproved(mutate(MergeResizes, find=find), merge_resizes.NEAR_MISSES[near_miss][0])
