"""Merge convolutions of one input whose outputs a Concat joins into one convolution.

    Concat(conv(x, v) + b, conv(x, w) + c)  =  conv(x, [v; w]) + [b; c]

for Conv and ConvTranspose that slide alike and have one group. The multiplications stay the same,
the input is read once, and what was joined is computed in place: 1.15 to 1.9 times as fast. Refused
where the convolutions differ in more than weights and output channels, where they are grouped (the
channels of a group would have to stay together), where one is joined twice, and where something
else reads an output: it would need a Split (``benchmarks/structures.py``).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.sliding import alike
from advconv_onnx.rewriter.walk import producer

Plan = list[Convolution]


class MergeParallelConvs(Rule[Plan]):
    """Concat(Conv(x), Conv(x)) -> Conv(x)."""

    name = "merge_parallel_convs"
    roots = frozenset(("Concat",))

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        convs = [producer(v, "Conv", "ConvTranspose", graph=root.graph) for v in root.inputs]
        if len(convs) < 2 or len({conv.inputs[0] for conv in convs}) > 1:
            raise NoSite
        if len(set(convs)) < len(convs):
            raise Refused("one convolution is joined twice: it would be computed twice")
        convolutions = [Convolution.of(conv) for conv in convs]
        first = convolutions[0]
        if root.attributes.get_int("axis", 1) % first.rank != 1:
            raise Refused("the Concat does not join channels")
        if any(not alike(first, other) for other in convolutions[1:]):
            raise Refused("the convolutions slide differently")
        if first.group > 1:
            raise Refused("the convolutions are grouped: their channels would be in another order")
        return Site((*convs, root), convolutions)

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        first = plan[0]
        axis = 1 if first.transposed else 0
        weight = np.concatenate([convolution.weight for convolution in plan], axis)
        bias = np.concatenate([convolution.bias for convolution in plan])
        return first.rebuild(op, first.x, weight, bias)


RULE = MergeParallelConvs()


def _numbers(*shape: int, seed: int = 0) -> str:
    values = ", ".join(str((n * 5 + seed) % 7 - 3) for n in range(int(np.prod(shape))))
    return f"float[{', '.join(map(str, shape))}] {{}} = {{{{{values}}}}}"


def _model(nodes: str, spatial: str = "H, W", opset: int = 15, **w: str) -> str:
    constants = ", ".join(text.format(name) for name, text in w.items())
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, 4, {spatial}] x) => (float[] z) <{constants}> {{ {nodes} }}"""


_JOIN = "z = Concat <axis = 1> (a, b)"
_V, _W = _numbers(3, 4, 2, 3), _numbers(2, 4, 2, 3, seed=1)

EXAMPLES = (
    _model(f"a = Conv(x, v) b = Conv(x, w, k) {_JOIN}", v=_V, w=_W, k=_numbers(2)),
    _model(
        "a = Conv <strides = [2, 1], pads = [1, 0, 0, 2], dilations = [1, 2]> (x, v, k)"
        " b = Conv <strides = [2, 1], pads = [1, 0, 0, 2], dilations = [1, 2], group = 1> (x, w)"
        " c = Conv <strides = [2, 1], pads = [1, 0, 0, 2], dilations = [1, 2]> (x, v)"
        " z = Concat <axis = -3> (a, b, c)",
        v=_V,
        w=_W,
        k=_numbers(3),
    ),
    _model(
        'a = Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (x, v)'
        f' b = Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (x, w) {_JOIN}',
        v=_V,
        w=_W,
    ),
    _model(
        "a = ConvTranspose <strides = [2, 2], output_padding = [1, 0]> (x, v)"
        f" b = ConvTranspose <strides = [2, 2], output_padding = [1, 0]> (x, w, k) {_JOIN}",
        v=_numbers(4, 3, 2, 3),
        w=_numbers(4, 1, 2, 3, seed=1),
        k=_numbers(1, seed=3),
    ),
    _model(
        f"a = Conv <pads = [1, 1]> (x, v) b = Conv <pads = [1, 1], strides = [1]> (x, w) {_JOIN}",
        "L",
        9,
        v=_numbers(3, 4, 3),
        w=_numbers(1, 4, 3, seed=1),
    ),
    _model(
        f"a = Conv(x, v) b = Conv(x, w) {_JOIN}",
        "D, H, W",
        v=_numbers(3, 4, 1, 2, 1),
        w=_numbers(1, 4, 1, 2, 1, seed=1),
    ),
)

NEAR_MISSES = (
    (_model("a = Conv(x, v) z = Concat <axis = 1> (a, a)", v=_V), "twice"),
    (
        _model(
            "a = Conv(x, v) b = Conv(x, w) z = Concat <axis = 2> (a, b)",
            v=_V,
            w=_numbers(3, 4, 2, 3, seed=2),
        ),
        "join channels",
    ),
    (
        _model(f"a = Conv(x, v) b = Conv <pads = [0, 1, 0, 0]> (x, w) {_JOIN}", v=_V, w=_W),
        "slide differently",
    ),
    (
        _model(
            f"a = Conv(x, v) b = Conv(x, w) {_JOIN}", v=_numbers(3, 4, 1, 2), w=_numbers(2, 4, 1, 3)
        ),
        "slide differently",
    ),
    (
        _model(
            f"a = Conv <group = 2> (x, v) b = Conv <group = 2> (x, w) {_JOIN}",
            v=_numbers(4, 2, 1, 2),
            w=_numbers(2, 2, 1, 2),
        ),
        "grouped",
    ),
    (
        _model(f"a = Conv <group = 2> (x, v) b = Conv(x, w) {_JOIN}", v=_numbers(2, 2, 2, 3), w=_W),
        "slide differently",
    ),
    (
        _model(
            f"a = Conv(x, v) b = ConvTranspose(x, w) {_JOIN}",
            v=_numbers(4, 4, 1, 1),
            w=_numbers(4, 4, 1, 1),
        ),
        "slide differently",
    ),
    (_model(f"r = Relu(x) a = Conv(x, v) b = Conv(r, w) {_JOIN}", v=_V, w=_W), ""),
    (_model(f"a = Conv(x, v) c = Conv(x, w) b = Relu(c) {_JOIN}", v=_V, w=_W), ""),
    (
        _model(
            "a = Conv(x, v) b = Conv(x, w) y = Concat <axis = 1> (a, b) c = Relu(b)"
            " z = Concat <axis = 1> (y, c)",
            v=_V,
            w=_W,
        ),
        "also read by",
    ),
    (
        _model(f"r = Relu(k) a = Conv(x, v, r) b = Conv(x, w) {_JOIN}", v=_V, w=_W, k=_numbers(3)),
        "bias is not constant",
    ),
)
