"""Merge convolutions of all parts of a Split, whose results a Concat joins, into a grouped one.

    Concat(conv(x1, w1), conv(x2, w2), ...)  =  conv(x, [w1; w2; ...], group = parts),
    x1, x2, ... = Split(x) along the channels, in equal parts

for Conv and ConvTranspose, parts that are grouped themselves, biases or not, and Slices in place of
the Split. Refused where the convolutions differ in more than their weights, where parts are left
out or in another order, and where the parts of images fill no blocks of 16 channels: in ONNX
Runtime a 3x3 convolution of 2 groups then takes 1.1 to 1.5 times as long as two apart. With filled
blocks it is 1.1 times, depthwise 2.5 times, a 1x1 convolution 1.2 to 2 times as fast
(``benchmarks/structures.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.blocked import BLOCKED_RANK, fills_blocks
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.layout import given_axes, given_ints, sizes_of
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.sliding import alike
from advconv_onnx.rewriter.walk import maker, producer

Plan = tuple[ir.Value, list[Convolution]]


class MergeSplitConvs(Rule[Plan]):
    """Concat(Conv(Split(x))) -> Conv(x)."""

    name = "merge_split_convs"
    roots = frozenset(("Concat",))

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        if len(root.inputs) < 2:
            raise NoSite
        convs = [producer(v, "Conv", "ConvTranspose", graph=root.graph) for v in root.inputs]
        parts = [conv.inputs[0] for conv in convs]
        makers = [producer(part, "Split", "Slice", graph=root.graph) for part in parts]
        x = makers[0].inputs[0]
        if x is None or any(node.inputs[0] is not x for node in makers):
            raise NoSite
        convolutions = [Convolution.of(conv) for conv in convs]
        first = convolutions[0]
        if root.attributes.get_int("axis", 1) % first.rank != 1:
            raise Refused("the Concat does not join channels")
        for other in convolutions[1:]:
            if not alike(first, other) or first.weight.shape != other.weight.shape:
                raise Refused("the convolutions differ in more than their weights")
        _check_parts(x, parts, first.in_channels)
        _check_fast_path(first)
        return Site((*dict.fromkeys((*makers, *convs)), root), (x, convolutions))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        x, convolutions = plan
        first = convolutions[0]
        weight = np.concatenate([convolution.weight for convolution in convolutions])
        bias = np.concatenate([convolution.bias for convolution in convolutions])
        return first.rebuild(op, x, weight, bias, group=first.group * len(convolutions))


def _check_parts(x: ir.Value, parts: list[ir.Value | None], channels: int) -> None:
    """Check that the parts are all of x in order, each of so many channels."""
    sizes = sizes_of(x)
    if sizes[1] != channels * len(parts):
        raise Refused(f"the parts are not known to be all channels: the input has {sizes[1]}")
    split = maker(parts[0], "Split")
    if split is not None:
        axis = split.attributes.get_int("axis", 0) % len(sizes)
        if axis != 1 or tuple(parts) != tuple(split.outputs):
            raise Refused("the convolutions do not read all parts of the Split in their order")
        return
    for index, part in enumerate(parts):
        start, end = _sliced(producer(part, "Slice"), len(sizes))
        end = min(end, channels * len(parts)) if index == len(parts) - 1 else end
        if (start, end) != (index * channels, (index + 1) * channels):
            raise Refused("the convolutions do not read all channels in their order")


def _sliced(node: ir.Node, rank: int) -> tuple[int, int]:
    """Start and end of a Slice of channels."""
    starts, ends = given_ints(node, "starts", 1), given_ints(node, "ends", 2)
    axes = given_axes(node, 3, rank)
    steps = given_ints(node, "steps", 4)
    if starts is None or ends is None or axes != [1] or steps not in (None, [1]):
        raise Refused("a Slice takes something else than channels")
    return starts[0], ends[0]


def _check_fast_path(convolution: Convolution) -> None:
    """Refuse where one grouped convolution is slower than several, as far as was measured."""
    inputs = convolution.in_channels // convolution.group
    outputs = convolution.out_channels // convolution.group
    is_pointwise = convolution.weight[0, 0].size == 1
    is_image = convolution.rank == BLOCKED_RANK and not convolution.transposed
    if is_image and not is_pointwise and not fills_blocks(inputs, outputs):
        raise Refused(f"groups of {inputs} and {outputs} channels do not fill blocks of 16")


RULE = MergeSplitConvs()


def _numbers(*shape: int, seed: int = 0) -> str:
    values = ", ".join(str((n * 5 + seed) % 7 - 3) for n in range(int(np.prod(shape))))
    return f"float[{', '.join(map(str, shape))}] {{}} = {{{{{values}}}}}"


def _model(
    nodes: str, spatial: str = "H, W", opset: int = 13, channels: int | str = 4, **w: str
) -> str:
    constants = ", ".join(text.format(name) for name, text in w.items())
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, {channels}, {spatial}] x) => (float[] z) <{constants}> {{ {nodes} }}"""


def _ints(*values: int) -> str:
    return f"int64[{len(values)}] {{}} = {{{{{', '.join(map(str, values))}}}}}"


_HALVES = "p, q = Split <axis = 1> (x)"
_JOIN = "z = Concat <axis = 1> (a, b)"
_V, _W = _numbers(3, 2, 1, 1), _numbers(3, 2, 1, 1, seed=2)
_K = _numbers(16, 16, 1, 2)
_ONE = _numbers(1, 1, 3, 3)
_SLICED: dict[str, Any] = {
    "one": _ints(1),
    "zero": _ints(0),
    "two": _ints(2),
    "end": _ints(2**31 - 1),
}

EXAMPLES = (
    _model(f"{_HALVES} a = Conv(p, v) b = Conv(q, w) {_JOIN}", v=_V, w=_W),
    _model(
        "p, q = Split <axis = -3> (x) a = Conv <pads = [0, 1, 0, 1], strides = [2, 1]> (p, v)"
        " b = Conv <pads = [0, 1, 0, 1], strides = [2, 1], group = 1> (q, w, k)"
        " z = Concat <axis = -3> (a, b)",
        channels=32,
        v=_K,
        w=_numbers(16, 16, 1, 2, seed=3),
        k=_numbers(16),
    ),
    # Grouped parts, and one channel a part: depthwise.
    _model(
        f"{_HALVES} a = Conv <group = 2, strides = [2, 2]> (p, v)"
        f" b = Conv <group = 2, strides = [2, 2]> (q, w) {_JOIN}",
        channels=8,
        v=_numbers(6, 2, 1, 1),
        w=_numbers(6, 2, 1, 1, seed=1),
    ),
    _model(
        'p, q, r = Split <axis = 1> (x) a = Conv <auto_pad = "SAME_UPPER"> (p, v)'
        ' b = Conv <auto_pad = "SAME_UPPER"> (q, w) c = Conv <auto_pad = "SAME_UPPER"> (r, u)'
        " z = Concat <axis = 1> (a, b, c)",
        channels=3,
        v=_ONE,
        w=_numbers(1, 1, 3, 3, seed=1),
        u=_numbers(1, 1, 3, 3, seed=2),
    ),
    _model(
        f"{_HALVES} a = ConvTranspose <strides = [2, 2]> (p, v, k)"
        f" b = ConvTranspose <strides = [2, 2]> (q, w, k) {_JOIN}",
        v=_numbers(2, 3, 3, 3),
        w=_numbers(2, 3, 3, 3, seed=3),
        k=_numbers(3),
    ),
    _model(
        f"p, q = Split <axis = 1, split = [2, 2]> (x) a = Conv <dilations = [2]> (p, v)"
        f" b = Conv <dilations = [2]> (q, w) {_JOIN}",
        "L",
        9,
        v=_numbers(3, 2, 3),
        w=_numbers(3, 2, 3, seed=1),
    ),
    # Slices.
    _model(
        "p = Slice(x, zero, two, one) q = Slice(x, two, end, one, one)"
        f" a = Conv(p, v) b = Conv(q, w) {_JOIN}",
        v=_V,
        w=_W,
        **_SLICED,
    ),
)

NEAR_MISSES = (
    (
        _model(f"{_HALVES} a = Conv(q, v) b = Conv(p, w) {_JOIN}", v=_V, w=_W),
        "all parts of the Split in their order",
    ),
    (
        _model(
            "p, r, q = Split <axis = 1> (x) a = Conv(p, v) b = Conv(q, w)" + _JOIN,
            channels=6,
            v=_V,
            w=_W,
        ),
        "the input has 6",
    ),
    (
        _model(f"{_HALVES} a = Conv(p, v) b = Conv(p, w) {_JOIN}", v=_V, w=_W),
        "all parts of the Split in their order",
    ),
    (
        _model(
            f"{_HALVES} a = Conv(p, v) b = Conv <pads = [0, 0, 0, 0], strides = [2, 1]> (q, w)"
            f" {_JOIN}",
            v=_V,
            w=_W,
        ),
        "more than their weights",
    ),
    (
        _model(f"{_HALVES} a = Conv(p, v) b = Conv(q, w) {_JOIN}", v=_V, w=_numbers(4, 2, 1, 1)),
        "more than their weights",
    ),
    (
        _model(
            "p, q = Split <axis = 1, split = [2, 3]> (x) a = Conv(p, v) b = Conv(q, w)" + _JOIN,
            opset=11,
            channels=5,
            v=_V,
            w=_numbers(3, 3, 1, 1),
        ),
        "more than their weights",
    ),
    (
        _model(f"{_HALVES} a = Conv(p, v) b = Conv(q, w) z = Concat <axis = 2> (a, b)", v=_V, w=_W),
        "does not join channels",
    ),
    (
        _model(
            f"p, q = Split <axis = 2> (x) a = Conv(p, v) b = Conv(q, w) {_JOIN}",
            v=_numbers(2, 4, 1, 1),
            w=_numbers(2, 4, 1, 1),
        ),
        "the input has 4",
    ),
    (
        _model(
            f"{_HALVES} a = Conv(p, v) b = Conv(q, w) {_JOIN}",
            channels="C",
            v=_V,
            w=_W,
        ),
        "the input has C",
    ),
    (
        _model(
            f"{_HALVES} a = Conv(p, v) b = Conv(q, w) {_JOIN}",
            channels=16,
            v=_numbers(8, 8, 1, 2),
            w=_numbers(8, 8, 1, 2),
        ),
        "do not fill blocks",
    ),
    (
        _model(
            "p = Slice(x, zero, two, one) q = Slice(x, one, end, one)"
            f" a = Conv(p, v) b = Conv(q, w) {_JOIN}",
            channels=4,
            v=_V,
            w=_numbers(3, 2, 1, 1),
            **_SLICED | {"end": _ints(3)},
        ),
        "all channels in their order",
    ),
    (
        _model(
            "p = Slice(x, zero, two, one) q = Slice(x, zero, end, one, two)"
            f" a = Conv(p, v) b = Conv(q, w) {_JOIN}",
            v=_V,
            w=_W,
            **_SLICED,
        ),
        "something else than channels",
    ),
    (
        _model(
            f"{_HALVES} a = Conv(p, v) b = Conv(q, w) c = Relu(b) {_JOIN} d = Add(z, c)", v=_V, w=_W
        ).replace("[] z", "[] d"),
        "also read by",
    ),
    (_model(f"{_HALVES} a = Conv(p, v) r = Conv(q, w) b = Relu(r) {_JOIN}", v=_V, w=_W), ""),
    (_model(f"a = Conv(x, v) b = Conv(x, w) {_JOIN}", v=_K, w=_K, channels=16), ""),
)
