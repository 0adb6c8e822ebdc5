"""Move a 1x1 convolution from behind a Resize that enlarges to before it, where pixels are fewer.

    conv1x1(resize(x), w) + b  =  resize(conv1x1(x, w) + b)

The one mixes channels and the other pixels, so the order is free; the bias passes because all
weights of an output pixel of nearest, linear and cubic interpolation add up to 1. Both are
certified. It saves s_h s_w - 1 of s_h s_w multiplications, and resizes the convolution's output
channels instead of its inputs: with one thread 1.54 times as fast for 256 to 64 channels (28x28,
linear x2; with a 1x1 convolution before and behind), 1.65 for 128 to 64 (nearest), 3.8 for 64 to 16
(cubic), but 0.92 times for 32 to 128. Refused where the Resize shrinks, where its scales are
unknown, given as sizes (which name the channels), or depend on a dynamic size.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable

import onnx_ir as ir

from advconv_onnx.algebra import axis as algebra
from advconv_onnx.algebra.axis import AxisOperator
from advconv_onnx.algebra.certificate import Certificate, certify, certify_all_sizes
from advconv_onnx.rewriter.averaging import certify_constant
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.layer_site import LayerSite, operator_of
from advconv_onnx.rewriter.resizing import check_sizes, spatial_scales
from advconv_onnx.rewriter.rule import NoSite, Refused, Site

_REACH = 4
"""Pixels from an end beyond which no interpolation feels it."""


@dataclasses.dataclass(frozen=True)
class _Plan:
    layer: LayerSite
    resize: ir.Node


class SwapPointwise(Form[_Plan]):
    """Conv1x1(Resize(x)) -> Resize(Conv1x1(x))."""

    name = "swap_pointwise"
    roots = frozenset(("Conv",))

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        layer = LayerSite.of(root)
        if layer.resize is None:
            raise NoSite
        convolution = layer.convolution
        if math.prod(convolution.kernel) > 1 or any(s > 1 for s in convolution.strides):
            raise NoSite
        if len(layer.nodes) > 2 or convolution.is_padded:
            raise Refused("the image is padded between Resize and Conv")
        _check_scales(layer, layer.resize)
        return Site(layer.nodes, _Plan(layer, layer.resize))

    def certify(self, plan: _Plan) -> Iterable[Certificate]:
        for axis, size in enumerate(plan.layer.sizes):
            yield _certify_order(plan, axis, size)
            resize = functools.partial(operator_of, (plan.resize,), axis)
            sizes = (size,) if size else range(1, 2 * _REACH + 4)
            yield certify_constant(f"axis {axis}: a constant through the Resize", resize, sizes)

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        convolution, resize = plan.layer.convolution, plan.resize
        y = convolution.rebuild(op, plan.layer.x, convolution.weight, convolution.bias)
        enlarge = getattr(op, resize.op_type)
        enlarged: ir.Value = enlarge(y, *resize.inputs[1:], **resize.attributes)
        return enlarged


def _check_scales(layer: LayerSite, resize: ir.Node) -> None:
    scales = spatial_scales(resize, len(layer.sizes))
    if math.prod(scales) <= 1:
        raise Refused("the Resize does not enlarge")
    check_sizes(resize, scales, layer.sizes, longest_period=1)


def _certify_order(plan: _Plan, axis: int, size: int | None) -> Certificate:
    identity = f"axis {axis}: Resize behind the 1x1 convolution"

    def want(n: int) -> AxisOperator:
        return plan.layer.operator(axis, n)

    def got(n: int) -> AxisOperator:
        return operator_of((plan.resize,), axis, n).after(algebra.convolution(n, 1))

    if size:
        return certify(identity, want(size), got(size))
    return certify_all_sizes(identity, want, got, period=1, reach=_REACH)


FORMS = (SwapPointwise(),)


def _model(
    resize: str = 'mode = "nearest"',
    scales: str = "1, 1, 2, 2",
    conv: str = "group = 1",
    weight: str = "3, 4, 1, 1",
    size: str = "H, W",
    resized: str = "(x, , s)",
) -> str:
    return f"""<ir_version: 8, opset_import: ["" : 18]> g (float[N, 4, {size}] x) => (float[] z)
    <float[4] s = {{{scales}}}, int64[4] t = {{1, 4, 6, 8}}, float[3] b = {{1, -2, 3}},
     float[{weight}] w = {{1, -2, 3, 4, 5, -6, 7, 8, 1, 2, -3, 4}}>
    {{ u = Resize <{resize}> {resized} z = Conv <{conv}> (u, w, b) }}"""


EXAMPLES = (
    _model(),
    _model('mode = "linear"'),
    _model('mode = "cubic", cubic_coeff_a = -0.5', "1, 1, 3, 2"),
    _model('mode = "linear", coordinate_transformation_mode = "align_corners"', size="5, 4"),
    _model('mode = "linear"', "1, 1, 1.5, 2", size="6, W"),
)

NEAR_MISSES = (
    (_model(conv="strides = [2, 2]"), ""),
    (_model(conv="pads = [0, 1, 0, 0]"), "padded"),
    (_model(scales="1, 1, 0.5, 1"), "enlarge"),
    (_model(resized="(x, , , t)", size="3, 4"), "sizes"),
    (_model('mode = "linear"', "1, 1, 1.5, 2"), "dynamic"),
    (_model('mode = "linear", coordinate_transformation_mode = "align_corners"'), "dynamic"),
    (_model('mode = "linear", antialias = 1'), "antialias"),
    (_model().replace("z =", "k =").replace("b) }", "b) z = Concat <axis = 1> (k, u) }"), "also"),
)
