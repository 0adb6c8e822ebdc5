"""Mutants of the three rules for shuffles: a permutation that is only alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions.spell_channel_shuffle import SpellChannelShuffle
from advconv_onnx.rewriter.fusions.spell_depth_to_space import SpellDepthToSpace
from advconv_onnx.rewriter.fusions.spell_space_to_depth import SpellSpaceToDepth
from advconv_onnx.rewriter.rule import Rule, Site
from advconv_onnx.rewriter.shuffle import shuffle_of
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def text(x: str, split: str, perm: str, merged: str) -> str:
    return f"""<ir_version: 8, opset_import: ["" : 13]> g (float[{x}] x) => (float[] z)
    <int64[{len(split.split(","))}] s = {{{split}}}, int64[4] t = {{{merged}}}> {{
        a = Reshape(x, s)
        b = Transpose <perm = [{perm}]> (a)
        z = Reshape(b, t)
    }}"""


def as_depth_to_space(mode: str) -> Rule[Any]:
    def find(self: SpellDepthToSpace, root: ir.Node, opset: int) -> Site[Any]:
        shuffle = shuffle_of(root)
        return Site(shuffle.nodes, (shuffle.x, 2, mode))

    return mutate(SpellDepthToSpace, find=find)


@pytest.mark.parametrize(
    ("mode", "split", "perm"),
    [
        ("CRD", "-1, 2, 2, 2, 3, 5", "0, 3, 4, 1, 5, 2"),
        ("DCR", "-1, 2, 2, 2, 3, 5", "0, 1, 4, 2, 5, 3"),
        ("DCR", "-1, 2, 2, 2, 3, 5", "0, 3, 4, 2, 5, 1"),
    ],
)
def test_another_pixel_shuffle_is_disproved(mode: str, split: str, perm: str) -> None:
    assert_disproved(as_depth_to_space(mode), text("N, 8, 3, 5", split, perm, "-1, 2, 6, 10"))


def _without_gather(self: SpellSpaceToDepth, op: Builder, plan: Any) -> ir.Value:
    return op.SpaceToDepth(plan[0].x, blocksize=plan[1])


def _inverse_gather(self: SpellSpaceToDepth, op: Builder, plan: Any) -> ir.Value:
    shuffle, block, channels = plan
    order = np.arange(block * block * channels).reshape(channels, -1).T.reshape(-1)
    y = op.SpaceToDepth(shuffle.x, blocksize=block)
    return op.Gather(y, op.initializer(order, "channels"), axis=1)


@pytest.mark.parametrize("rewrite", [_without_gather, _inverse_gather])
def test_channels_in_another_order_are_disproved(rewrite: Any) -> None:
    assert_disproved(
        mutate(SpellSpaceToDepth, rewrite=rewrite),
        text("N, 3, 4, 6", "-1, 3, 2, 2, 3, 2", "0, 1, 3, 5, 2, 4", "-1, 12, 2, 3"),
    )


def _other_groups(self: SpellChannelShuffle, op: Builder, plan: Any) -> ir.Value:
    x, groups, size = plan
    return SpellChannelShuffle.rewrite(self, op, (x, size, groups))


def test_groups_and_their_size_swapped_are_disproved() -> None:
    assert_disproved(
        mutate(SpellChannelShuffle, rewrite=_other_groups),
        text("N, 6, 3, 5", "-1, 2, 3, 3, 5", "0, 2, 1, 3, 4", "-1, 6, 3, 5"),
    )
