"""What ONNX Runtime does with a layer, found by impulses: which pixel and channel reaches which.

The layer's nodes are cut out with all their attributes, in float32, without bias, and with weights
and inputs of our own:

1. Along one axis: a weight of one tap per output channel, and inputs that are one bright line
   each. Output channels then show, tap by tap, the axis operator itself.
2. Along all axes at once: a kernel and inputs of random numbers, so that an output pixel that sees
   anything but what the axes say together is caught.
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

_STEPS = 8
"""Random numbers are multiples of one part in so many, so that float32 adds them exactly."""

_CHUNK = 1 << 24
"""Elements of inputs and outputs, or of weights, held at once, if one alone does not have more."""

_LARGEST = 1 << 26
"""Elements beyond which one input with its output, or all that is kept, is not tried."""

_LONGEST = 1 << 37
"""Multiplications beyond which they are not tried: some seconds."""

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
        kernel: the random weights of each group; 1 for a Resize.
        inputs: the random inputs (samples, *size).
        outputs: what both gave (samples, groups, *size).
        channels: whether (output channel, input channel) are connected.
        onnxruntime: version of ONNX Runtime.
        runs: inputs that were tried.
    """

    axes: tuple[Array, ...]
    kernel: Array
    inputs: Array
    outputs: Array
    channels: NDArray[np.bool_]
    onnxruntime: str
    runs: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """Inputs to try with one set of weights.

    Attributes:
        weight: of our own; None for a Resize.
        x: inputs (samples, channels, *size).
        axes: what the nodes say on inputs of this size.
        place: what to keep of the outputs.
    """

    weight: Array | None
    x: Array
    axes: tuple[AxisGeometry, ...]
    place: Any = ...


def measure(probe: Probe) -> Responses:
    """Measure a layer.

    Raises:
        InputError: the nodes are parts of a local function and depend on how it is called, or
            would take too much memory or time.
        CheckError: ONNX Runtime does not run them, or makes outputs of another size.
    """
    rng = np.random.default_rng(_SEED)
    kernel = _random(rng, [axis.window.taps for axis in probe.axes])
    if probe.nodes[-1].op_type in RESIZES:
        kernel = np.ones_like(kernel)
    inputs = _random(rng, (2, *(axis.grid.inputs for axis in probe.axes)))
    steps = [
        *(_lines(probe, axis) for axis in range(len(probe.axes))),
        _together(probe, kernel, inputs),
        _channels(probe),
    ]
    for step in steps:
        _refuse_large(probe, step)
    *lines, outputs, sums = (_respond(probe, step) for step in steps)
    return Responses(
        axes=tuple(np.moveaxis(y, 0, -1) for y in lines),
        kernel=kernel,
        inputs=inputs,
        outputs=outputs,
        channels=_connections(sums, probe.channels[0]),
        onnxruntime=ort.__version__,
        runs=sum(len(step.x) for step in steps),
    )


def _random(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """Numbers from -1 to 1, none of them zero."""
    signs = rng.choice((-1, 1), shape)
    numbers: Array = (signs * rng.integers(1, _STEPS, shape, endpoint=True)).astype(np.float32)
    return numbers / np.float32(_STEPS)


def _lines(probe: Probe, axis: int) -> _Step:
    """A bright line across each position of one axis, seen through its taps one by one."""
    axes = [*probe.least]
    axes[axis] = probe.axes[axis]
    anchors = _anchors(axes)
    sizes = [each.grid.inputs for each in axes]
    line = [n if each == axis else 1 for each, n in enumerate(sizes)]
    x = np.broadcast_to(
        np.eye(sizes[axis], dtype=np.float32).reshape(-1, *line), (sizes[axis], *sizes)
    )
    place: list[Any] = [..., *[o for _, o in anchors]]
    place[1 + axis] = slice(None)
    weight = None
    if probe.nodes[-1].op_type not in RESIZES:
        kernel = [each.window.taps for each in axes]
        outputs = -(-kernel[axis] // probe.group) * probe.group
        weight = np.zeros((outputs, *kernel), np.float32)
        taps: list[Any] = [range(outputs), *[k for k, _ in anchors]]
        taps[1 + axis] = np.arange(outputs) % kernel[axis]
        weight[tuple(taps)] = 1
    return _Step(_of_groups(probe, weight), _all_channels(probe, x), tuple(axes), tuple(place))


def _together(probe: Probe, kernel: Array, inputs: Array) -> _Step:
    """Random images, seen through one kernel of random weights, the same in all groups."""
    weight = None
    if probe.nodes[-1].op_type not in RESIZES:
        weight = np.broadcast_to(kernel, (probe.group, *kernel.shape))
    return _Step(_of_groups(probe, weight), _all_channels(probe, inputs), probe.axes)


def _channels(probe: Probe) -> _Step:
    """Channels that each are one binary digit, all added up by those that read them."""
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
        ours, theirs = (inputs, outputs) if _transposed(probe) else (outputs, inputs)
        weight = np.zeros((ours, theirs // probe.group, *kernel), np.float32)
        tap: Any = (..., *[k for k, _ in anchors])
        weight[tap] = 1
    return _Step(weight, x, probe.least, (..., *[o for _, o in anchors]))


def _connections(sums: Array, inputs: int) -> NDArray[np.bool_]:
    """Which (output channel, input channel) are connected, from the outputs of ``_channels``."""
    whole = np.rint(sums)
    if np.abs(sums - whole).max() > 0.25 or whole.min() < 0 or whole.max() >= 1 << _CODED:
        raise CheckError("ONNX Runtime adds a channel more than once, or in parts")
    codes = whole.T.astype("<u2", order="C")
    digits = np.unpackbits(codes.view(np.uint8), axis=1, count=inputs, bitorder="little")
    return digits.view(np.bool_)


def _anchors(axes: Sequence[AxisGeometry]) -> list[tuple[int, int]]:
    anchors = [axis.anchor for axis in axes]
    if None in anchors:
        raise InputError("no output pixel of the layer sees a whole input pixel")
    return [anchor for anchor in anchors if anchor is not None]


def _transposed(probe: Probe) -> bool:
    return probe.nodes[-1].op_type == "ConvTranspose"


def _of_groups(probe: Probe, kernels: Array | None) -> Array | None:
    """Kernels of one output channel each as a weight; one input channel per group."""
    if kernels is None:
        return None
    if _transposed(probe):
        return kernels.reshape(probe.group, -1, *kernels.shape[1:])
    return kernels[:, np.newaxis]


def _all_channels(probe: Probe, x: Array) -> Array:
    """The same picture in as many channels as the weights of ``_of_groups`` read."""
    channels = 1 if probe.nodes[-1].op_type in RESIZES else probe.group
    return np.broadcast_to(x[:, np.newaxis], (len(x), channels, *x.shape[1:]))


def _refuse_large(probe: Probe, step: _Step) -> None:
    """Raise an InputError for a step that would take gigabytes or minutes."""
    samples, channels, *size = step.x.shape
    if step.weight is not None and _transposed(probe):
        # ONNX Runtime holds what each pixel adds to the output through each tap.
        spread = step.weight[0].size * math.prod(size)
        work = samples * channels * spread
    else:
        spread = 0
        taps = 1 if step.weight is None else step.weight[0].size
        work = samples * taps * _output_elements(probe, step)
    kept = samples * _output_elements(probe, step)
    if step.place is not ...:
        kept //= math.prod(
            axis.window.outputs
            for axis, chosen in zip(step.axes, step.place[1:], strict=True)
            if isinstance(chosen, int)
        )
    held = math.prod(step.x.shape[1:]) + _output_elements(probe, step) + spread
    # What is kept is compared in float64.
    if max(held, 2 * kept) > _LARGEST or work > _LONGEST:
        raise InputError(
            f"it is too large to measure: {held + kept:.1g} numbers at once, {work:.1g} "
            "multiplications; inspect describes it without a card"
        )


def _output_elements(probe: Probe, step: _Step) -> int:
    """Of one input."""
    channels: int = step.x.shape[1]
    if step.weight is not None:
        channels = step.weight.shape[1] * probe.group if _transposed(probe) else len(step.weight)
    return channels * math.prod(axis.window.outputs for axis in step.axes)


def _respond(probe: Probe, step: _Step) -> Array:
    """Outputs, or what is at one place of each, a chunk of the output channels at a time."""
    if step.weight is None or probe.group > 1:
        return _run(probe, step)
    axis = 1 if _transposed(probe) else 0
    count = min(-(-step.weight.size // _CHUNK), step.weight.shape[axis])
    parts = np.array_split(step.weight, count, axis)
    return np.concatenate(
        [_run(probe, dataclasses.replace(step, weight=part)) for part in parts], axis=1
    )


def _run(probe: Probe, step: _Step) -> Array:
    """The same for all output channels, a chunk of the inputs at a time."""
    x = step.x
    claimed = tuple(axis.window.outputs for axis in step.axes)
    image = math.prod(x.shape[1:]) + _output_elements(probe, step)
    chunk = min(len(x), max(1, _CHUNK // image))
    session = open_session(_cut_out(probe.nodes, step.weight, (chunk, *x.shape[1:])))
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
        results.append(y[:count][step.place].copy())
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
