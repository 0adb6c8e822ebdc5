"""Spell the inverse of a pixel shuffle as SpaceToDepth.

    x (N, C, H * b, W * b)  as (N, C, H, b, W, b)  permuted to (N, b, b, C, H, W)
        =  SpaceToDepth(x)
    ... permuted to (N, C, b, b, H, W), as torch's pixel_unshuffle
        =  Gather(SpaceToDepth(x), channels in the other order)

and merged to (N, C * b * b, H, W). A block with the operator is 2.2 to 2.4 times faster in ONNX
Runtime than with the Transpose of six dimensions, and 1.4 to 2.2 times with the Gather
(benchmarks/spellings.py, "inverse pixel shuffle"). Only for the types it has a kernel for.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.rule import NoSite, Site
from advconv_onnx.rewriter.shuffle import Shuffle, ShuffleRule, shuffle_of, shuffle_text

_BLOCKS_FIRST, _CHANNELS_FIRST = (0, 3, 5, 1, 2, 4), (0, 1, 3, 5, 2, 4)

Plan = tuple[Shuffle, int, int]


class SpellSpaceToDepth(ShuffleRule[Plan]):
    """Reshape(Transpose(Reshape(x))) -> SpaceToDepth(x)."""

    name = "spell_space_to_depth"
    minimum_opset = 5

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        shuffle = shuffle_of(root)
        if shuffle.x.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            raise NoSite
        return Site(shuffle.nodes, (shuffle, *_block_and_channels(shuffle)))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        shuffle, block, channels = plan
        y = op.SpaceToDepth(shuffle.x, blocksize=block)
        if shuffle.perm == _BLOCKS_FIRST:
            return y
        order = np.arange(block * block * channels).reshape(block * block, channels).T.reshape(-1)
        return op.Gather(y, op.initializer(order, "channels"), axis=1)


def _block_and_channels(shuffle: Shuffle) -> tuple[int, int]:
    if len(shuffle.sizes) != 4 or len(shuffle.split) != 6:
        raise NoSite
    batch, channels, *whole = shuffle.sizes
    _, _, height, block, width, _ = shuffle.split
    known = (channels, block, height, width, *whole)
    if shuffle.perm not in (_BLOCKS_FIRST, _CHANNELS_FIRST) or not all(
        isinstance(size, int) for size in known
    ):
        raise NoSite
    count, size = int(channels), int(block)
    is_split = shuffle.split == (batch, channels, height, block, width, block)
    if not is_split or shuffle.merged != (batch, count * size * size, height, width):
        raise NoSite
    return size, count


RULE = SpellSpaceToDepth()


def _model(
    split: str, perm: str, merged: str, x: str = "float[N, 3, 4, 6]", out: str = "float[] z"
) -> str:
    return shuffle_text(split, perm, merged, x, out)


_ONNX, _TORCH = "0, 3, 5, 1, 2, 4", "0, 1, 3, 5, 2, 4"

EXAMPLES = (
    _model("-1, 3, 2, 2, 3, 2", _ONNX, "-1, 12, 2, 3"),
    _model("0, 3, 2, 2, 3, 2", _TORCH, "0, 12, 2, 3"),
    _model("2, 1, 2, 3, 1, 3", _ONNX, "2, 9, 2, 1", "float[2, 1, 6, 3]"),
    _model("-1, 2, 2, 2, 3, 2", _TORCH, "-1, 8, 2, 3", "double[N, 2, 4, 6]", "double[] z"),
)

NEAR_MISSES = (
    (_model("-1, 3, 2, 2, 3, 2", "0, 5, 3, 1, 2, 4", "-1, 12, 2, 3"), ""),
    (_model("-1, 3, 2, 2, 2, 3", _ONNX, "-1, 18, 2, 2"), ""),
    (_model("-1, 3, 2, 2, 3, 2", _ONNX, "-1, 12, 3, 2"), ""),
    (_model("-1, 3, 2, 2, 3, 2", _ONNX, "-1, 12, 2, 3", "int32[N, 3, 4, 6]", "int32[] z"), ""),
    (_model("-1, 3, 2, 2, 3, 2", _ONNX, "-1, 12, 2, 3", out="float[] z, float[] a"), "also an out"),
)
