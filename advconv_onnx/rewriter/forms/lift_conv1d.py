"""Give one-dimensional convolutions a second axis, of one pixel, and so ONNX Runtime's blocks.

    f(x)  =  squeeze(f'(unsqueeze(x)))        where f' slides over images of 1 x L pixels

Only images of two axes are laid out in blocks; a Conv of one axis is unrolled to columns. Adding
the axis and taking it away move nothing, but entering and leaving the layout does, so a whole
region is lifted: convolutions and what is between them, element-wise operators, pools and Concats
of channels, up to where something else reads a value. Size-free.

Measured on AVX-512 with one thread: 1.0 to 1.3 times as fast for one Conv and a Relu (3 taps, 16 to
512 channels), 1.3 with 7 taps, 1.4 with 15, 1.95 with stride 4; chains of 2, 4, 8 Convs with Relu
(64 channels, 1024 pixels) 1.3, 1.4, 1.45; residual ones of dilated Convs 1.5 to 1.75; ones of 2 and
4 groups 1.7 and 1.9; depthwise 1.1 (3 taps), 2.7 to 4.4 (15 to 31 taps). It does not pay for a
Conv of one tap (0.8), 12 or 24 channels (0.9), or 512 channels made of one (0.4). The pixels must
be last: as L x 1 the same chains are 0.2 to 0.9 times as fast, but for very short ones. Whole
models, all regions lifted: a voice activity detector 1.2 to 1.3, a residual network of 7 taps 1.3,
a gated one of dilated Convs 1.1.

Refused where none of the convolutions would be in blocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx.algebra import axis as algebra
from advconv_onnx.algebra.certificate import Certificate, certify
from advconv_onnx.geometry import sample_size
from advconv_onnx.rewriter.blocked import BLOCK, QUARTER, fills_blocks
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import constant, rank_of
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.layer_site import operator_of
from advconv_onnx.rewriter.layout import with_ints
from advconv_onnx.rewriter.rule import NoSite, Refused, Site
from advconv_onnx.rewriter.walk import input_of, maker

_RANK = 3
"""Of a tensor of one spatial axis."""

_NEW = 2
"""The axis that is added: before the pixels, which blocked kernels read by rows."""

_UNARY = (
    "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg",
    "Relu", "Selu", "Sigmoid", "Sin", "Softplus", "Sqrt", "Tanh",
)  # fmt: skip
_BROADCASTING = ("Add", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum")
_SLIDING = ("Conv", "AveragePool", "MaxPool")
_ONE_INPUT = (*_UNARY, *_SLIDING, "GlobalAveragePool", "GlobalMaxPool")
_SEVERAL_INPUTS = (*_BROADCASTING, "Concat")

_WINDOW = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")
"""Attributes that say how a kernel slides."""


@dataclasses.dataclass(frozen=True)
class _Region:
    """What is lifted.

    Attributes:
        nodes: each after those it reads; the last one is the result.
        opset: of the model.
    """

    nodes: tuple[ir.Node, ...]
    opset: int


class LiftConv1d(Form[_Region]):
    """Relu(Conv1d(x)) -> Squeeze(Relu(Conv(Unsqueeze(x))))."""

    name = "lift_conv1d"
    roots = frozenset((*_ONE_INPUT, *_SEVERAL_INPUTS))
    minimum_opset = 7

    def find(self, root: ir.Node, opset: int) -> Site[_Region]:
        nodes = _region(root)
        if root not in nodes or _goes_on(root):
            raise NoSite
        if not any(map(_fits_blocks, nodes)):
            raise Refused("none of its convolutions would be laid out in blocks")
        return Site(nodes, _Region(nodes, opset))

    def certify(self, plan: _Region) -> Iterable[Certificate]:
        proved: dict[object, list[Certificate]] = {}
        for node in plan.nodes:
            if node.op_type in _SLIDING:
                window = _window(node)
                key = repr((window.attributes, constant(window.inputs[1])))
                if key not in proved:
                    proved[key] = list(_certify_window(window, plan.opset))
        for certificates in proved.values():
            yield from certificates

    def rewrite(self, op: Builder, plan: _Region) -> ir.Value:
        new: dict[ir.Value, ir.Value] = {}
        for node in plan.nodes:
            for value in _images(node) or ():
                if value not in new:
                    new[value] = with_ints(op, "Unsqueeze", value, 13, axes=[_NEW])
            new[node.outputs[0]] = _lifted(op, node, new)
        return with_ints(op, "Squeeze", new[plan.nodes[-1].outputs[0]], 13, axes=[_NEW])


def _images(node: ir.Node) -> tuple[ir.Value, ...] | None:
    """The inputs that get another axis, constants left out; None where the node cannot have it."""
    given = node.inputs if node.op_type in _SEVERAL_INPUTS else node.inputs[:1]
    images = tuple(value for value in given if value is not None and constant(value) is None)
    if node.domain or len(node.outputs) > 1 or not images or not all(map(_is_image, images)):
        return None
    if node.op_type == "Concat":
        return images if node.attributes.get_int("axis", 1) in (1, 1 - _RANK) else None
    is_known = _is_convolution(node) if node.op_type == "Conv" else node.op_type in LiftConv1d.roots
    return images if is_known else None


def _is_image(value: ir.Value) -> bool:
    """Whether a value has one spatial axis: as declared, or because a convolution says so."""
    rank = rank_of(value)
    neighbours = [value.producer(), *(reader for reader, index in value.uses() if index == 0)]
    return rank == _RANK or (rank is None and any(map(_is_convolution, neighbours)))


def _is_convolution(node: ir.Node | None) -> bool:
    """Whether a node is a Conv of one axis, with constant weight and bias."""
    if node is None or node.op_type != "Conv" or node.domain:
        return False
    weight, bias = constant(node.inputs[1]), input_of(node, 2)
    is_constant = bias is None or constant(bias) is not None
    return weight is not None and weight.ndim == _RANK and is_constant


def _fits_blocks(node: ir.Node) -> bool:
    """Whether a node is a convolution that would be laid out in blocks."""
    weight = constant(node.inputs[1]) if node.op_type == "Conv" else None
    if weight is None:
        return False
    group = node.attributes.get_int("group", 1)
    outputs, inputs = map(int, weight.shape[:2])
    if group == 1:
        return inputs < BLOCK or inputs % QUARTER == 0
    return fills_blocks(inputs, outputs // group)


def _region(root: ir.Node) -> tuple[ir.Node, ...]:
    """The nodes that only ``root`` leads out of, from the first convolutions on."""
    added = [root] if _images(root) else []
    for node in added:  # It grows meanwhile.
        for value in _images(node) or ():
            above = maker(value, graph=root.graph)
            if above is None or above in added or value.is_graph_output() or not _images(above):
                continue
            if all(reader in added for reader, _ in value.uses()):
                added.append(above)
    # Each was added when all of its readers had been.
    kept: dict[ir.Node, None] = {}
    for node in reversed(added):
        if node.op_type == "Conv" or any(v.producer() in kept for v in _images(node) or ()):
            kept[node] = None
    return tuple(kept)


def _goes_on(root: ir.Node) -> bool:
    """Whether the region that ends in ``root`` is part of a larger one."""
    below = [root]
    for node in below:  # It grows meanwhile.
        for reader, _ in node.outputs[0].uses():
            if reader.graph is root.graph and reader not in below and _images(reader):
                if root in _region(reader):
                    return True
                below.append(reader)
    return False


def _lifted(op: Builder, node: ir.Node, new: Mapping[ir.Value, ir.Value]) -> ir.Value:
    """Build a node again for images of two axes."""
    inputs = [new.get(v) or _constant(op, v) if v is not None else None for v in node.inputs]
    attributes: dict[str, Any] = dict(node.attributes)
    for name in ("kernel_shape", "strides", "dilations"):
        if name in attributes:
            attributes[name] = [1, *attributes[name].as_ints()]
    if "pads" in attributes:
        begin, end = attributes["pads"].as_ints()
        attributes["pads"] = [0, begin, 0, end]
    if node.op_type == "Concat":
        attributes["axis"] = 1
    return op.node(node.op_type, inputs, attributes).outputs[0]


def _constant(op: Builder, value: ir.Value) -> ir.Value:
    """A weight or operand with the new axis, where it has axes before the pixels."""
    array = constant(value)
    if array is None or array.ndim < _RANK - 1:
        return value
    return op.initializer(np.expand_dims(array, -2), value.name or "constant")


def _window(node: ir.Node) -> ir.Node:
    """A convolution that slides as a node does, reading nothing."""
    x, weight = ir.Value(name="x"), constant(input_of(node, 1))
    if weight is None:
        weight = np.zeros((1, 1, *(node.attributes.get_ints("kernel_shape") or ())), np.float32)
    attributes = [node.attributes[name] for name in _WINDOW if name in node.attributes]
    taps = Builder(1, ()).initializer(np.zeros_like(weight[:1, :1]), "taps")
    return ir.Node("", "Conv", [x, taps], attributes)


def _certify_window(window: ir.Node, opset: int) -> Iterable[Certificate]:
    """Prove that a window slides along the pixels as before, and stays on the new axis."""
    x = window.inputs[0]
    assert x is not None
    lifted = _lifted(Builder(opset, ()), window, {x: ir.Value(name="lifted")}).producer()
    assert lifted is not None
    least = sample_size((window,), 0, None)
    yield certify("the new axis", algebra.identity(1), operator_of((lifted,), 0, 1))
    for size in (least, least + 1):  # Pads that depend on the size differ between these.
        yield certify(
            f"the old axis, {size} pixels",
            operator_of((window,), 0, size),
            operator_of((lifted,), 1, size),
        )


FORMS = (LiftConv1d(),)


def _model(nodes: str, x: str = "N, 4, L", group: int = 1, more: str = "", opset: int = 13) -> str:
    numbers = ", ".join(str(n * 5 % 7 - 3) for n in range(12 * 4 // group))
    return f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[{x}] x{more}) => (float[] z)
    <float[4, {4 // group}, 3] w = {{{numbers}}}, float[4] b = {{1, -2, 3, 4}},
     float[4, 1] c = {{3, 1, -2, 2}}, float[1] two = {{2}}> {{ {nodes} }}"""


_CONV = "Conv <pads = [1, 1]>"

EXAMPLES = (
    _model("z = Conv (x, w, b)"),
    _model(f"y = {_CONV} (x, w, b) r = Relu (y) z = {_CONV} (r, w)"),
    _model("y = Conv <strides = [3], pads = [2, 0], dilations = [2]> (x, w, b) z = Tanh (y)"),
    _model('y = Conv <auto_pad = "SAME_LOWER", strides = [2]> (x, w, b) z = Sigmoid (y)'),
    # Residual, gated and joined.
    _model(f"y = {_CONV} (x, w, b) a = Add (y, x) r = {_CONV} (a, w, b) z = Add (r, a)"),
    _model(
        f"y = {_CONV} (x, w, b) g = GlobalAveragePool (y) s = Sigmoid (g) m = Mul (y, s)"
        " z = Concat <axis = -2> (m, x)"
    ),
    _model(
        "y = Conv (x, w, b) p = MaxPool <kernel_shape = [3], strides = [2], pads = [1, 0]> (y)"
        " z = AveragePool <kernel_shape = [2], ceil_mode = 1, strides = [2]> (p)"
    ),
    _model(
        "y = Conv <group = 4> (x, w, b) m = Mul (c, y) p = PRelu (m, c) z = Pow (p, two)", group=4
    ),
    _model("y = Conv (x, w, b) z = Clip (y, ,)", opset=11),
)

NEAR_MISSES = (
    (_model("z = Relu (x)"), ""),
    (_model("z = Conv (x, v)", more=", float[4, 4, 3] v"), ""),
    (_model("z = Conv (x, w, d)", more=", float[4] d"), ""),
    (_model("y = Relu (x) z = ConvTranspose (y, w, b)"), ""),
)
