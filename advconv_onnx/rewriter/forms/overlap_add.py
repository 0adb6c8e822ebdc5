"""A one-dimensional ConvTranspose of long strides as matrix products that are overlapped and added.

    y[(u s + r) - p]  =  sum_j  (w_j x)[u - j]_r        with w_j = taps j s ... j s + s - 1

Each of the q = kernel / stride pieces of the kernel is a product of its own, which is shifted by
whole blocks of s outputs before all are added, so that long rows are moved and never single
numbers. The multiplications are those of the ConvTranspose, whose sum over all taps is a serial
pass in ONNX Runtime: 1.07 to 1.18 times as fast for kernel 2048, stride 512 and one channel, as
in the inverse of a short-time Fourier transform, but 0.7 to 0.95 for kernel 16 and stride 8. Sizes
may be dynamic. Two axes would have their blocks moved twice: 0.5 to 0.85 times as fast for kernel
16 and stride 8, or 8 and 4, with 1 to 21 channels, where ``split_phases`` stacked is 1.0 to 1.6.

What is certified is the layer in units of g outputs, the greatest common divisor of kernel, stride
and pads: tap g k + r reaches output g o + r only, so that every r is a layer of its own, and all
are alike. Refused for short strides, where the pieces are not long, for groups and dilations, and
where the kernel has too many units.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from advconv_onnx.algebra import axis as algebra
from advconv_onnx.algebra.axis import AxisOperator
from advconv_onnx.algebra.certificate import Certificate, certify_all_sizes
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.rule import NoSite, Refused, Site
from advconv_onnx.rewriter.sliding import Sliding

_SHORTEST_STRIDE = 16
"""Of a ConvTranspose that may gain."""

_MOST_UNITS = 32
"""Of a kernel, for a certificate that takes no longer than others."""


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A layer and how its pieces are put together.

    Attributes:
        pads: of the products of each piece, in blocks: before and behind.
        cuts: outputs that are cut before and behind.
    """

    convolution: Convolution
    sliding: Sliding
    pads: tuple[tuple[int, int], ...]
    cuts: tuple[int, int]


class OverlapAdd(Form[_Plan]):
    """ConvTranspose(x) -> the sum of shifted MatMul(x)."""

    name = "overlap_add"
    roots = frozenset(("ConvTranspose",))
    minimum_opset = 13

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        convolution = Convolution.of(root)
        if convolution.rank != 3:
            raise NoSite
        if root.attributes.get_ints("output_shape", None):
            raise Refused("the ConvTranspose fixes its output_shape")
        sliding = Sliding.of(convolution)
        [taps], [stride] = sliding.kernel, sliding.strides
        if stride < _SHORTEST_STRIDE:
            raise Refused("the stride is short")
        if convolution.group > 1 or sliding.dilations != (1,):
            raise Refused("the ConvTranspose has groups or dilations")
        behind = convolution.output_padding[0] - sliding.ends[0]
        pieces = -(-(taps + max(0, behind)) // stride)
        cuts = sliding.begins[0], pieces * stride - taps - behind
        pads = tuple((j, pieces - 1 - j) for j in range(pieces))
        plan = _Plan(convolution, sliding, pads, cuts)
        if taps // _unit(plan) > _MOST_UNITS:
            raise Refused("kernel, stride and pads have no large common divisor")
        return Site((root,), plan)

    def certify(self, plan: _Plan) -> Iterable[Certificate]:
        unit = _unit(plan)
        sliding = plan.sliding
        taps, step, begin, end, extra = (
            number[0] // unit
            for number in (
                *(sliding.kernel, sliding.strides, sliding.begins, sliding.ends),
                plan.convolution.output_padding,
            )
        )

        def want(size: int) -> AxisOperator:
            return algebra.transposed_convolution(
                size, taps, stride=step, pads=(begin, end), output_padding=extra
            )

        def got(size: int) -> AxisOperator:
            pieces = [algebra.pad(size, *pads) for pads in plan.pads]
            outputs = range(pieces[0].outputs * step)
            spread = AxisOperator(
                size,
                tuple(
                    tuple(
                        pieces[k // step].rows[0][o // step] if (o - k) % step == 0 else ()
                        for o in outputs
                    )
                    for k in range(taps)
                ),
            )
            return algebra.crop(len(outputs), *(cut // unit for cut in plan.cuts)).after(spread)

        identity = f"axis 0, in units of {unit}: {len(plan.pads)} pieces overlapped and added"
        reach = len(plan.pads) + (begin + end) // step + 1
        yield certify_all_sizes(identity, want, got, period=1, reach=reach)

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        convolution = plan.convolution
        [stride], channels = plan.sliding.strides, convolution.out_channels
        x = op.Transpose(convolution.x, perm=[0, 2, 1])
        products = [
            op.MatMul(x, op.initializer(piece, "weight")) for piece in _pieces(plan, stride)
        ]
        blocks = [
            op.Pad(y, op.initializer(np.array([0, before, 0, 0, behind, 0]), "pads"))
            for y, (before, behind) in zip(products, plan.pads, strict=True)
        ]
        y = op.Sum(*blocks)
        if channels > 1:
            rows = op.Reshape(y, op.initializer(np.array([0, 0, channels, stride]), "shape"))
            y = op.Transpose(rows, perm=[0, 2, 1, 3])
        y = op.Reshape(y, op.initializer(np.array([0, channels, -1]), "shape"))
        if any(plan.cuts):
            start, end = plan.cuts[0], -plan.cuts[1] or 2**31 - 1
            numbers = {"starts": [start], "ends": [end], "axes": [2]}
            y = op.Slice(y, *(op.initializer(np.array(n), name) for name, n in numbers.items()))
        if convolution.bias.any():
            bias = convolution.bias.reshape(-1, 1).astype(convolution.weight.dtype)
            y = op.Add(y, op.initializer(bias, "bias"))
        return y


def _unit(plan: _Plan) -> int:
    """Outputs that are alike: the greatest common divisor of all lengths."""
    sliding = plan.sliding
    lengths = (sliding.kernel, sliding.strides, sliding.begins, sliding.ends)
    return math.gcd(*(number for (number,) in lengths), *plan.convolution.output_padding)


def _pieces(plan: _Plan, stride: int) -> list[np.ndarray]:
    """The weight of each piece: a matrix (C_in, C_out * stride)."""
    weight = plan.convolution.weight
    zeros = len(plan.pads) * stride - weight.shape[2]
    filled = np.pad(weight, ((0, 0), (0, 0), (0, zeros)))
    blocks = filled.reshape(*weight.shape[:2], -1, stride)
    return [
        np.ascontiguousarray(blocks[:, :, j].reshape(len(weight), -1))
        for j in range(len(plan.pads))
    ]


FORMS = (OverlapAdd(),)


def _model(conv: str, weight: tuple[int, ...], x: str = "N, 2, L") -> str:
    numbers = ", ".join(str(n * 5 % 7 - 3) for n in range(math.prod(weight)))
    sizes = ", ".join(map(str, weight))
    channels = weight[1] * (2 if "group" in conv else 1)
    return f"""<ir_version: 8, opset_import: ["" : 18]>
    g (float[{x}] x) => (float[] z)
    <float[{sizes}] w = {{{numbers}}},
     float[{channels}] b = {{{", ".join(str(n + 1) for n in range(channels))}}}>
    {{ z = ConvTranspose <{conv}> (x, w, b) }}"""


EXAMPLES = (
    _model("strides = [16]", (2, 1, 64)),
    _model("strides = [16], pads = [8, 8]", (2, 3, 32)),
    _model("strides = [16], pads = [16, 4], output_padding = [12]", (2, 2, 40)),
    _model("strides = [17]", (2, 1, 17)),
)

NEAR_MISSES = (
    (_model("strides = [8]", (2, 1, 16)), "short"),
    (_model("strides = [16], group = 2", (2, 1, 32)), "groups"),
    (_model("strides = [16], dilations = [2]", (2, 1, 32)), "dilations"),
    (_model("strides = [16]", (2, 1, 33)), "divisor"),
    (_model("strides = [16], output_shape = [99]", (2, 1, 32)), "output_shape"),
    (_model('strides = [16], auto_pad = "SAME_LOWER"', (2, 1, 32)), "auto_pad"),
    (_model("strides = [16, 16]", (2, 1, 32, 2), "N, 2, H, W"), ""),
)
