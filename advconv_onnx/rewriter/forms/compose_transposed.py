"""Compose a ConvTranspose and the Conv behind it; one small convolution for each output phase.

    conv(convT(x, w), v)  =  convT(x, u)        u[d (K - 1 - k) + t]  =  sum_k,t  v[k] w[t]

with K taps k of the Conv, d apart, and taps t of the ConvTranspose: matrix products over the
channels between. The zeros that the Conv pads are where no pixel of x reaches, so that borders are
exact; refused where the ConvTranspose cuts off pixels that padding then stands for. The composed
layer is computed by ``split_phases``.

A bias between is missing in the padding, and so the pixels near a border get another sum. It is
made the weight of a channel of ones behind those of x, which a convolution by zeros makes where
ONNX Runtime has its blocks (but an infinite pixel makes it NaN; Pad costs up to a tenth more).
The ones are certified to stay ones through the ConvTranspose, whose kernel must be its stride then.

In a U-Net, 2 C to C channels by 2x2 at stride 2 and C to C by 3x3, that is 8 C^2 + 36 C^2
multiplications per pixel of x apart and 4 phases of 4 taps, 32 C^2, composed; the image between
and its serial pass are saved as well. Refused where multiplications are no fewer. As part of 1x1,
Relu, both, Relu, 1x1, on one AVX-512 core that others used too, without a bias, the time apart over
that composed: 1.3 to 1.4 for C = 512 (16x16), 1.2 to 1.3 for 256 (32x32), 1.2 to 1.4 for 128
(64x64), 1.2 to 1.3 for 64 (128x128), 3.6 for 64 to 32 to 3 (128x128, stacked), about 1.1 for 32 to
16 (128x128); with one, 1.3, 1.3, 1.15, 1.0 to 1.2, 3.0 and 1.0; with two cores 1.0 to 1.2. A
ConvTranspose of the composed weights took longer, 0.6 to 1.0, and is no variant. Toom-Cook along
the rows of the phases adds a tenth for C = 512 and 256 and loses for fewer channels.

Needs a Conv without stride, layers without groups, and sizes that the spelling of the interleave
can do with; ``stacked_depth_to_space`` needs none.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from advconv_onnx.algebra import axis as algebra
from advconv_onnx.algebra.axis import AxisOperator
from advconv_onnx.algebra.certificate import Certificate, certify_all_sizes
from advconv_onnx.rewriter.activated import ACTIVATIONS, activate, activated
from advconv_onnx.rewriter.blocked import WIDEST_BLOCK
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.forms.split_phases import SplitPhases
from advconv_onnx.rewriter.layer_site import operator_of
from advconv_onnx.rewriter.rule import NoSite, Refused, Site
from advconv_onnx.rewriter.sliding import Sliding
from advconv_onnx.rewriter.walk import input_of, producer


@dataclasses.dataclass(frozen=True)
class _Axis:
    """One spatial axis of the composed layer.

    Attributes:
        places: by tap of the Conv and tap of the ConvTranspose, the tap that is their product's.
        taps: how many there are.
        stride: of the ConvTranspose.
        pads: cut from the output.
    """

    places: tuple[range, ...]
    taps: int
    stride: int
    pads: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class _Composed:
    """Two layers in one.

    Attributes:
        ones: whether the input gets a channel of ones for the bias between.
    """

    first: Convolution
    second: Convolution
    activation: ir.Node | None
    axes: tuple[_Axis, ...]
    ones: bool

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """Of the site."""
        layers = self.first.node, self.second.node
        return (*layers, self.activation) if self.activation else layers


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The composed layer, and the plan of ``split_phases`` for it."""

    composed: _Composed
    phases: Any


class ComposeTransposed(Form[_Plan]):
    """Conv(ConvTranspose(x)) -> small Convs and an interleave."""

    roots = frozenset(("Conv",)) | ACTIVATIONS
    minimum_opset = 11

    def __init__(self, name: str, split: SplitPhases) -> None:
        """Choose a variant.

        Args:
            name: of the form.
            split: how the composed layer is computed.
        """
        self.name = name
        self._split = split

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        conv, activation = activated(root)
        if conv.op_type != "Conv":
            raise NoSite
        first = Convolution.of(producer(conv.inputs[0], "ConvTranspose", graph=root.graph))
        second = Convolution.of(conv)
        if first.group > 1 or second.group > 1:
            raise Refused("a convolution has groups")
        ones = _needs_ones(first, second)
        composed = _Composed(first, second, activation, _axes(first, second), ones)
        _check_multiplications(composed)
        x = ir.Value(shape=first.x.shape, type=first.x.type)
        layer = _layer(composed, x, first.in_channels)
        plan = _Plan(composed, self._split.find(layer[-1], opset).plan)
        return Site(composed.nodes, plan)

    def certify(self, plan: _Plan) -> Iterable[Certificate]:
        composed = plan.composed
        for index, axis in enumerate(composed.axes):
            yield _certify_axis(composed, index, axis)
            if composed.ones:
                yield _certify_ones(composed.first, index, axis)
        yield from self._split.certify(plan.phases)

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        composed = plan.composed
        x = _with_ones(op, composed.first) if composed.ones else composed.first.x
        channels = composed.first.in_channels + (WIDEST_BLOCK if composed.ones else 0)
        layer = _layer(composed, x, channels)
        phases = self._split.find(layer[-1], op.opset).plan

        @functools.cache
        def weighted() -> Convolution:
            return dataclasses.replace(phases.layer.convolution, weight=_weight(composed))

        y = self._split.rewrite_with(op, phases, weighted)
        layer[0].replace_input_with(0, None)
        return y


def _axes(first: Convolution, second: Convolution) -> tuple[_Axis, ...]:
    """The composed layer.

    Raises:
        Refused: it is no transposed convolution.
    """
    if first.node.attributes.get_ints("output_shape", None):
        raise Refused("the ConvTranspose fixes its output_shape")
    if any(stride > 1 for stride in second.strides):
        raise Refused("the Conv is strided")
    inner, outer = Sliding.of(first), Sliding.of(second)
    axes = []
    for i, extra in enumerate(first.output_padding):
        cuts = inner.begins[i], inner.ends[i] - extra
        padded = outer.begins[i], outer.ends[i]
        if any(cut > 0 and pad > 0 for cut, pad in zip(cuts, padded, strict=True)):
            raise Refused("what the ConvTranspose cuts off the Conv would see instead of padding")
        span, step = outer.spans[i], inner.dilations[i]
        begin, end = (span - pad + cut for pad, cut in zip(padded, cuts, strict=True))
        if min(begin, end) < 0:
            raise Refused("the layer ends in pixels that see nothing but padding")
        length = inner.spans[i] + 1
        places = tuple(range(at, at + length, step) for at in range(span, -1, -outer.dilations[i]))
        axes.append(_Axis(places, span + length, inner.strides[i], (begin, end)))
    return tuple(axes)


def _needs_ones(first: Convolution, second: Convolution) -> bool:
    """Whether a bias between is missing in the padding of the Conv, so that pixels differ in it.

    Raises:
        Refused: the image between holds its bias where nothing else is.
    """
    if input_of(first.node, 2) is None or not second.is_padded:
        return False
    if first.kernel != first.strides or any(first.output_padding):
        raise Refused("a bias goes before padding, and not every pixel has one tap")
    return True


def _check_multiplications(composed: _Composed) -> None:
    """Refuse a composed layer that takes no fewer of them, per pixel of the small image."""
    first, second = composed.first, composed.second
    inputs, between, outputs = first.in_channels, second.in_channels, second.out_channels
    pixels = math.prod(first.strides) * math.prod(second.kernel)
    apart = between * (inputs * math.prod(first.kernel) + pixels * outputs)
    together = inputs * outputs * math.prod(axis.taps for axis in composed.axes)
    if together >= apart:
        raise Refused(f"composed it takes {together} multiplications a pixel, apart {apart}")


def _certify_axis(composed: _Composed, index: int, axis: _Axis) -> Certificate:
    def want(size: int) -> AxisOperator:
        between = operator_of((composed.first.node,), index, size)
        return operator_of((composed.second.node,), index, between.outputs).after(between)

    def got(size: int) -> AxisOperator:
        layer = algebra.transposed_convolution(size, axis.taps, stride=axis.stride, pads=axis.pads)
        places = itertools.chain(*axis.places)
        return dataclasses.replace(layer, rows=tuple(layer.rows[k] for k in places))

    identity = f"axis {index}: both layers as a transposed convolution of {axis.taps} taps"
    return certify_all_sizes(identity, want, got, period=1, reach=_reach(axis))


def _certify_ones(first: Convolution, index: int, axis: _Axis) -> Certificate:
    """The taps of the ConvTranspose, if they are equal, repeat each pixel: ones remain ones."""
    cuts = Sliding.of(first)

    def want(size: int) -> AxisOperator:
        repeated = algebra.resize(size, scale=axis.stride)
        return algebra.crop(repeated.outputs, cuts.begins[index], cuts.ends[index]).after(repeated)

    def got(size: int) -> AxisOperator:
        taps = operator_of((first.node,), index, size).rows
        together = tuple(tuple(sorted(sum(rows, ()))) for rows in zip(*taps, strict=True))
        return AxisOperator(size, (together,))

    identity = f"axis {index}: a channel of ones through the ConvTranspose"
    return certify_all_sizes(identity, want, got, period=1, reach=_reach(axis))


def _reach(axis: _Axis) -> int:
    return (axis.taps + sum(axis.pads)) // axis.stride + 2


def _weight(composed: _Composed) -> NDArray[Any]:
    """The composed weight as ConvTranspose takes it: a sum over pairs of taps."""
    inner, outer = (
        composed.first.weight.astype(np.float64),
        composed.second.weight.astype(np.float64),
    )
    if composed.ones:
        spread = np.zeros((WIDEST_BLOCK, *inner.shape[1:]))
        spread[0] += composed.first.bias.reshape(-1, *[1] * len(composed.axes))
        inner = np.concatenate([inner, spread])
    weight = np.zeros((len(inner), *_shape(composed)))
    for tap in np.ndindex(*outer.shape[2:]):
        at = (axis.places[k] for axis, k in zip(composed.axes, tap, strict=True))
        slices = (slice(place.start, place.stop, place.step) for place in at)
        product = np.tensordot(inner, outer[:, :, *tap], (1, 1))
        weight[:, :, *slices] += np.moveaxis(product, -1, 1)
    return weight.astype(composed.first.weight.dtype)


def _with_ones(op: Builder, first: Convolution) -> ir.Value:
    """The image and a block of ones, made by a convolution so that both stay in blocks."""
    x, dtype = first.x, first.weight.dtype
    kernel = np.zeros((WIDEST_BLOCK, first.in_channels, *[1] * (first.rank - 2)), dtype)
    one = np.ones(WIDEST_BLOCK, dtype)
    ones = op.Conv(x, op.initializer(kernel, "zeros"), op.initializer(one, "ones"))
    joined = op.Concat(x, ones, axis=1)
    joined.type = x.type
    if x.shape is not None:
        batch, _, *sizes = x.shape
        joined.shape = ir.Shape([batch, first.in_channels + WIDEST_BLOCK, *sizes])
    return joined


def _shape(composed: _Composed) -> tuple[int, ...]:
    """Of the composed weight, but for its input channels."""
    return composed.second.out_channels, *(axis.taps for axis in composed.axes)


def _layer(composed: _Composed, x: ir.Value, channels: int) -> list[ir.Node]:
    """The composed ConvTranspose and its activation, in no graph, its weights all zero.

    Their product is only worth its time where the form is chosen.
    """
    zero = np.zeros((), composed.first.weight.dtype)
    weight = np.broadcast_to(zero, (channels, *_shape(composed)))
    first, second = composed.first, composed.second
    op = Builder(0, ())
    bias = second.bias if composed.ones else second.bias + second.response_to(first.bias)
    begins, ends = zip(*(axis.pads for axis in composed.axes), strict=True)
    y = op.ConvTranspose(
        x,
        op.initializer(weight, "weight"),
        op.initializer(bias, "bias"),
        strides=list(first.strides),
        pads=[*begins, *ends],
    )
    activate(op, y, composed.activation)
    return op.nodes


FORMS = (
    ComposeTransposed("compose_transposed_rows", SplitPhases("rows")),
    ComposeTransposed("compose_transposed_planes", SplitPhases("planes")),
    ComposeTransposed(
        "compose_transposed_stacked_channels_last", SplitPhases("channels_last", stacked=True)
    ),
    ComposeTransposed(
        "compose_transposed_stacked_depth_to_space", SplitPhases("depth_to_space", stacked=True)
    ),
)


def _model(
    transposed: str,
    conv: str = "pads = [1, 1, 1, 1]",
    w: tuple[int, ...] = (4, 3, 2, 2),
    v: tuple[int, ...] = (2, 3, 3, 3),
    x: str = "N, 4, 5, 6",
    bias: str = ", b",
) -> str:
    numbers = [", ".join(str(n * 5 % 7 - 3) for n in range(math.prod(s))) for s in (w, v)]
    return f"""<ir_version: 8, opset_import: ["" : 18]>
    g (float[{x}] x) => (float[] z)
    <float[{", ".join(map(str, w))}] w = {{{numbers[0]}}}, float[3] b = {{2, -1, 3}},
     float[{", ".join(map(str, v))}] v = {{{numbers[1]}}}, float[2] c = {{1, -2}}>
    {{ y = ConvTranspose <{transposed}> (x, w{bias}) z = Conv <{conv}> (y, v, c) }}"""


EXAMPLES = (
    _model("strides = [2, 2]"),
    _model("strides = [2, 2]", x="N, 4, H, W"),
    _model("strides = [2, 2]", bias=""),
    _model("strides = [2, 2]", 'auto_pad = "SAME_LOWER"', v=(2, 3, 2, 3)),
    _model("strides = [2, 2]", "pads = [0, 0, 0, 0]")
    .replace("z = C", "k = C")
    .replace("c)", "c) z = LeakyRelu (k)"),
    _model("strides = [2, 2], output_padding = [1, 1]", bias="", w=(4, 3, 3, 3)),
    _model(
        "strides = [3, 2], pads = [1, 0, 0, 1]",
        "pads = [0, 2, 2, 0]",
        w=(4, 3, 3, 2),
        x="2, 4, 5, 6",
    ),
    _model("strides = [2]", "pads = [1, 1]", w=(4, 3, 2), v=(2, 3, 3), x="3, 4, 5"),
)

NEAR_MISSES = (
    (_model("strides = [2, 2]", "strides = [2, 2]"), "strided"),
    (_model("strides = [2, 2], pads = [1, 1, 1, 1]", w=(4, 3, 4, 4), bias=""), "cuts off"),
    (_model("strides = [2, 2]", "pads = [3, 1, 1, 1]"), "nothing but padding"),
    (_model("strides = [2, 2]", w=(4, 3, 3, 3)), "one tap"),
    (_model("strides = [2, 2], output_shape = [10, 12]"), "output_shape"),
    (_model("strides = [2, 2], group = 3", w=(6, 1, 2, 2), x="N, 6, 5, 6"), "groups"),
    (_model("strides = [2, 2]", w=(24, 3, 2, 2), x="N, 24, 5, 6"), "multiplications"),
    (_model("strides = [2, 2]").replace("[] z)", "[] z, float[] y)"), "also"),
    (_model("strides = [2, 2]", v=(2, 3, 1, 1)).replace("= Conv <", "= ConvTranspose <"), ""),
)
