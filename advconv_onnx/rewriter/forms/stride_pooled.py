"""Compose a convolution and the AveragePool behind it: one convolution with the pool's strides.

    pool(conv(x, w, c) + b)  =  conv(x, w * box, c s) + b

with box the pool's mean over p outputs at stride s, whose pixels lie c apart for the convolution,
c the convolution's strides. Along each axis k taps of dilation d become

    K  =  ((p - 1) c + (k - 1) d) / g + 1                    (g the common divisor of all offsets)

taps of dilation g. Each output pixel of the pool then costs K instead of k s multiplications per
axis: 16 instead of 36 for 3x3 and a pool of 2x2. With one thread, 1x1 convolutions before and
behind: 1.5 to 1.9 times as fast for 3x3 and a pool of 2x2 (64 channels at 56x56 ... 256 at 14x14),
2.5 for 5x5, 2.6 for 3x3 and a pool of 4x4, 1.4 for a pool of 3x3 and strides of 2, 1.2 to 1.4 where
the convolution has strides of 2; depthwise 1.35 (3x3), 1.6 (5x5) and, for a pool of 3x3 and strides
of 2, 1.2; 0.97 to 1.09 for 1x1 and 2x2, where it multiplies as much (``pool_pointwise`` multiplies
less). The weights grow as the taps do. Refused where it multiplies more, and where the pool is
padded or overhangs: its mean there is over fewer pixels, or over zeros that no convolution makes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import onnx_ir as ir

from advconv_onnx.algebra import axis as algebra
from advconv_onnx.algebra.axis import AxisOperator
from advconv_onnx.algebra.certificate import Certificate, certify, certify_all_sizes
from advconv_onnx.algebra.factor import Factorization
from advconv_onnx.algebra.toom_cook import Matrix
from advconv_onnx.rewriter.averaging import Averaging, certify_constant, combined
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.layer_site import operator_of
from advconv_onnx.rewriter.layout import sizes_of
from advconv_onnx.rewriter.rule import Refused, Site
from advconv_onnx.rewriter.sliding import Sliding
from advconv_onnx.rewriter.walk import producer


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Both layers and what they become.

    Attributes:
        composed: how the new kernel slides.
        spreads: by spatial axis, what each new tap takes of the old ones.
        sizes: pixels along each spatial axis, None where dynamic.
    """

    convolution: Convolution
    averaging: Averaging
    composed: Sliding
    spreads: tuple[Matrix, ...]
    sizes: tuple[int | None, ...]


class StridePooled(Form[_Plan]):
    """AveragePool(Conv(x)) -> strided Conv(x)."""

    name = "stride_pooled"
    roots = frozenset(("AveragePool",))

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        node = producer(root.inputs[0], "Conv", graph=root.graph)
        convolution, averaging = Convolution.of(node), Averaging.of(root)
        if averaging.is_padded:
            raise Refused("the pool is padded or overhangs")
        sliding = Sliding.of(convolution)
        composed = _composed(sliding, averaging)
        before = math.prod(k * s for k, s in zip(sliding.kernel, averaging.strides, strict=True))
        if math.prod(composed.kernel) > before:
            raise Refused("the composed kernel multiplies more")
        spreads = tuple(_spread(sliding, averaging, composed, i) for i in range(len(composed.ends)))
        sizes = tuple(n if isinstance(n, int) else None for n in sizes_of(convolution.x)[2:])
        if any(n and n + grown < 1 for n, grown in zip(sizes, composed.growth, strict=True)):
            raise Refused("the pool has no output")
        return Site((node, root), _Plan(convolution, averaging, composed, spreads, sizes))

    def certify(self, plan: _Plan) -> Iterable[Certificate]:
        for axis, size in enumerate(plan.sizes):
            yield _certify(plan, axis, size)
            mean = functools.partial(plan.averaging.operator, axis)
            flat = f"axis {axis}: a constant through the pool"
            yield certify_constant(flat, mean, (plan.averaging.kernel[axis],))

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        convolution = plan.convolution
        weight = convolution.weight.astype(np.float64)
        for axis, spread in enumerate(plan.spreads, start=2):
            taps = np.tensordot(weight, np.array(spread, np.float64), axes=(axis, 1))
            weight = np.moveaxis(taps, -1, axis)
        attributes = plan.composed.attributes
        return convolution.rebuild(op, convolution.x, weight, convolution.bias, **attributes)


def _composed(sliding: Sliding, averaging: Averaging) -> Sliding:
    """How the kernel of both slides."""
    axes = range(len(sliding.kernel))
    offsets = [_offsets(sliding, averaging, axis) for axis in axes]
    dilations = tuple(math.gcd(*(o for row in rows for o in row)) or 1 for rows in offsets)
    return Sliding(
        tuple(offsets[axis][-1][-1] // dilations[axis] + 1 for axis in axes),
        tuple(c * s for c, s in zip(sliding.strides, averaging.strides, strict=True)),
        dilations,
        sliding.begins,
        sliding.ends,
    )


def _offsets(sliding: Sliding, averaging: Averaging, axis: int) -> list[list[int]]:
    """Where each tap of the convolution lies, for each pixel of the pool's window."""
    step, dilation = sliding.strides[axis], sliding.dilations[axis]
    taps = range(sliding.kernel[axis])
    return [[j * step + k * dilation for k in taps] for j in range(averaging.kernel[axis])]


def _spread(sliding: Sliding, averaging: Averaging, composed: Sliding, axis: int) -> Matrix:
    """What each composed tap takes of the convolution's taps: (K, k)."""
    mean = Fraction(1, averaging.kernel[axis])
    places = list(zip(*_offsets(sliding, averaging, axis), strict=True))
    dilation = composed.dilations[axis]
    taps = range(composed.kernel[axis])
    return tuple(tuple(mean * own.count(t * dilation) for own in places) for t in taps)


def _certify(plan: _Plan, axis: int, size: int | None) -> Certificate:
    composed = plan.composed
    identity = f"axis {axis}: the mean of {plan.averaging.kernel[axis]} outputs in the kernel"
    pads, stride = (composed.begins[axis], composed.ends[axis]), composed.strides[axis]

    def want(n: int) -> AxisOperator:
        convolved = operator_of((plan.convolution.node,), axis, n)
        return plan.averaging.operator(axis, convolved.outputs).after(convolved)

    def got(n: int) -> Factorization:
        slides = algebra.convolution(
            n, composed.kernel[axis], stride=stride, dilation=composed.dilations[axis], pads=pads
        )
        return combined(plan.spreads[axis], slides)

    if size:
        return certify(identity, want(size), got(size))
    reach = composed.spans[axis] + stride + max(pads)
    return certify_all_sizes(identity, want, got, stride, reach)


FORMS = (StridePooled(),)


def _model(
    conv: str,
    pool: str = "kernel_shape = [2, 2], strides = [2, 2]",
    weight: tuple[int, ...] = (3, 4, 3, 3),
    size: str = "H, W",
    inputs: str = "x, w, b",
    opset: int = 19,
) -> str:
    numbers = ", ".join(str(n * 5 % 7 - 3) for n in range(math.prod(weight)))
    bias = ", ".join(str(n + 1) for n in range(weight[0]))
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, 4, {size}] x) => (float[] z)
    <float[{", ".join(map(str, weight))}] w = {{{numbers}}}, float[{weight[0]}] b = {{{bias}}}>
    {{ u = Conv <{conv}> ({inputs}) z = AveragePool <{pool}> (u) }}"""


_PADDED = "pads = [1, 1, 1, 1]"

EXAMPLES = (
    _model(_PADDED),
    _model(_PADDED, inputs="x, w", size="9, 8"),
    _model("pads = [2, 1, 0, 3], strides = [2, 1]", weight=(2, 4, 5, 3)),
    _model(f"{_PADDED}, group = 4", weight=(4, 1, 3, 3)),
    _model(f"{_PADDED}, group = 2", "kernel_shape = [3, 3], strides = [2, 2]", (4, 2, 3, 3)),
    _model("dilations = [2, 1], strides = [2, 1]", weight=(2, 4, 3, 3), size="11, 9"),
    _model('auto_pad = "SAME_LOWER"', "kernel_shape = [2, 3], strides = [2, 3]"),
    _model("group = 1", "kernel_shape = [1, 2], strides = [2, 3]", size="5, 9", opset=7),
    _model("pads = [1, 1]", "kernel_shape = [4], strides = [4]", (3, 4, 3), "9"),
)

NEAR_MISSES = (
    (_model(_PADDED, "kernel_shape = [3, 3]"), "more"),
    (_model(_PADDED, "kernel_shape = [2, 2], strides = [2, 2], pads = [1, 0, 0, 0]"), "padded"),
    (_model(_PADDED, "kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1"), "overhangs"),
    (_model(_PADDED, 'kernel_shape = [2, 2], auto_pad = "SAME_UPPER"'), "padded"),
    (_model(_PADDED, "kernel_shape = [2, 2], strides = [2, 2], dilations = [2, 2]"), "dilated"),
    (_model('auto_pad = "SAME_UPPER", strides = [2, 2]'), "auto_pad"),
    (_model(_PADDED).replace("z =", "k = Relu(u) z =").replace("(u) }", "(k) }"), ""),
    (
        _model(_PADDED)
        .replace("z =", "k =")
        .replace("(u) }", "(u) z = Concat <axis = 0> (k, u) }"),
        "also",
    ),
)
