"""Merge a sum of parallel convolutions of one input into one convolution (RepVGG, MobileOne).

    conv(x, v) + conv(x, w) + s * x + c  =  conv(x, v + w + diag(s)),   biases added

for Conv and ConvTranspose, any number of branches in a tree of Add and Sub, each a convolution, a
BatchNormalization or the input itself. Smaller kernels are placed among zeros where their taps lie
in the largest, dilated ones on the grid of all taps; groups become those that all share. Refused
where strides or the sizes of outputs differ, where the input is no output of its own shape, and
where the result has more weights, that is multiplications per pixel, than the branches together.
A block of RepVGG gets 1.1 times, a depthwise one 1.3 times as fast (``benchmarks/structures.py``).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.affine import Affine, batchnorm
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Array, Convolution
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.sliding import Sliding
from advconv_onnx.rewriter.walk import maker, only_reader

_SUMS = ("Add", "Sub", "Sum")
_MOST_TERMS = 32
"""A longer sum is no block of a network, and would be read again for each of its nodes."""


@dataclasses.dataclass(frozen=True)
class _Term:
    """A value of the sum, and the sign it is added with."""

    value: ir.Value
    sign: int


@dataclasses.dataclass(frozen=True)
class _Branch:
    """A convolution of the sum, times ``sign``."""

    convolution: Convolution
    sliding: Sliding
    sign: int


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is added up.

    Attributes:
        branches: the convolutions; the result looks like the first.
        pointwise: the input and its normalizations added up, (C,) each.
        sliding: of the result.
        groups: of the result.
    """

    branches: tuple[_Branch, ...]
    pointwise: Affine | None
    sliding: Sliding
    groups: int


class MergeBranches(Rule[_Plan]):
    """Add(Conv(x), Conv(x)) -> Conv(x)."""

    name = "merge_branches"
    roots = frozenset(_SUMS)

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        terms, sums = _terms(root)
        nodes = [maker(t.value, "Conv", "ConvTranspose", graph=root.graph) for t in terms]
        inputs = {node.inputs[0] for node in nodes if node is not None}
        if len(inputs) != 1 or len(terms) < 2:
            raise NoSite
        (x,) = inputs
        assert x is not None
        affines: list[tuple[Affine, int]] = []
        normalizations: list[ir.Node] = []
        branches: list[_Branch] = []
        for term, node in zip(terms, nodes, strict=True):
            if node is not None:
                convolution = Convolution.of(node)
                branches.append(_Branch(convolution, Sliding.of(convolution), term.sign))
            elif term.value is x:
                affines.append((Affine(np.ones(1), np.zeros(1)), term.sign))
            else:
                normalization = maker(term.value, "BatchNormalization", graph=root.graph)
                if normalization is None or normalization.inputs[0] is not x:
                    raise NoSite
                affines.append((batchnorm(normalization), term.sign))
                normalizations.append(normalization)
        own = [node for node in nodes if node is not None]
        plan = _plan(branches, affines)
        return Site((*dict.fromkeys((*own, *normalizations)), *sums), plan)

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        first = plan.branches[0].convolution
        blocks: Array = np.zeros(())
        bias = np.zeros(first.out_channels)
        for branch in plan.branches:
            blocks = blocks + branch.sign * _placed(branch, plan)
            bias = bias + branch.sign * branch.convolution.bias
        if plan.pointwise is not None:
            blocks += _diagonal(plan.pointwise.scale, plan, blocks.shape)
            bias = bias + plan.pointwise.shift
        attributes = plan.sliding.attributes | {"group": plan.groups}
        return first.rebuild(op, first.x, first.from_blocks(blocks), bias, **attributes)


def _terms(root: ir.Node) -> tuple[list[_Term], list[ir.Node]]:
    """The terms of the sum that ends in ``root``, and the nodes that add them up, root last."""
    terms: list[_Term] = []
    nodes: list[ir.Node] = []
    waiting = [(root, 1)]
    while waiting:
        node, sign = waiting.pop()
        nodes.append(node)
        for index, value in enumerate(node.inputs):
            assert value is not None
            own = -sign if node.op_type == "Sub" and index == 1 else sign
            inner = maker(value, *_SUMS, graph=root.graph)
            if inner is not None and only_reader(value) is node and len(value.uses()) == 1:
                waiting.append((inner, own))
            else:
                terms.append(_Term(value, own))
        if len(terms) > _MOST_TERMS:
            raise NoSite
    return terms, nodes[::-1]


def _plan(branches: list[_Branch], affines: list[tuple[Affine, int]]) -> _Plan:
    first = branches[0]
    for other in branches[1:]:
        _check_alike(first, other)
    slidings = [branch.sliding for branch in branches]
    pointwise = None
    if affines:
        _check_keeps_shape(first)
        scale = sum(sign * affine.scale for affine, sign in affines)
        shift = sum(sign * affine.shift for affine, sign in affines)
        channels = (first.convolution.out_channels,)
        pointwise = Affine(np.broadcast_to(scale, channels), np.broadcast_to(shift, channels))
        ones, zeros = (1,) * len(first.sliding.kernel), (0,) * len(first.sliding.kernel)
        slidings.append(Sliding(ones, ones, ones, zeros, zeros))
    sliding = _common(slidings)
    groups = math.gcd(*(branch.convolution.group for branch in branches))
    per_output = first.convolution.in_channels // groups
    after = first.convolution.out_channels * per_output * math.prod(sliding.kernel)
    weights = {branch.convolution.node: branch.convolution.weight for branch in branches}
    before = sum(weight.size for weight in weights.values())
    if after > before:
        raise Refused(f"merged it would have {after} weights, more than the {before} of all")
    return _Plan(tuple(branches), pointwise, sliding, groups)


def _check_alike(one: _Branch, other: _Branch) -> None:
    a, b = one.convolution, other.convolution
    if a.transposed != b.transposed:
        raise Refused("one branch is a Conv, another a ConvTranspose")
    if one.sliding.strides != other.sliding.strides:
        raise Refused("the branches have different strides")
    if one.sliding.growth != other.sliding.growth or _extra(a) != _extra(b):
        raise Refused("the branches have outputs of different sizes")
    if (a.in_channels, a.out_channels) != (b.in_channels, b.out_channels):
        raise Refused("the branches have different numbers of channels")
    if a.weight.dtype != b.weight.dtype:
        raise Refused("the branches have weights of different types")


def _extra(convolution: Convolution) -> list[int]:
    """What a ConvTranspose says about the size of its output beyond pads."""
    if convolution.node.attributes.get_ints("output_shape", []):
        raise Refused("a ConvTranspose fixes its output_shape")
    return list(convolution.output_padding)


def _check_keeps_shape(branch: _Branch) -> None:
    """Check that the input can be added to the output without broadcasting."""
    convolution, sliding = branch.convolution, branch.sliding
    resizes = any(stride != 1 for stride in sliding.strides) or any(sliding.growth)
    if resizes or any(_extra(convolution)) or convolution.in_channels != convolution.out_channels:
        raise Refused("the input has another shape than the output of its convolution")


def _common(slidings: list[Sliding]) -> Sliding:
    """The smallest kernel that has all taps of all kernels."""
    axes = [_common_axis(slidings, axis) for axis in range(len(slidings[0].kernel))]
    kernel, dilations, begins, ends = zip(*axes, strict=True)
    return Sliding(kernel, slidings[0].strides, dilations, begins, ends)


def _common_axis(slidings: list[Sliding], axis: int) -> tuple[int, int, int, int]:
    """Taps, dilation and pads of one axis."""
    begin = max(sliding.begins[axis] for sliding in slidings)
    stop = max(sliding.spans[axis] - sliding.begins[axis] for sliding in slidings)
    steps = [sliding.dilations[axis] for sliding in slidings if sliding.kernel[axis] > 1]
    dilation = math.gcd(*steps, *(begin - sliding.begins[axis] for sliding in slidings)) or 1
    span = begin + stop
    return span // dilation + 1, dilation, begin, slidings[0].growth[axis] + stop


def _placed(branch: _Branch, plan: _Plan) -> Array:
    """Blocks of a branch's weights, its taps where they lie in the result's kernel."""
    own = branch.convolution.blocks(plan.groups)
    blocks = np.zeros((*own.shape[:3], *plan.sliding.kernel))
    places: list[Any] = [...]
    for axis, taps in enumerate(branch.sliding.kernel):
        dilation = plan.sliding.dilations[axis]
        begin = (plan.sliding.begins[axis] - branch.sliding.begins[axis]) // dilation
        step = branch.sliding.dilations[axis] // dilation if taps > 1 else 1
        places.append(slice(begin, begin + step * (taps - 1) + 1, step))
    blocks[tuple(places)] = own
    return blocks


def _diagonal(scale: Array, plan: _Plan, shape: tuple[int, ...]) -> Array:
    """Blocks of the convolution that multiplies each channel by its ``scale``."""
    blocks = np.zeros(shape)
    channels = np.arange(shape[1])
    place: list[Any] = [slice(None), channels, channels]
    place += [b // d for b, d in zip(plan.sliding.begins, plan.sliding.dilations, strict=True)]
    blocks[tuple(place)] = scale.reshape(shape[0], -1)
    return blocks


RULE = MergeBranches()


def _numbers(*shape: int, seed: int = 0) -> str:
    size = int(np.prod(shape))
    values = ", ".join(str((n * 5 + seed) % 7 - 3) for n in range(size))
    return f"float[{', '.join(map(str, shape))}] {{}} = {{{{{values}}}}}"


def _model(nodes: str, spatial: str = "H, W", opset: int = 15, channels: int = 4, **w: str) -> str:
    constants = ", ".join(text.format(name) for name, text in w.items())
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, {channels}, {spatial}] x) => (float[] z) <{constants}> {{ {nodes} }}"""


_SAME = "pads = [1, 1, 1, 1]"
_K3, _K1, _B = _numbers(4, 4, 3, 3), _numbers(4, 4, 1, 1, seed=3), _numbers(4, seed=1)
_D3, _D1 = _numbers(4, 1, 3, 3), _numbers(4, 1, 1, 1, seed=2)
_NORM: dict[str, Any] = {
    "s": "float[4] {} = {{1.5, -2, 0.5, 3}}",
    "t": "float[4] {} = {{1, 0, -1, 2}}",
    "m": "float[4] {} = {{0.5, -0.5, 2, 0}}",
    "q": "float[4] {} = {{1, 2, 0.25, 3}}",
}
_NORMALIZED = "n = BatchNormalization(x, s, t, m, q)"

EXAMPLES = (
    # RepVGG and MobileOne, their normalizations folded or not.
    _model(
        f"a = Conv <{_SAME}> (x, w) b = Conv(x, v, k) {_NORMALIZED} z = Sum(a, b, n)",
        w=_K3,
        v=_K1,
        k=_B,
        **_NORM,
    ),
    _model(
        f"a = Conv <{_SAME}, group = 4> (x, w, k) {_NORMALIZED} c = Add(n, x) z = Add(c, a)",
        w=_D3,
        k=_B,
        **_NORM,
    ),
    _model(
        f"a = Conv <{_SAME}, strides = [2, 1]> (x, w) b = Conv <strides = [2, 1]> (x, v)"
        " z = Add(b, a)",
        w=_K3,
        v=_K1,
    ),
    _model(
        f"a = Conv <{_SAME}, group = 4> (x, w, k) b = Conv <group = 4> (x, v) z = Add(b, a)",
        w=_D3,
        v=_D1,
        k=_B,
    ),
    _model(f"a = Conv <{_SAME}> (x, w) z = Add(x, a)", w=_K3),
    _model(f"a = Conv <{_SAME}, group = 2> (x, w) z = Sub(x, a)", w=_numbers(4, 2, 3, 3)),
    # The kernels of an asymmetric block, in one Sum; a kernel twice.
    _model(
        f"a = Conv <{_SAME}> (x, w) b = Conv <pads = [1, 0, 1, 0]> (x, v)"
        " c = Conv <pads = [0, 1, 0, 1]> (x, u, k) z = Sum(b, a, c, x)",
        w=_K3,
        v=_numbers(4, 4, 3, 1),
        u=_numbers(4, 4, 1, 3),
        k=_B,
    ),
    _model("a = Conv(x, w) z = Add(a, a)", w=_K3),
    # Pads that put the smaller kernel off the middle, auto_pad, a dilated grid of taps.
    _model(
        "a = Conv <pads = [2, 0, 0, 1]> (x, w) b = Conv <pads = [1, 0, 0, 0]> (x, v) z = Add(a, b)",
        w=_K3,
        v=_numbers(4, 4, 2, 2),
    ),
    _model('a = Conv <auto_pad = "SAME_LOWER"> (x, w) z = Add(x, a)', w=_numbers(4, 4, 2, 3)),
    _model(
        "a = Conv <dilations = [2, 3], pads = [2, 3, 2, 3]> (x, w) b = Conv(x, v) z = Sum(a, b, x)",
        w=_K3,
        v=_K1,
    ),
    # Channels change, one and three spatial axes, an old opset.
    _model(
        "a = Conv <pads = [1, 1]> (x, w) b = Conv <pads = [2, 2], dilations = [2]> (x, v)"
        " z = Sub(b, a)",
        "L",
        9,
        2,
        w=_numbers(5, 2, 3),
        v=_numbers(5, 2, 3, seed=4),
    ),
    _model(
        "a = Conv <pads = [1, 0, 1, 1, 0, 1]> (x, w) b = Conv(x, v) z = Add(a, b)",
        "D, H, W",
        w=_numbers(2, 4, 3, 1, 3),
        v=_numbers(2, 4, 1, 1, 1),
    ),
    # ConvTranspose.
    _model(
        "a = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]> (x, w)"
        " b = ConvTranspose <strides = [2, 2], output_padding = [1, 1]> (x, v, k) z = Sub(a, b)",
        w=_numbers(4, 2, 3, 3),
        v=_numbers(4, 2, 1, 1),
        k=_numbers(2),
    ),
    _model(
        "a = ConvTranspose <group = 2, strides = [2, 3]> (x, w)"
        " b = ConvTranspose <group = 4, strides = [2, 3]> (x, v) z = Add(a, b)",
        w=_numbers(4, 2, 2, 2),
        v=_numbers(4, 1, 2, 2),
    ),
)

NEAR_MISSES = (
    # 3 + 3 taps would become 9, and two dilated kernels of 9 taps one of 25.
    (
        _model(
            "a = Conv <pads = [1, 0, 1, 0]> (x, w) b = Conv <pads = [0, 1, 0, 1]> (x, v)"
            " z = Add(a, b)",
            w=_numbers(4, 4, 3, 1),
            v=_numbers(4, 4, 1, 3),
        ),
        "weights, more than",
    ),
    (
        _model(
            f"a = Conv <{_SAME}> (x, w) b = Conv <pads = [2, 2, 2, 2], dilations = [2, 2]> (x, v)"
            " z = Add(a, b)",
            w=_K3,
            v=_K3,
        ),
        "weights, more than",
    ),
    (
        _model(f"a = Conv <{_SAME}, group = 4> (x, w) b = Conv(x, v) z = Add(a, b)", w=_D3, v=_K1),
        "weights, more than",
    ),
    # One of them is added twice, but computed once.
    (
        _model(
            "a = Conv <pads = [1, 0, 1, 0]> (x, w) b = Conv <pads = [0, 1, 0, 1]> (x, v)"
            " z = Sum(a, b, a)",
            w=_numbers(4, 4, 3, 1),
            v=_numbers(4, 4, 1, 3),
        ),
        "144 weights, more than the 96",
    ),
    # Sizes that only agree by broadcasting, or for some sizes of the input.
    (_model("a = Conv(x, w) b = Conv(x, v) z = Add(a, b)", w=_K3, v=_K1), "different sizes"),
    (
        _model(
            "a = Conv <pads = [0, 0, 1, 1], strides = [2, 2]> (x, w)"
            " b = Conv <strides = [2, 2]> (x, v) z = Add(a, b)",
            w=_K3,
            v=_K1,
        ),
        "different sizes",
    ),
    (
        _model(
            f"a = Conv <{_SAME}> (x, w) b = Conv(x, v) z = Add(a, b)",
            w=_K3,
            v=_numbers(1, 4, 1, 1),
        ),
        "numbers of channels",
    ),
    (
        _model(f"a = Conv <{_SAME}> (x, w) z = Add(a, x)", channels=1, w=_numbers(4, 1, 3, 3)),
        "another shape",
    ),
    (_model("a = Conv(x, w) z = Add(a, x)", w=_K3), "another shape"),
    (
        _model("a = Conv <strides = [2, 2]> (x, w) z = Add(a, x)", w=_K1),
        "another shape",
    ),
    (
        _model(
            f"a = Conv <{_SAME}, strides = [1, 2]> (x, w) b = Conv(x, v) z = Add(a, b)",
            w=_K3,
            v=_K1,
        ),
        "different strides",
    ),
    (
        _model(f"a = Conv <{_SAME}> (x, w) b = ConvTranspose(x, v) z = Add(a, b)", w=_K3, v=_K1),
        "a Conv, another a ConvTranspose",
    ),
    (
        _model(
            'a = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)'
            " b = Conv <strides = [2, 2]> (x, v) z = Add(a, b)",
            w=_K3,
            v=_K1,
        ),
        "auto_pad",
    ),
    # Other inputs, other terms, other readers.
    (_model("r = Relu(x) a = Conv(x, w) b = Conv(r, w) z = Add(a, b)", w=_K3), ""),
    (_model("r = Relu(x) a = Conv(x, w) z = Add(a, r)", w=_K1), ""),
    (_model("r = Relu(x) a = Conv(x, w) b = Conv(x, w) c = Add(a, r) z = Add(c, b)", w=_K1), ""),
    (
        _model(
            "a = Conv(x, w) b = Conv(x, v) c = Relu(a) d = Add(a, b) z = Add(c, d)", w=_K1, v=_K1
        ),
        "also read by",
    ),
    (
        _model(
            f"a = Conv <{_SAME}> (x, w) n = BatchNormalization <training_mode = 1> (x, s, t, m, q)"
            " z = Add(a, n)",
            w=_K3,
            **_NORM,
        ),
        "training mode",
    ),
    (_model("r = Relu(k) a = Conv(x, w, r) z = Add(a, x)", w=_K1, k=_B), "bias is not constant"),
)
