"""Exchange a 1x1 convolution and an AveragePool or shrinking Resize, to where less is computed.

    pool(conv1x1(x, w) + b)  =  conv1x1(pool(x), w) + b             (pool_pointwise)
    conv1x1(pool(x), w) + b  =  pool(conv1x1(x, w)) + b             (pointwise_pool)

The one mixes channels and the other pixels, so the order is free. A bias passes where all weights
of an output pixel add up to 1, which is certified: not where a mean counts zeros of the padding.

``pool_pointwise`` takes the pool (GlobalAveragePool is one, too) to the front. The convolution then
has as many pixels fewer as the pool shrinks, and the pool has input instead of output channels.
With one thread, 1x1 convolutions before and behind: 2.0 to 2.6 times as fast for the transitions of
a DenseNet (256 to 128 channels at 56x56 ... 1024 to 512 at 14x14), 1.5 for 32 to 64, 1.4 for 128 to
32 (28x28), 2.5 to 7 before a GlobalAveragePool, 1.3 for a linear Resize by 1/2 of 64 channels, 1.03
for 256 to 64; 1.3 for 64 to 256 before a pool of 3x3 that shrinks nothing. Refused where the pool
neither shrinks nor gets fewer channels.

``pointwise_pool`` takes the pool behind, where the convolution leaves fewer channels, as in an
Inception's branch of a 3x3 pool: 1.1 times as fast for 192 to 32 (35x35), 768 to 192, 2048 to 192.
``pointwise_pool_depthwise`` spells the pool as a depthwise convolution of equal weights, which adds
the bias behind counted padding and has the activation fused: 1.14 to 1.25. Refused for pools with
strides, where the convolution would grow: 0.76 times for 2x2 and 512 to 32 channels. A Resize is
slow enough to gain all the same where few are left: 1.24 (linear) and 1.07 (nearest) for 256 to 32
by 1/2; refused unless they are fewer by more than the factor by which it shrinks.
"""

from __future__ import annotations

import abc
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
from advconv_onnx.geometry import RESIZES
from advconv_onnx.rewriter.averaging import Averaging, certify_constant, combined
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.layer_site import operator_of
from advconv_onnx.rewriter.layout import sizes_of
from advconv_onnx.rewriter.resizing import check_sizes, spatial_scales
from advconv_onnx.rewriter.rule import NoSite, Refused, Site
from advconv_onnx.rewriter.walk import producer

_CUBIC = 4
"""Pixels from an end beyond which no interpolation feels it."""

_LONGEST_PERIOD = 16
"""Of a Resize on any size, for a certificate that takes no longer than others."""


@dataclasses.dataclass(frozen=True)
class _Pool:
    """What treats all channels alike.

    Attributes:
        node: an AveragePool, GlobalAveragePool or Resize.
        averaging: of an AveragePool.
        sizes: pixels along each spatial axis, None where dynamic.
        scales: factor by which each axis shrinks.
    """

    node: ir.Node
    averaging: Averaging | None
    sizes: tuple[int | None, ...]
    scales: tuple[Fraction, ...]

    @classmethod
    def of(cls, node: ir.Node, image: ir.Value) -> _Pool:
        """Read a node whose input has the sizes of an image."""
        sizes = tuple(size if isinstance(size, int) else None for size in sizes_of(image)[2:])
        if node.op_type == "AveragePool":
            averaging = Averaging.of(node)
            return cls(node, averaging, sizes, tuple(map(Fraction, averaging.strides)))
        if node.op_type in RESIZES:
            return cls(node, None, sizes, _resize_factors(node, sizes))
        known = [size for size in sizes if size]
        if len(known) < len(sizes):
            raise Refused("what the pool weighs depends on a size that is dynamic")
        return cls(node, None, sizes, tuple(map(Fraction, known)))

    @property
    def factor(self) -> Fraction:
        """Input pixels for each output pixel."""
        return math.prod(self.scales, start=Fraction(1))

    @property
    def averages_zeros(self) -> bool:
        return self.averaging is not None and self.averaging.averages_zeros

    def operator(self, axis: int, size: int) -> AxisOperator:
        if self.averaging is not None:
            return self.averaging.operator(axis, size)
        if self.node.op_type in RESIZES:
            return operator_of((self.node,), axis, size)
        return algebra.average_pool(size, size)

    def repeats(self, axis: int) -> tuple[int, int]:
        """Period and reach, as ``certify_all_sizes`` wants them."""
        scale = self.scales[axis]
        reach = self.averaging.kernel[axis] if self.averaging is not None else _CUBIC
        return scale.numerator, reach + math.ceil(scale)

    def apply(self, op: Builder, x: ir.Value) -> ir.Value:
        pooled = op.node(self.node.op_type, (x, *self.node.inputs[1:]), dict(self.node.attributes))
        return pooled.outputs[0]


@dataclasses.dataclass(frozen=True)
class _Plan:
    pool: _Pool
    convolution: Convolution


class _Exchange(Form[_Plan]):
    @abc.abstractmethod
    def _want(self, plan: _Plan, axis: int, size: int) -> AxisOperator:
        """The site."""

    @abc.abstractmethod
    def _got(self, plan: _Plan, axis: int, size: int) -> AxisOperator | Factorization:
        """What it becomes."""

    def certify(self, plan: _Plan) -> Iterable[Certificate]:
        for axis, size in enumerate(plan.pool.sizes):
            identity = f"axis {axis}: {plan.pool.node.op_type} and 1x1 convolution exchanged"
            want = functools.partial(self._want, plan, axis)
            got = functools.partial(self._got, plan, axis)
            period, reach = plan.pool.repeats(axis)
            if size:
                yield certify(identity, want(size), got(size))
            else:
                yield certify_all_sizes(identity, want, got, period, reach)
            if not plan.pool.averages_zeros:
                sizes = (size,) if size else range(1, 2 * reach + 3 * period + 1)
                flat = f"axis {axis}: a constant through {plan.pool.node.op_type}"
                yield certify_constant(flat, functools.partial(plan.pool.operator, axis), sizes)


class PoolPointwise(_Exchange):
    """Pool(Conv1x1(x)) -> Conv1x1(Pool(x))."""

    name = "pool_pointwise"
    roots = frozenset(("AveragePool", "GlobalAveragePool", *RESIZES))

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        node = producer(root.inputs[0], "Conv", graph=root.graph)
        convolution = _pointwise(node)
        pool = _Pool.of(root, convolution.x)
        if pool.averages_zeros and convolution.bias.any():
            raise Refused("the pool averages zeros of its padding, and there is a bias")
        if pool.factor <= 1 and convolution.out_channels <= convolution.in_channels:
            raise Refused("the pool neither shrinks the image nor would have fewer channels")
        return Site((node, root), _Plan(pool, convolution))

    def _want(self, plan: _Plan, axis: int, size: int) -> AxisOperator:
        return plan.pool.operator(axis, size).after(_convolved(plan, axis, size))

    def _got(self, plan: _Plan, axis: int, size: int) -> AxisOperator:
        pooled = plan.pool.operator(axis, size)
        return algebra.convolution(pooled.outputs, 1).after(pooled)

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        convolution = plan.convolution
        pooled = plan.pool.apply(op, convolution.x)
        return convolution.rebuild(op, pooled, convolution.weight, convolution.bias)


class PointwisePool(_Exchange):
    """Conv1x1(Pool(x)) -> Pool(Conv1x1(x))."""

    name = "pointwise_pool"
    roots = frozenset(("Conv",))

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        node = producer(root.inputs[0], "AveragePool", *RESIZES, graph=root.graph)
        convolution = _pointwise(root)
        image = node.inputs[0]
        assert image is not None
        pool = _Pool.of(node, image)
        if pool.averaging is not None and pool.factor > 1:
            raise Refused("the pool has strides, so that the convolution would grow")
        if pool.factor * convolution.out_channels >= convolution.in_channels:
            raise Refused("the channels are not fewer by more than the image would grow")
        self._check_bias(pool, convolution)
        return Site((node, root), _Plan(pool, convolution))

    def _check_bias(self, pool: _Pool, convolution: Convolution) -> None:
        if pool.averages_zeros and convolution.bias.any():
            raise Refused("the pool averages zeros of its padding, and there is a bias")

    def _want(self, plan: _Plan, axis: int, size: int) -> AxisOperator:
        pooled = plan.pool.operator(axis, size)
        return _convolved(plan, axis, pooled.outputs).after(pooled)

    def _got(self, plan: _Plan, axis: int, size: int) -> AxisOperator | Factorization:
        return plan.pool.operator(axis, size).after(algebra.convolution(size, 1))

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        return plan.pool.apply(op, self._convolve(op, plan, plan.convolution.bias))

    def _convolve(self, op: Builder, plan: _Plan, bias: np.ndarray) -> ir.Value:
        x = plan.pool.node.inputs[0]
        assert x is not None
        return plan.convolution.rebuild(op, x, plan.convolution.weight, bias)


class PointwisePoolDepthwise(PointwisePool):
    """Conv1x1(AveragePool(x)) -> depthwise Conv(Conv1x1(x))."""

    name = "pointwise_pool_depthwise"

    def _check_bias(self, pool: _Pool, convolution: Convolution) -> None:
        averaging = pool.averaging
        if averaging is None:
            raise NoSite
        is_uniform = averaging.averages_zeros or not averaging.is_padded
        if averaging.auto_pad.startswith("SAME") or not is_uniform:
            raise Refused("the pool weighs pixels at the border otherwise, or pads by the size")

    def _got(self, plan: _Plan, axis: int, size: int) -> AxisOperator | Factorization:
        averaging = _averaging(plan)
        taps = averaging.kernel[axis]
        pads = averaging.begins[axis], averaging.ends[axis]
        slides = algebra.convolution(size, taps, pads=pads)
        return combined(((Fraction(1, taps),),) * taps, slides)

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        averaging, convolution = _averaging(plan), plan.convolution
        dtype, channels = convolution.weight.dtype, convolution.out_channels
        mean = np.full((channels, 1, *averaging.kernel), 1 / math.prod(averaging.kernel), dtype)
        return op.Conv(
            self._convolve(op, plan, np.zeros(channels)),
            op.initializer(mean, "mean"),
            op.initializer(convolution.bias.astype(dtype), "bias"),
            group=channels,
            pads=[*averaging.begins, *averaging.ends],
        )


def _averaging(plan: _Plan) -> Averaging:
    assert plan.pool.averaging is not None
    return plan.pool.averaging


def _convolved(plan: _Plan, axis: int, size: int) -> AxisOperator:
    return operator_of((plan.convolution.node,), axis, size)


def _pointwise(node: ir.Node) -> Convolution:
    convolution = Convolution.of(node)
    if math.prod(convolution.kernel) > 1 or any(stride > 1 for stride in convolution.strides):
        raise NoSite
    if convolution.is_padded:
        raise Refused("the 1x1 convolution is padded")
    return convolution


def _resize_factors(resize: ir.Node, sizes: tuple[int | None, ...]) -> tuple[Fraction, ...]:
    """The factor by which each spatial axis shrinks."""
    scales = spatial_scales(resize, len(sizes))
    if math.prod(scales) >= 1:
        raise NoSite
    check_sizes(resize, scales, sizes, _LONGEST_PERIOD)
    return tuple(1 / scale for scale in scales)


FORMS = (PoolPointwise(), PointwisePool(), PointwisePoolDepthwise())


def _model(body: str, size: str = "H, W", opset: int = 18) -> str:
    """Convolutions: w from 4 to 2 channels, v from 2 to 4."""
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, 4, {size}] x, float[N, 2, {size}] y) => (float[] z)
    <float[4] s = {{1, 1, 0.5, 0.5}}, float[4] r = {{1, 1, 0.75, 1}}, int64[4] t = {{1, 2, 3, 4}},
     float[2] b = {{3, -2}}, float[4] c = {{1, 2, -3, 4}}, float[2, 4, 1, 1] w =
     {{1, -2, 3, 4, 5, -6, 7, 8}}, float[4, 2, 1, 1] v = {{1, 2, -3, 4, 5, -6, 7, 8}},
     float[1, 4, 1, 1] o = {{1, -2, 3, 4}}>
    {{ {body} }}"""


_SAME = "kernel_shape = [3, 3], strides = [1, 1]"
_HALF = "kernel_shape = [2, 2], strides = [2, 2]"
_CONV = "u = Conv (x, w, b)"

EXAMPLES = (
    _model(f"{_CONV} z = AveragePool <{_HALF}> (u)"),
    _model(f"{_CONV} z = AveragePool <{_HALF}, ceil_mode = 1> (u)"),
    _model(
        f"{_CONV} z = AveragePool <kernel_shape = [3, 2], strides = [2, 1],"
        " pads = [1, 0, 2, 1]> (u)"
    ),
    _model(f'{_CONV} z = AveragePool <{_HALF}, auto_pad = "SAME_LOWER"> (u)'),
    _model(
        "u = Conv (x, w) z = AveragePool <kernel_shape = [2, 2], strides = [2, 1],"
        " pads = [1, 1, 0, 0], count_include_pad = 1> (u)"
    ),
    _model(f"u = Conv (y, v, c) z = AveragePool <{_SAME}> (u)"),
    _model(f"{_CONV} z = GlobalAveragePool (u)", "5, 4"),
    _model(f'{_CONV} z = Resize <mode = "nearest"> (u, , s)'),
    _model(f'{_CONV} z = Resize <mode = "linear"> (u, , s)'),
    _model(f'{_CONV} z = Resize <mode = "linear"> (u, , r)'),
    _model(
        f'{_CONV} z = Resize <mode = "linear", coordinate_transformation_mode = "align_corners">'
        " (u, , s)",
        "7, 4",
    ),
    _model(f"u = AveragePool <{_SAME}, pads = [1, 1, 1, 1]> (x) z = Conv (u, w, b)"),
    _model(
        f"u = AveragePool <{_SAME}, pads = [1, 0, 2, 1], count_include_pad = 1> (x)"
        " z = Conv (u, w, b)"
    ),
    _model('u = Resize <mode = "linear"> (x, , r) z = Conv (u, o)'),
)

NEAR_MISSES = (
    (_model(f"u = Conv <strides = [2, 1]> (x, w, b) z = AveragePool <{_HALF}> (u)"), ""),
    (
        _model(f"u = Conv <pads = [1, 0, 0, 0]> (x, w, b) z = AveragePool <{_HALF}> (u)"),
        "is padded",
    ),
    (_model(f"{_CONV} k = Relu (u) z = AveragePool <{_HALF}> (k)"), ""),
    (_model(f"{_CONV} k = AveragePool <{_HALF}> (u) z = Concat <axis = 0> (k, u)"), "also"),
    (
        _model(
            f"{_CONV} z = AveragePool <{_HALF}, pads = [1, 1, 1, 1], count_include_pad = 1> (u)"
        ),
        "bias",
    ),
    (_model(f"{_CONV} z = AveragePool <{_SAME}> (u)"), "neither"),
    (_model(f"{_CONV} z = AveragePool <{_HALF}, dilations = [2, 1]> (u)", opset=19), "dilated"),
    (
        _model(
            f"{_CONV} z = AveragePool <{_HALF}, ceil_mode = 1, pads = [1, 1, 1, 1],"
            " count_include_pad = 1> (u)"
        ),
        "rounds",
    ),
    (
        _model(
            f"{_CONV} z = AveragePool <kernel_shape = [1, 2], strides = [2, 2], ceil_mode = 1> (u)"
        ),
        "no pixel",
    ),
    (_model(f"{_CONV} z = GlobalAveragePool (u)", "5, W"), "dynamic"),
    (
        _model(f'{_CONV} z = Resize <mode = "linear"> (u, , , t)', "6, 8").replace("[N", "[1"),
        "the channels among them",
    ),
    (_model(f"{_CONV} z = Resize (u, , s)").replace("0.5, 0.5", "2, 0.5"), ""),
    (_model(f"{_CONV} z = Resize (u, , s)").replace("0.5, 0.5", "0.5, 0.59"), "dynamic"),
    (_model(f"{_CONV} z = Resize (u, , q)").replace("float[N, 2, H, W] y", "float[4] q"), "known"),
    (
        _model(
            f'u = AveragePool <{_SAME}, auto_pad = "SAME_UPPER", count_include_pad = 1> (x)'
            " z = Conv (u, w, b)"
        ),
        "by the size",
    ),
    (_model(f'{_CONV} z = Resize <mode = "linear", antialias = 1> (u, , s)'), "antialias"),
    (
        _model(
            f'{_CONV} z = Resize <mode = "linear", coordinate_transformation_mode ='
            ' "align_corners"> (u, , s)'
        ),
        "dynamic",
    ),
    (_model(f"u = AveragePool <{_HALF}> (x) z = Conv (u, o)"), "strides"),
    (_model(f"u = AveragePool <{_SAME}> (y) z = Conv (u, v)"), "fewer"),
    (_model('u = Resize <mode = "linear"> (x, , s) z = Conv (u, w)'), "fewer"),
)
