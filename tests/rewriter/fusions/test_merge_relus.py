"""Mutants of merge_relus: signs lost, slopes over one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from advconv_onnx.rewriter.fusions import merge_relus
from advconv_onnx.rewriter.fusions.merge_relus import MergeRelus
from advconv_onnx.rewriter.rule import NoSite, Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate


@pytest.mark.parametrize("text", merge_relus.EXAMPLES)
@pytest.mark.parametrize("change", [lambda s: -s, lambda s: s[::-1], lambda s: s * 0.99])
def test_other_slopes_are_disproved(change: Any, text: str) -> None:
    real = MergeRelus()

    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        site = real.find(root, opset)
        x, slopes = site.plan
        return dataclasses.replace(site, plan=(x, change(slopes)))

    assert_disproved(mutate(MergeRelus, find=find), text)


@pytest.mark.parametrize("near_miss", [0, 2, 3, 4])
def test_what_is_nearly_a_prelu_is_disproved(near_miss: int) -> None:
    def find(self: Any, root: Any, opset: int) -> Site[Any]:
        if root is not root.graph[-1]:
            raise NoSite
        slopes = root.graph.initializers["s"].const_value.numpy()
        return Site(tuple(root.graph), (root.graph.inputs[0], slopes))

    assert_disproved(mutate(MergeRelus, find=find), merge_relus.NEAR_MISSES[near_miss][0])
