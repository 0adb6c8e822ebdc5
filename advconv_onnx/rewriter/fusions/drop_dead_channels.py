"""Drop the channels between two convolutions that carry nothing, in whole blocks.

    conv(f(conv(x, w) + b), v)  =  conv(f(conv(x, w') + b'), v')

w' and b' without the filters, v' without the input channels, of channels that the second
convolution multiplies by zeros only, or that are zero: filter and bias are zero, and so is f(0),
for activations f between. Both are a Conv or a ConvTranspose of one group. As many dead channels
stay as fill the last block of 16: ONNX Runtime's layout for images is made of blocks, and leaving
it would cost more than the channels. What is left is 1.1 to 2.6 times as fast
(``benchmarks/structures.py``). It is refused where something else reads the channels.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.blocked import WIDEST_BLOCK
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant
from advconv_onnx.rewriter.convolution import Array, Convolution
from advconv_onnx.rewriter.rule import NoSite, Rule, Site
from advconv_onnx.rewriter.walk import producer

_KEEP_ZERO = frozenset(("Relu", "LeakyRelu", "Elu", "Selu", "Tanh", "HardSwish"))
"""Activations whose value at 0 is 0."""

_ACTIVATIONS = _KEEP_ZERO | {"Sigmoid", "HardSigmoid", "Softplus", "Clip"}
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_MOST_ACTIVATIONS = 4


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Two convolutions, the activations between, and the channels between that stay."""

    first: Convolution
    activations: tuple[ir.Node, ...]
    second: Convolution
    kept: Array


class DropDeadChannels(Rule[_Plan]):
    """Conv(Relu(Conv(x))) -> the same with fewer channels between."""

    name = "drop_dead_channels"
    roots = frozenset(("Conv", "ConvTranspose"))
    affine_in_weights = False

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        first_node, activations = _convolution_before(root)
        if constant(first_node.inputs[1]) is None or constant(root.inputs[1]) is None:
            raise NoSite
        first, second = Convolution.of(first_node), Convolution.of(root)
        if first.group > 1 or second.group > 1:
            raise NoSite
        dead = ~_has_weights(second, 0 if second.transposed else 1)
        if all(activation.op_type in _KEEP_ZERO for activation in activations):
            dead |= _is_zero(first)
        channels = np.argsort(dead, kind="stable")  # those alive first
        blocks = max(1, math.ceil((~dead).sum() / WIDEST_BLOCK))
        kept = np.sort(channels[: blocks * WIDEST_BLOCK])
        if len(kept) == len(dead):
            raise NoSite
        return Site((first_node, *activations, root), _Plan(first, activations, second, kept))

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        first, second, kept = plan.first, plan.second, plan.kept
        weight = first.weight[:, kept] if first.transposed else first.weight[kept]
        y = first.rebuild(op, first.x, weight, first.bias[kept])
        for node in plan.activations:
            y = op.node(node.op_type, [y, *node.inputs[1:]], dict(node.attributes)).outputs[0]
        weight = second.weight[kept] if second.transposed else second.weight[:, kept]
        return second.rebuild(op, y, weight, second.bias)


def _convolution_before(root: ir.Node) -> tuple[ir.Node, tuple[ir.Node, ...]]:
    """The convolution whose result ``root`` reads, and the activations in between."""
    activations: list[ir.Node] = []
    while len(activations) <= _MOST_ACTIVATIONS:
        value = (activations[0] if activations else root).inputs[0]
        node = producer(value, *_CONVOLUTIONS, *_ACTIVATIONS, graph=root.graph)
        if node.op_type in _CONVOLUTIONS:
            return node, tuple(activations)
        activations.insert(0, node)
    raise NoSite


def _is_zero(convolution: Convolution) -> Array:
    """Whether each output channel is zero whatever the input."""
    filters = _has_weights(convolution, 1 if convolution.transposed else 0)
    return np.asarray(~filters & (convolution.bias == 0))


def _has_weights(convolution: Convolution, axis: int) -> Array:
    """Whether each channel of one axis of the weight has a number that is not zero."""
    others = tuple(other for other in range(convolution.rank) if other != axis)
    # Most weights have no zero at all: one channel of the other axis tells.
    part = np.asarray(convolution.weight.take([0], axis=1 - axis).any(axis=others))
    return part if part.all() else np.asarray(convolution.weight.any(axis=others))


RULE = DropDeadChannels()


def _weight(name: str, shape: tuple[int, ...], axis: int, alive: int) -> str:
    """Whole numbers, of which only the first ``alive`` along an axis are not zero."""
    numbers = 1 + np.arange(math.prod(shape)).reshape(shape) % 7
    np.moveaxis(numbers, axis, 0)[alive:] = 0
    values = ", ".join(map(str, numbers.ravel().tolist()))
    return f"float[{', '.join(map(str, shape))}] {name} = {{{values}}}"


def _model(nodes: str, *constants: str, spatial: str = "H, W", outs: str = "float[] z") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 15]>
    g (float[N, 2, {spatial}] x) => ({outs}) <{", ".join(constants)}> {{ {nodes} }}"""


def _bias(alive: int) -> str:
    return f"float[32] b = {{{', '.join(str((n + 1) * (n < alive)) for n in range(32))}}}"


_W = _weight("w", (32, 2, 1, 2), 0, 32)
_V = _weight("v", (3, 32, 2, 1), 1, 32)

EXAMPLES = (
    # Filters without effect, with activations that keep zero; channels that are not read.
    _model(
        "y = Conv(x, w, b) r = Relu(y) z = Conv <pads = [1, 0, 1, 0]> (r, v)",
        _weight("w", (32, 2, 1, 2), 0, 9),
        _V,
        _bias(9),
    ),
    _model(
        "y = Conv <strides = [2, 1]> (x, w, b) s = Sigmoid(y) z = Conv <dilations = [2, 1]> (s, v)",
        _W,
        _weight("v", (3, 32, 2, 1), 1, 12),
        _bias(32),
    ),
    _model(
        "y = Conv(x, w) t = Tanh(y) l = LeakyRelu <alpha = 0.2> (t) z = Conv(l, v, c)",
        _weight("w", (32, 2, 1, 2), 0, 3),
        _V,
        "float[3] c = {1, 2, 3}",
    ),
    _model(
        "y = ConvTranspose <strides = [2, 2]> (x, w) z = ConvTranspose(y, v)",
        _weight("w", (2, 32, 1, 2), 1, 16),
        _weight("v", (32, 3, 2, 1), 0, 32),
    ),
    _model(
        "y = Conv(x, w) s = Clip(y, low, high) z = Conv(s, v)",
        _weight("w", (40, 2, 3), 0, 40),
        _weight("v", (1, 40, 2), 1, 30),
        "float low = {1}, float high = {6}",
        spatial="L",
    ),
)

NEAR_MISSES = (
    # 17 channels are left: they fill the blocks of 32.
    (_model("y = Conv(x, w) z = Conv(y, v)", _weight("w", (32, 2, 1, 2), 0, 17), _V), ""),
    # Filters that are zero, but their outputs are not.
    (
        _model(
            "y = Conv(x, w, b) z = Conv(y, v)", _weight("w", (32, 2, 1, 2), 0, 9), _V, _bias(32)
        ),
        "",
    ),
    (
        _model(
            "y = Conv(x, w) s = Sigmoid(y) z = Conv(s, v)", _weight("w", (32, 2, 1, 2), 0, 9), _V
        ),
        "",
    ),
    (
        _model(
            "y = Conv(x, w) z = Conv(y, v) u = Relu(y)",
            _weight("w", (32, 2, 1, 2), 0, 9),
            _V,
            outs="float[] z, float[] u",
        ),
        "also read by",
    ),
    (
        _model("y = Conv <group = 2> (x, w) z = Conv(y, v)", _weight("w", (32, 1, 1, 2), 0, 9), _V),
        "",
    ),
    (
        _model(
            "y = Conv(x, w) z = Conv <group = 4> (y, v)",
            _W,
            _weight("v", (4, 8, 1, 1), 1, 2),
        ),
        "",
    ),
    (_model("y = Conv(x, w) z = Conv(y, v)", _W, _V), ""),
)
