"""Enlarge behind the convolution instead of before it: a transposed convolution and a box filter.

    conv(nearest(x, s), w, pads=p)  =  pool(conv_transpose(x, s' w~, strides=s, pads=c), s, pads=P)

with w~ = w flipped, pool an average over s pixels at stride 1, s' = s_h s_w, and along each axis

    c - P  =  d (k - 1) - s + 1 - p         (whichever of the two is positive; d the dilation)

Repeating a pixel s times is inserting s - 1 zeros and adding up s neighbours; that sum and the
convolution may be exchanged, zero padding included. Of the k multiplications per output pixel and
axis k / s are left: 9 instead of 36 per input pixel for 3x3 and scale 2. It costs one pass over the
enlarged output. Size-free: certified for every size. Refused for other strides, and where the pool
would be padded by more than its window.
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
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.layer_site import LayerSite
from advconv_onnx.rewriter.resizing import nearest_scales
from advconv_onnx.rewriter.rule import NoSite, Refused, Site
from advconv_onnx.rewriter.sliding import Sliding


@dataclasses.dataclass(frozen=True)
class _Plan:
    """One entry of ``scales``, ``begins`` and ``ends`` per spatial axis.

    Attributes:
        begins: c - P before the image.
        ends: c - P behind it.
    """

    layer: LayerSite
    sliding: Sliding
    scales: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]


class PoolTransposed(Form[_Plan]):
    """Conv(Resize(x)) -> AveragePool(ConvTranspose(x))."""

    name = "pool_transposed"
    roots = frozenset(("Conv",))
    minimum_opset = 7

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        layer = LayerSite.of(root)
        if layer.resize is None:
            raise NoSite
        if len(layer.nodes) > 2:
            raise Refused("there is a Pad between Resize and Conv")
        scales = nearest_scales(layer.resize)
        sliding = Sliding.of(layer.convolution)
        if any(stride != 1 for stride in sliding.strides):
            raise Refused("the convolution has strides")
        ends = [
            tuple(
                span - scale + 1 - pad
                for span, scale, pad in zip(sliding.spans, scales, pads, strict=True)
            )
            for pads in (sliding.begins, sliding.ends)
        ]
        if any(-cut >= scale for cuts in ends for cut, scale in zip(cuts, scales, strict=True)):
            raise Refused("the pool would be padded by more than its window")
        return Site(layer.nodes, _Plan(layer, sliding, scales, *ends))

    def certify(self, plan: _Plan) -> Iterable[Certificate]:
        for axis in range(len(plan.scales)):
            yield _certify(plan, axis)

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        convolution = plan.layer.convolution
        scales, cuts = list(plan.scales), (*plan.begins, *plan.ends)
        blocks = convolution.blocks(convolution.group).swapaxes(1, 2) * math.prod(scales)
        weight = np.flip(blocks, tuple(range(3, blocks.ndim))).reshape(-1, *blocks.shape[2:])
        dtype = convolution.weight.dtype
        bias = op.initializer(convolution.bias.astype(dtype), "bias")
        pads = [max(0, -cut) for cut in cuts]
        z = op.ConvTranspose(
            plan.layer.x,
            op.initializer(weight.astype(dtype), "weight"),
            None if any(pads) else bias,  # an average over padding would scale it
            group=convolution.group,
            strides=scales,
            dilations=list(plan.sliding.dilations),
            pads=[max(0, cut) for cut in cuts],
        )
        y = op.AveragePool(z, kernel_shape=scales, pads=pads, count_include_pad=1)
        if not any(pads):
            return y
        spatial = [1] * len(scales)
        return op.Add(y, op.initializer(convolution.bias.reshape(-1, *spatial).astype(dtype), "b"))


def _certify(plan: _Plan, axis: int) -> Certificate:
    scale, sliding = plan.scales[axis], plan.sliding
    cuts = plan.begins[axis], plan.ends[axis]

    def got(size: int) -> AxisOperator:
        spread = algebra.transposed_convolution(
            size,
            sliding.kernel[axis],
            stride=scale,
            dilation=sliding.dilations[axis],
            pads=(max(0, cuts[0]), max(0, cuts[1])),
        ).reversed()
        pads = max(0, -cuts[0]), max(0, -cuts[1])
        pool = algebra.average_pool(spread.outputs, scale, pads=pads, count_include_pad=True)
        return pool.after(spread).scaled(scale)

    return certify_all_sizes(
        f"axis {axis}: box filter behind the convolution",
        lambda size: plan.layer.operator(axis, size),
        got,
        period=1,
        reach=sliding.spans[axis] + scale,
    )


FORMS = (PoolTransposed(),)


def _model(
    conv: str,
    weight: tuple[int, ...],
    resize: str = 'mode = "nearest", coordinate_transformation_mode = "asymmetric",'
    ' nearest_mode = "floor"',
    scales: str = "1, 1, 2, 2",
    spatial: str = "H, W",
    inputs: str = "u, w, b",
) -> str:
    numbers = ", ".join(str(n * 5 % 7 - 3) for n in range(math.prod(weight)))
    rank = len(weight)
    bias = ", ".join(str(n + 1) for n in range(weight[0]))
    return f"""<ir_version: 8, opset_import: ["" : 18]>
    g (float[N, 4, {spatial}] x) => (float[] z)
    <float[{rank}] s = {{{scales}}}, float[{", ".join(map(str, weight))}] w = {{{numbers}}},
     float[{weight[0]}] b = {{{bias}}}>
    {{ u = Resize <{resize}> (x, , s) z = Conv <{conv}> ({inputs}) }}"""


EXAMPLES = (
    _model("pads = [1, 1, 1, 1]", (3, 4, 3, 3)),
    _model("pads = [1, 1, 1, 1]", (3, 4, 3, 3), 'mode = "nearest"', inputs="u, w"),
    _model("pads = [2, 1, 1, 2]", (2, 4, 5, 3), scales="1, 1, 3, 2"),
    _model("pads = [0, 1, 0, 0], group = 2", (4, 2, 2, 3)),
    _model("pads = [1, 1, 1, 1], group = 4", (4, 1, 3, 3), scales="1, 1, 2, 1"),
    _model("pads = [2, 0, 2, 0], dilations = [2, 1]", (3, 4, 3, 1), scales="1, 1, 4, 1"),
    _model('auto_pad = "SAME_UPPER"', (3, 4, 2, 3)),
    _model("pads = [1, 1]", (3, 4, 3), scales="1, 1, 2", spatial="L"),
    _model("pads = [1, 0, 1, 1, 0, 1]", (2, 4, 3, 1, 2), scales="1, 1, 2, 2, 2", spatial="D, H, W"),
)

NEAR_MISSES = (
    (_model("pads = [1, 1, 1, 1], strides = [2, 2]", (3, 4, 3, 3)), "strides"),
    (_model("pads = [3, 0, 0, 0]", (3, 4, 3, 3)), "padded by more than its window"),
    (_model("group = 1", (3, 4, 3, 3), 'mode = "linear"'), "nearest"),
    (_model("group = 1", (3, 4, 3, 3), scales="1, 1, 1.5, 2"), "integer"),
    (
        _model(
            "group = 1",
            (3, 4, 3, 3),
            'mode = "nearest", coordinate_transformation_mode = "asymmetric",'
            ' nearest_mode = "ceil"',
        ),
        "nearest",
    ),
    (
        _model("pads = [1, 1, 1, 1]", (3, 4, 3, 3))
        .replace("z =", "k =")
        .replace("b) }", "b) z = Concat <axis = 1> (k, u) }"),
        "also",
    ),
)
