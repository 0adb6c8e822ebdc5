"""What ONNX Runtime does with a layer, found by impulses: which pixel and channel reaches which.

The layer's nodes are cut out with all their attributes, in float32, without bias, and with weights
and inputs of our own:

1. Along one axis: a weight of one tap per output channel, and inputs that are one bright line
   each. Output channels then show, tap by tap, the axis operator itself.
2. Along all axes at once: the same weights for all taps of the kernel, and inputs of random
   numbers, so that an output pixel that sees anything but what the axes say together is caught.
3. Across channels: one tap for all pairs of channels, and inputs in which 16 channels hold a power
   of two each; the binary digits of an output tell which of them reached it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper

from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.geometry import RESIZES, AxisGeometry, resize_scales
from advconv_onnx.model import format_shape
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session

Array = NDArray[np.float32]

TOLERANCE = 1e-5
"""Largest difference from a coefficient that is rounding: coefficients are around 1."""

_CODED = 16
"""Channels told apart by one input: their sum is exact in float32, with digits to spare."""

_CHUNK = 1 << 24
"""Elements of inputs and outputs held at once, if a single input does not have more."""

_LARGEST = 1 << 27
"""Elements of one input and its output beyond which it is not tried."""

_SEED = 0

_SCALES, _SIZES = 2, 3
"""Inputs of a Resize; before opset 11 the scales are its last one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """A layer to measure, and the sizes to measure it on.

    Attributes:
        nodes: a Conv or ConvTranspose, a Resize, or a Resize and perhaps a Pad before a Conv; they
            know their opset as ``version``.
        channels: of the input and of the output.
        axes: what the nodes say about each spatial axis, on a size that shows the borders.
        least: the same, on the smallest size that shows anything.
    """

    nodes: tuple[ir.Node, ...]
    channels: tuple[int, int]
    axes: tuple[AxisGeometry, ...]
    least: tuple[AxisGeometry, ...]

    @property
    def group(self) -> int:
        """Parts of the channels that do not see each other: each channel, for a Resize alone."""
        last = self.nodes[-1]
        return self.channels[0] if last.op_type in RESIZES else last.attributes.get_int("group", 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Responses:
    """What was measured.

    Attributes:
        axes: for each spatial axis (output channels, output pixels, input pixels); output channel
            m shows tap m modulo the taps.
        inputs: the random inputs (samples, *size).
        outputs: what they gave (samples, output channels, *size); as ``axes``, but for all taps of
            the kernel in C order.
        channels: whether (output channel, input channel) are connected.
        onnxruntime: version of ONNX Runtime.
        runs: inputs that were tried.
    """

    axes: tuple[Array, ...]
    inputs: Array
    outputs: Array
    channels: NDArray[np.bool_]
    onnxruntime: str
    runs: int


def measure(probe: Probe) -> Responses:
    """Measure a layer.

    Raises:
        InputError: the nodes are parts of a local function and depend on how it is called.
        CheckError: ONNX Runtime does not run them, or makes outputs of another size.
    """
    axes = [_lines(probe, axis) for axis in range(len(probe.axes))]
    rng = np.random.default_rng(_SEED)
    sizes = [axis.grid.inputs for axis in probe.axes]
    x = rng.uniform(-1, 1, (2, *sizes)).astype(np.float32)
    y = _respond(probe, _each_tap(probe), _all_channels(probe, x), probe.axes)
    channels, runs = _channels(probe)
    return Responses(
        axes=tuple(axes),
        inputs=x,
        outputs=y,
        channels=channels,
        onnxruntime=ort.__version__,
        runs=sum(sizes) + len(x) + runs,
    )


def _lines(probe: Probe, axis: int) -> Array:
    """Responses to a bright line across each position of one axis, tap by tap."""
    axes = list(probe.least)
    axes[axis] = probe.axes[axis]
    anchors = _anchors(axes)
    taps: list[Any] = [[k] for k, _ in anchors]
    taps[axis] = range(axes[axis].window.taps)
    sizes = [each.grid.inputs for each in axes]
    line = [n if each == axis else 1 for each, n in enumerate(sizes)]
    x = np.broadcast_to(
        np.eye(sizes[axis], dtype=np.float32).reshape(-1, *line), (sizes[axis], *sizes)
    )
    place: list[Any] = [..., *[o for _, o in anchors]]
    place[1 + axis] = slice(None)
    y = _respond(probe, _each_tap(probe, taps), _all_channels(probe, x), axes, tuple(place))
    return np.moveaxis(y, 0, -1)


def _channels(probe: Probe) -> tuple[NDArray[np.bool_], int]:
    """Which input channel reaches which output channel, and in how many runs that was seen."""
    inputs, outputs = probe.channels
    anchors = _anchors(probe.least)
    codes = np.zeros((-(-inputs // _CODED), inputs), np.float32)
    channel = np.arange(inputs)
    codes[channel // _CODED, channel] = 2.0 ** (channel % _CODED)
    sizes = [axis.grid.inputs for axis in probe.least]
    x = np.broadcast_to(codes.reshape(*codes.shape, *[1] * len(sizes)), (*codes.shape, *sizes))
    weight = None
    if probe.nodes[-1].op_type not in RESIZES:
        kernel = [axis.window.taps for axis in probe.least]
        transposed = probe.nodes[-1].op_type == "ConvTranspose"
        ours, theirs = (inputs, outputs) if transposed else (outputs, inputs)
        weight = np.zeros((ours, theirs // probe.group, *kernel), np.float32)
        tap: Any = (..., *[k for k, _ in anchors])
        weight[tap] = 1
    place: Any = (..., *[o for _, o in anchors])
    y = _respond(probe, weight, x, probe.least, place)
    sums = np.rint(y).astype(np.int64)
    if np.abs(y - sums).max() > 0.25 or sums.min() < 0 or sums.max() >> _CODED:
        raise CheckError("ONNX Runtime adds a channel more than once, or in parts")
    digits = sums[..., np.newaxis] >> np.arange(_CODED) & 1
    return digits.swapaxes(0, 1).reshape(outputs, -1)[:, :inputs].astype(bool), len(codes)


def _anchors(axes: Sequence[AxisGeometry]) -> list[tuple[int, int]]:
    anchors = [axis.anchor for axis in axes]
    if None in anchors:
        raise InputError("no output pixel of the layer sees a whole input pixel")
    return [anchor for anchor in anchors if anchor is not None]


def _each_tap(probe: Probe, taps: Sequence[Sequence[int]] | None = None) -> Array | None:
    """Weights with one tap per output channel, in turn; one input channel per group."""
    if probe.nodes[-1].op_type in RESIZES:
        return None
    kernel = [axis.window.taps for axis in probe.axes]
    chosen = np.stack(np.meshgrid(*(taps or map(range, kernel)), indexing="ij"), -1)
    chosen = chosen.reshape(-1, len(kernel))
    outputs = -(-len(chosen) // probe.group) * probe.group
    weight = np.zeros((outputs, *kernel), np.float32)
    weight[(range(outputs), *chosen[np.arange(outputs) % len(chosen)].T)] = 1
    if probe.nodes[-1].op_type == "ConvTranspose":
        return weight.reshape(probe.group, -1, *kernel)
    return weight[:, np.newaxis]


def _all_channels(probe: Probe, x: Array) -> Array:
    """The same picture in as many channels as the weights of ``_each_tap`` read."""
    channels = 1 if probe.nodes[-1].op_type in RESIZES else probe.group
    return np.broadcast_to(x[:, np.newaxis], (len(x), channels, *x.shape[1:]))


def _respond(
    probe: Probe, weight: Array | None, x: Array, axes: Sequence[AxisGeometry], place: Any = ...
) -> Array:
    """Outputs, or what is at one place of each, for many inputs, a chunk at a time."""
    channels = x.shape[1]
    if weight is not None:
        transposed = probe.nodes[-1].op_type == "ConvTranspose"
        channels = weight.shape[1] * probe.group if transposed else len(weight)
    claimed = tuple(axis.window.outputs for axis in axes)
    image = math.prod(x.shape[1:]) + channels * math.prod(claimed)
    if image > _LARGEST:
        raise InputError("it shows its borders only on images that are too large to measure")
    chunk = min(len(x), max(1, _CHUNK // image))
    session = open_session(_cut_out(probe.nodes, weight, (chunk, *x.shape[1:])))
    results = []
    for first in range(0, len(x), chunk):
        part = np.zeros((chunk, *x.shape[1:]), np.float32)
        count = min(chunk, len(x) - first)
        part[:count] = x[first : first + count]
        [y] = run_session(session, {"x": part}).values()
        if y.shape[2:] != claimed:
            before, found, wanted = map(format_shape, (x.shape[2:], y.shape[2:], claimed))
            raise CheckError(
                f"ONNX Runtime makes {found} of {before} pixels, the attributes say {wanted}"
            )
        results.append(y[:count][place].copy())
    return np.concatenate(results)


def _cut_out(
    nodes: Sequence[ir.Node],
    weight: Array | None,
    shape: Sequence[int],
) -> ir.Model:
    """A model of these nodes alone, on an input "x" of a fixed shape."""
    opset = nodes[-1].version or 0
    graph = ir.Graph([], [], nodes=[], name="layer", opset_imports={"": opset})
    value = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.append(value)
    for index, node in enumerate(nodes):
        if any(attribute.is_ref() for attribute in node.attributes.values()):
            raise InputError("its attributes are parameters of a local function")
        operands: list[ir.Value | None] = []
        for position, array in enumerate(_operands(node, weight, shape), 1):
            operand = None
            if array is not None:
                name = f"{index}.{position}"
                operand = ir.Value(name=name, const_value=ir.tensor(array, name=name))
                graph.register_initializer(operand)
            operands.append(operand)
        cut = ir.Node(
            "", node.op_type, [value, *operands], node.attributes.values(), name=f"node_{index}"
        )
        value = cut.outputs[0]
        value.name = f"y_{index}"
        graph.append(cut)
    value.type = ir.TensorType(ir.DataType.FLOAT)
    value.shape = ir.Shape([None] * len(shape))
    graph.outputs.append(value)
    ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", opset)], True)
    return ir.Model(graph, ir_version=max(4, ir_version))


def _operands(
    node: ir.Node, weight: Array | None, shape: Sequence[int]
) -> list[NDArray[Any] | None]:
    """All inputs of a node after the first."""
    if node.op_type == "Pad":
        return [_constant(value) for value in node.inputs[1:]]
    if node.op_type not in RESIZES:
        return [weight]
    return [_resize_operand(node, index, shape) for index in range(1, len(node.inputs))]


def _resize_operand(node: ir.Node, index: int, shape: Sequence[int]) -> NDArray[Any] | None:
    """An input of a Resize; what the model computes for its own sizes is computed for these."""
    axes = node.attributes.get_ints("axes", range(len(shape)))
    scales = [resize_scales(node)[axis] or Fraction(1) for axis in axes]
    array = _constant(node.inputs[index])
    if node.inputs[index] is None:
        return None
    if index == _SIZES:
        return np.array([math.floor(shape[axis] * s) for axis, s in zip(axes, scales, strict=True)])
    if array is None and index == min(_SCALES, len(node.inputs) - 1):
        return np.array(scales, np.float32)
    return array


def _constant(value: ir.Value | None) -> NDArray[Any] | None:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()
