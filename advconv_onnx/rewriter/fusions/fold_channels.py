"""Fold a reordering of channels into the weights of the convolution beside it.

    Gather(Conv(x, w, b), order)  =  Conv(x, w[order], b[order])
    Conv(Gather(x, order), w, b)  =  Conv(x, w[:, order reversed], b)

for a Gather on the channel axis with constant indices and one group of channels, Conv and
ConvTranspose. Behind the convolution it may select any channels, as long as they do not become
more; before it, it must be a permutation: a channel left out would be multiplied by zeros.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import producer


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A convolution of ``x`` with its channels in another order."""

    x: ir.Value
    convolution: Convolution
    inputs: np.ndarray
    outputs: np.ndarray


class FoldChannels(Rule[_Plan]):
    """Gather(Conv(x)) -> Conv(x)."""

    name = "fold_channels"
    roots = frozenset(("Gather", "Conv", "ConvTranspose"))

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        if root.op_type == "Gather":
            node = producer(root.inputs[0], "Conv", "ConvTranspose", graph=root.graph)
            order = _order(root)
            convolution = _of_one_group(node)
            outputs = order % convolution.out_channels
            if len(order) > convolution.out_channels:
                raise Refused("the Gather repeats channels")
            if len(order) < convolution.out_channels and convolution.transposed:
                raise Refused("the Gather leaves channels of a ConvTranspose out")
            inputs = np.arange(convolution.in_channels)
            return Site((node, root), _Plan(convolution.x, convolution, inputs, outputs))
        gather = producer(root.inputs[0], "Gather", graph=root.graph)
        order = _order(gather)
        convolution = _of_one_group(root)
        x = gather.inputs[0]
        assert x is not None
        channels = _channels(x)
        order = order % max(channels, 1)
        if sorted(order.tolist()) != list(range(channels)):
            raise Refused("the Gather before the convolution is no permutation")
        outputs = np.arange(convolution.out_channels)
        return Site((gather, root), _Plan(x, convolution, np.argsort(order), outputs))

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        convolution = plan.convolution
        first, second = plan.outputs, plan.inputs
        if convolution.transposed:
            first, second = second, first
        weight = convolution.weight[first][:, second]
        return convolution.rebuild(op, plan.x, weight, convolution.bias[plan.outputs])


def _of_one_group(node: ir.Node) -> Convolution:
    convolution = Convolution.of(node)
    if convolution.group != 1:
        raise Refused(f"the convolution has {convolution.group} groups")
    return convolution


def _order(gather: ir.Node) -> np.ndarray:
    indices = constant(gather.inputs[1])
    if gather.attributes.get_int("axis", 0) != 1 or indices is None or indices.ndim != 1:
        raise NoSite
    return indices


def _channels(x: ir.Value) -> int:
    channels = None if x.shape is None or len(x.shape) < 2 else x.shape[1]
    if not isinstance(channels, int):
        raise Refused("how many channels there are is not known")
    return channels


RULE = FoldChannels()


def _model(
    nodes: str, constants: str, channels: int = 3, out: str = "float[] z", opset: int = 15
) -> str:
    return f"""<ir_version: 8, opset_import: ["" : {opset}]>
    g (float[N, {channels}, H, W] x) => ({out})
    <float[4, 3, 1, 2] w = {{1, -2, 3, 4, 5, -6, 7, 8, 1, 2, -3, 4, 5, 6, 7, -8, 9, 1, 2, 3, 4, 5,
     -6, 7}}, float[4] b = {{1, -2, 3, 4}}, float[3] c = {{5, -6, 7}}, {constants}> {{ {nodes} }}"""


_FOUR, _THREE = "int64[4] i = {2, 0, -1, 1}", "int64[3] i = {2, 0, 1}"

EXAMPLES = (
    _model("y = Conv(x, w, b) z = Gather <axis = 1> (y, i)", _FOUR),
    _model("y = Conv <pads = [0, 1, 0, 1]> (x, w) z = Gather <axis = 1> (y, i)", _FOUR, opset=9),
    _model("y = Conv(x, w, b) z = Gather <axis = 1> (y, i)", "int64[2] i = {3, 1}"),
    _model(
        "y = ConvTranspose <strides = [2, 1]> (x, w, c) z = Gather <axis = 1> (y, i)", _THREE, 4
    ),
    _model("y = Gather <axis = 1> (x, i) z = Conv(y, w, b)", _THREE),
    _model('y = Gather <axis = 1> (x, i) z = Conv <auto_pad = "SAME_UPPER"> (y, w)', _THREE),
    _model("y = Gather <axis = 1> (x, i) z = ConvTranspose <strides = [1, 2]> (y, w, c)", _FOUR, 4),
)

NEAR_MISSES = (
    (_model("y = Conv(x, w) z = Gather <axis = 2> (y, i)", _THREE), ""),
    (_model("y = Conv(x, w) z = Gather <axis = 1> (y, i)", "int64 i = {1}"), ""),
    (_model("y = Conv(x, w) z = Gather <axis = 1> (y, i)", "int64[5] i = {1, 1, 2, 3, 0}"), "repe"),
    (_model("y = Gather <axis = 1> (x, i) z = Conv(y, w)", "int64[3] i = {1, 1, 0}"), "no perm"),
    (_model("y = Gather <axis = 1> (x, i) z = Conv(y, w)", _THREE, 5), "no perm"),
    (
        _model("y = Conv <group = 2> (x, w) z = Gather <axis = 1> (y, i)", _FOUR, 6),
        "2 groups",
    ),
    (
        _model(
            "y = Conv(x, w) z = Gather <axis = 1> (y, i) v = Abs(y)",
            _FOUR,
            out="float[] z, float[] v",
        ),
        "also read",
    ),
    (
        _model("y = ConvTranspose(x, w) z = Gather <axis = 1> (y, i)", "int64[2] i = {2, 0}", 4),
        "leaves channels",
    ),
    (_model("y = Relu(x) z = Gather <axis = 1> (y, i)", _THREE), ""),
)
