"""Compute a depthwise convolution of several outputs per channel as plain depthwise convolutions.

    conv(x, w, group = C)[c m + j]  =  conv(x, w[j::m], group = C)[c]
                                    =  conv(repeat(x, m), w, group = C m)[c m + j]

ONNX Runtime's blocked kernel for depthwise convolutions takes only one output per channel; with
m of them each channel is unrolled to columns and multiplied by itself, outside of that layout.
Either m convolutions read the same image and are joined (``split``), or one reads each channel m
times (``repeat``). To keep the order of channels costs a Gather outside of the layout. If a dense
convolution follows, perhaps behind an activation, its input channels are permuted instead
(``permuted``), and all stays in blocks. Exact for any size, stride, dilation and padding.

Measured on AVX-512 with one thread, 3x3 between two 1x1, times as fast as the layer itself in the
order split, split permuted, repeat, repeat permuted: 1.4, 2.1, 1.9, 2.3 for 64 channels, m = 2 and
56x56 pixels; 2.9, 3.6, 1.25, 2.25 with stride 2; 2.0, 3.0, 2.6, 3.2 for 256 channels of 14x14; 3.5,
4.4, 4.3, 4.9 for 5x5; 1.0, 1.3, 1.4, 1.5 for 16 channels and m = 8. Wider groups (``regroup``) gain
0.97 to 1.9 there. A Reshape - Transpose - Reshape for the Gather gains nothing.

Refused where the channels of a plain convolution are no multiple of 4, because that is outside of
the layout too (3 channels, m = 8: 0.7), and but for images of two axes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from advconv_onnx.algebra.axis import pairs
from advconv_onnx.algebra.certificate import Certificate, certify
from advconv_onnx.rewriter.activated import activate, convolution_above
from advconv_onnx.rewriter.blocked import BLOCKED_RANK, QUARTER
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Array, Convolution
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.rule import NoSite, Refused, Site


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The parts of a site.

    Attributes:
        depthwise: the convolution of several outputs per channel.
        filters: its outputs in the order in which they are computed.
        reads: the input channel of each of them.
        activation: behind it, where a dense convolution follows.
        dense: the convolution that takes the outputs in this order; None puts them back.
    """

    depthwise: Convolution
    filters: Array
    reads: Array
    activation: ir.Node | None
    dense: Convolution | None

    @property
    def multiplier(self) -> int:
        """Outputs of each channel."""
        return len(self.filters) // self.depthwise.in_channels

    @property
    def places(self) -> Array:
        """Where each output is computed."""
        return np.argsort(self.filters)


class SplitMultiplier(Form[_Plan]):
    """Conv(x, w) -> Gather(Concat(Conv(x, w[0::m]), Conv(x, w[1::m]), ...))."""

    roots = frozenset(("Conv",))
    minimum_opset = 4

    def __init__(self, name: str, *, repeats: bool, permutes: bool) -> None:
        """Declare a variant.

        Args:
            name: of the form.
            repeats: one convolution of repeated channels instead of several convolutions.
            permutes: a dense convolution behind it takes the outputs in another order.
        """
        self.name = name
        self._repeats = repeats
        self._permutes = permutes

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        nodes = _down_to(root) if self._permutes else (root,)
        depthwise = Convolution.of(nodes[0])
        orders = _orders(depthwise, by_channel=self._repeats and not self._permutes)
        channels = depthwise.out_channels if self._repeats else depthwise.in_channels
        if depthwise.rank != BLOCKED_RANK:
            raise Refused("only images of two axes are laid out in blocks")
        if channels % QUARTER:
            raise Refused(f"{channels} channels are not laid out in blocks")
        dense = Convolution.of(root) if self._permutes else None
        return Site(nodes, _Plan(depthwise, *orders, nodes[1] if nodes[2:] else None, dense))

    def certify(self, plan: _Plan) -> Iterable[Certificate]:
        outputs = np.arange(plan.depthwise.out_channels)
        yield certify(
            f"channels: {plan.multiplier} outputs of each, in another order",
            pairs((outputs // plan.multiplier).tolist(), outputs.tolist()),
            pairs(plan.reads[plan.places].tolist(), plan.filters[plan.places].tolist()),
        )

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        y = self._computed(op, plan)
        if plan.dense is not None:
            weight = plan.dense.weight[:, plan.filters]
            return plan.dense.rebuild(op, activate(op, y, plan.activation), weight, plan.dense.bias)
        return y if self._repeats else op.Gather(y, op.initializer(plan.places, "order"), axis=1)

    def _computed(self, op: Builder, plan: _Plan) -> ir.Value:
        x, weight, bias = plan.depthwise.x, plan.depthwise.weight, plan.depthwise.bias
        if not self._repeats:
            parts = [
                plan.depthwise.rebuild(op, x, weight[own], bias[own])
                for own in np.split(plan.filters, plan.multiplier)
            ]
            return op.Concat(*parts, axis=1)
        if plan.dense is not None:
            repeated = op.Concat(*[x] * plan.multiplier, axis=1)
        else:
            repeated = op.Gather(x, op.initializer(plan.reads, "channels"), axis=1)
        filters = plan.filters
        return plan.depthwise.rebuild(
            op, repeated, weight[filters], bias[filters], group=len(filters)
        )


def _down_to(dense: ir.Node) -> tuple[ir.Node, ...]:
    """A depthwise convolution, perhaps an activation, and the dense convolution."""
    if dense.attributes.get_int("group", 1) > 1:
        raise NoSite
    above, activation = convolution_above(dense)
    return (above, dense) if activation is None else (above, activation, dense)


def _orders(depthwise: Convolution, *, by_channel: bool) -> tuple[Array, Array]:
    """The filters in the order in which they are computed, and the channel each reads.

    Args:
        depthwise: the convolution.
        by_channel: all of one channel one behind the other, as they are; else one of each channel,
            then the next one of each.

    Raises:
        NoSite: each channel has one output, or several channels are added up.
    """
    channels, outputs = depthwise.in_channels, depthwise.out_channels
    if depthwise.group != channels or outputs == channels or channels == 1:
        raise NoSite
    filters = np.arange(outputs).reshape(channels, -1)
    order = filters if by_channel else filters.T
    reads = np.broadcast_to(np.arange(channels)[:, None], filters.shape)
    return order.reshape(-1), (reads if by_channel else reads.T).reshape(-1)


FORMS = tuple(
    SplitMultiplier(name, repeats=name.startswith("repeat"), permutes=name.endswith("permuted"))
    for name in (
        "split_multiplier",
        "split_multiplier_permuted",
        "repeat_channels",
        "repeat_channels_permuted",
    )
)


def _model(
    conv: str = "",
    channels: int = 4,
    weight: tuple[int, ...] = (8, 1, 3, 3),
    behind: str = "z = Relu (y)",
    size: str = "H, W",
) -> str:
    numbers = ", ".join(str(n * 5 % 7 - 3) for n in range(math.prod(weight)))
    dense = ", ".join(str(n * 3 % 7 - 3) for n in range(3 * weight[0]))
    bias = ", ".join(str(n % 5 - 2) for n in range(weight[0]))
    return f"""<ir_version: 8, opset_import: ["" : 13]>
    g (float[N, {channels}, {size}] x) => (float[] z)
    <float[{", ".join(map(str, weight))}] w = {{{numbers}}}, float[{weight[0]}] b = {{{bias}}},
     float[3, {weight[0]}, 1, 1] v = {{{dense}}}>
    {{ y = Conv <group = {channels}{conv}> (x, w, b) {behind} }}"""


EXAMPLES = (
    _model(", pads = [1, 1, 1, 1]"),
    _model(", strides = [2, 1], dilations = [1, 2], pads = [2, 0, 1, 1]", weight=(12, 1, 2, 3)),
    _model(', auto_pad = "SAME_UPPER"', 6, (12, 1, 2, 2)),
    _model(behind="a = Relu (y) z = Conv (a, v)"),
    _model(behind="a = Sigmoid (y) z = Conv <strides = [2, 1], pads = [1, 0, 0, 0]> (a, v)"),
    _model(behind="z = Conv (y, v)"),
)

NEAR_MISSES = (
    (_model(weight=(4, 1, 3, 3)), ""),
    (_model(channels=1), ""),
    (_model(channels=2).replace("group = 2", "group = 1").replace("8, 1, 3", "4, 2, 3"), ""),
    (_model(channels=3, weight=(6, 1, 3, 3)), "3 channels are not"),
    (_model(channels=3, weight=(6, 1, 3, 3)), "6 channels are not"),
    (_model(weight=(8, 1, 9), size="L"), "two axes"),
)
