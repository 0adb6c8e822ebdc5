"""Write a convolution whose weight is block-diagonal in its channels as the grouped one it is.

    conv(x, diag(w1, w2, ...))  =  conv(x, [w1; w2; ...], group = blocks)

for Conv and ConvTranspose, grouped already or not, when all weights off the blocks are exactly
zero. There are ``blocks`` times fewer multiplications, which ONNX Runtime only turns into time
where it has a kernel for the groups. Of images, those are depthwise ones (1.05 to 2.4 times as
fast), of 16 or a multiple of 16 channels (1.1 to 2 times), and 16 or more groups of at least 4
channels against a dense convolution (1.2 to 3.8 times); others, such as 4 groups of 8 or of 12
channels, are refused: they take 1.1 to 1.4 times as long, as thin groups do against wide ones. On
one or three spatial axes and in a ConvTranspose any groups are faster (1.02 to 2.4 times;
``benchmarks/structures.py``).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.blocked import BLOCKED_RANK, fills_blocks
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.convolution import Array, Convolution
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site

_MANY_GROUPS, _FEW_CHANNELS = 16, 4
"""From so many groups of so many channels on, groups win whatever the layout."""

Plan = tuple[Convolution, int]


class GroupBlockDiagonal(Rule[Plan]):
    """Conv(x) -> Conv(x) of more groups."""

    name = "group_block_diagonal"
    roots = frozenset(("Conv", "ConvTranspose"))
    affine_in_weights = False

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        if constant(root.inputs[1]) is None:
            raise NoSite
        convolution = Convolution.of(root)
        spatial = tuple(range(2, convolution.rank))
        # Most weights have no zero at all: the first filter tells.
        if convolution.weight[:1].any(axis=spatial).all():
            raise NoSite
        used = np.asarray(convolution.weight.any(axis=spatial))
        if not used.any():
            raise NoSite
        fitting = [g for g in _finer(convolution) if _is_block_diagonal(used, convolution.group, g)]
        if not fitting:
            raise NoSite
        for groups in fitting:
            if _is_faster(convolution, groups):
                return Site((root,), (convolution, groups))
        raise Refused(f"{fitting[0]} groups would be slower: they do not fill blocks of 16")

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        convolution, groups = plan
        parts = _by_blocks(convolution.weight, convolution.group, groups)
        own = np.arange(parts.shape[1])
        # Two index arrays around a slice: numpy puts their axis first.
        weight = parts[:, own, :, own].swapaxes(0, 1)
        shape = (-1, weight.shape[3], *convolution.weight.shape[2:])
        x, bias = convolution.x, convolution.bias
        return convolution.rebuild(op, x, weight.reshape(shape), bias, group=groups)


def _finer(convolution: Convolution) -> Iterator[int]:
    """Numbers of groups that divide those there are, most groups first."""
    group = convolution.group
    inputs, outputs = convolution.in_channels // group, convolution.out_channels // group
    for inner in range(min(inputs, outputs), 1, -1):
        if inputs % inner == 0 and outputs % inner == 0:
            yield group * inner


def _by_blocks(weight: Array, group: int, groups: int) -> Array:
    """A weight as (group, block, rows, block, columns, ...), blocks on the diagonal being kept."""
    inner = groups // group
    rows, columns = len(weight) // groups, weight.shape[1] // inner
    return weight.reshape(group, inner, rows, inner, columns, *weight.shape[2:])


def _is_block_diagonal(used: Array, group: int, groups: int) -> bool:
    """Whether channels of different groups are not connected."""
    connected = np.asarray(_by_blocks(used, group, groups).any(axis=(0, 2, 4)))
    return not connected[np.eye(len(connected)) == 0].any()


def _is_faster(convolution: Convolution, groups: int) -> bool:
    inputs, outputs = convolution.in_channels // groups, convolution.out_channels // groups
    is_image = convolution.rank == BLOCKED_RANK and not convolution.transposed
    if not is_image or fills_blocks(inputs, outputs):
        return True
    group = convolution.group
    if group > 1 and fills_blocks(inputs * groups // group, outputs * groups // group):
        return False  # Thin groups were measured against a dense convolution, not against these.
    return groups >= _MANY_GROUPS and min(inputs, outputs) >= _FEW_CHANNELS


RULE = GroupBlockDiagonal()


def _weight(shape: tuple[int, ...], groups: int, group: int = 1) -> str:
    """Whole numbers in the blocks of ``groups``, zeros elsewhere."""
    numbers = 1 + np.arange(np.prod(shape)).reshape(shape) % 7
    inner = groups // group
    rows, columns = np.indices(shape[:2])
    blocks = rows // (shape[0] // groups) % inner == columns // (shape[1] // inner)
    numbers[~blocks] = 0
    values = ", ".join(map(str, numbers.ravel().tolist()))
    return f"float[{', '.join(map(str, shape))}] w = {{{values}}}"


def _model(
    attributes: str,
    weight: str,
    channels: int,
    op: str = "Conv",
    spatial: str = "H, W",
    bias: int = 0,
    opset: int = 15,
) -> str:
    given = f", float[{bias}] b = {{{', '.join(map(str, range(bias)))}}}" if bias else ""
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, {channels}, {spatial}] x) => (float[] z)
    <{weight}{given}> {{ z = {op} <{attributes}> (x, w{", b" * bool(bias)}) }}"""


EXAMPLES = (
    # Depthwise, from a dense weight and from a grouped one.
    _model("pads = [1, 0, 1, 2]", _weight((4, 4, 3, 3), 4), 4, bias=4),
    _model("strides = [2, 1], group = 2", _weight((6, 3, 1, 2), 6, 2), 6),
    _model("group = 1, dilations = [1, 2]", _weight((32, 32, 1, 2), 2), 32, bias=32),
    # 8 groups of 8, of which 4 groups of 16 are as few as fill blocks.
    _model('auto_pad = "SAME_UPPER"', _weight((64, 64, 1, 2), 8), 64),
    # Many groups of more inputs than outputs.
    _model("group = 2", _weight((64, 64, 1, 1), 16, 2), 128),
    _model("strides = [2, 2]", _weight((4, 4, 2, 2), 4), 4, "ConvTranspose", bias=4),
    _model("strides = [2, 1]", _weight((4, 6, 1, 3), 2), 4, "ConvTranspose"),
    _model("pads = [1, 1]", _weight((6, 4, 3), 2), 4, spatial="L", opset=9),
    _model(
        "strides = [2, 1, 1]", _weight((4, 6, 1, 2, 1), 2), 4, "ConvTranspose", "D, H, W", bias=6
    ),
)

NEAR_MISSES = (
    (_model("pads = [1, 1, 1, 1]", _weight((24, 24, 3, 3), 3), 24), "would be slower"),
    (_model("pads = [0, 0, 0, 0]", _weight((48, 48, 1, 2), 2), 48), "would be slower"),
    # A depthwise convolution with a multiplier has no kernel of its own.
    (_model("pads = [0, 0, 0, 0]", _weight((8, 4, 1, 2), 4), 4), "would be slower"),
    (_model("group = 4", _weight((4, 1, 2, 2), 4, 4), 4), ""),
    (_model("pads = [0, 0, 0, 0]", _weight((4, 4, 2, 2), 1), 4), ""),
    # Groups that fill blocks, as the form regroup makes them.
    (_model("group = 16", _weight((256, 16, 1, 1), 64, 16), 256), "would be slower"),
    # One weight off the diagonal, and a weight that is zero altogether.
    (_model("group = 1", "float[2, 2, 1, 1] w = {1, 0, 5, 2}", 2), ""),
    (_model("group = 1", "float[2, 2, 1, 1] w = {0, 0, 0, 0}", 2), ""),
)
