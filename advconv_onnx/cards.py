"""A layer explained: what its attributes claim, held against what ONNX Runtime does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from advconv_onnx.algebra.axis import AxisOperator
from advconv_onnx.costs import convolution_costs
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.geometry import (
    RESIZES,
    AxisGeometry,
    axis_geometry,
    least_size,
    resize_scale,
    sample_size,
    shape_of,
)
from advconv_onnx.inspection import find
from advconv_onnx.records import (
    AxisPattern,
    ChannelBlock,
    Costs,
    Impulses,
    Layer,
    LayerCard,
    Shape,
)
from advconv_onnx.runtime.impulses import TOLERANCE, Probe, Responses, measure

_UNKNOWN_CHANNELS = 4
"""Channels to measure a Resize with where its own are unknown: it treats all alike."""


def card(model: ir.Model, name: str) -> LayerCard:
    """Measure one layer of a model, which stays as it is, and describe it.

    Args:
        model: any model.
        name: a convolution as ``inspect`` lists it, or a Resize.

    Raises:
        InputError: there is no such layer, or one of a kind that cannot be measured.
        CheckError: ONNX Runtime does something else than the layer's attributes say.
    """
    layer, nodes = find(model, name)
    try:
        probe = probe_of(layer, nodes)
        responses = measure(probe)
        difference = compare(probe, responses)
    except (InputError, CheckError) as error:
        raise type(error)(f"layer '{layer.name}': {error}") from error
    costs, dense = _costs(layer, nodes, probe)
    return LayerCard(
        layer=layer,
        channels=probe.channels,
        axes=tuple(map(_pattern, probe.axes)),
        blocks=tuple(_blocks(responses.channels)),
        field=tuple(map(_field, responses.axes)),
        interpolation=_interpolation(nodes[0]),
        scales=tuple(float(resize_scale(nodes[0], axis)) for axis in range(len(probe.axes))),
        costs=costs,
        dense=dense,
        impulses=Impulses(responses.onnxruntime, responses.runs, difference),
    )


def probe_of(layer: Layer, nodes: tuple[ir.Node, ...]) -> Probe:
    """What to measure of a layer, and what its attributes claim.

    Raises:
        InputError: a quantized layer, or attributes that do not tell what it does.
    """
    last = nodes[-1]
    if last.op_type not in ("Conv", "ConvTranspose", *RESIZES):
        raise InputError(
            f"{last.op_type} computes in integers, which impulses do not measure; take the model "
            "before it was quantized"
        )
    channels = _channels(layer, last)
    image = shape_of(nodes[0].inputs[0])
    rank = len(shape_of(last.inputs[1]) or ()) if last.op_type not in RESIZES else len(image or ())
    known = image[2:] if image is not None else (None,) * (rank - 2)
    if not 1 <= len(known) <= 3:
        raise InputError("its spatial axes are unknown, or more than three")
    sizes = [sample_size(nodes, axis, dim) for axis, dim in enumerate(known)]
    least = [least_size(nodes, axis, size) for axis, size in enumerate(sizes)]
    return Probe(
        nodes=nodes,
        channels=channels,
        axes=tuple(axis_geometry(nodes, axis, n) for axis, n in enumerate(sizes)),
        least=tuple(axis_geometry(nodes, axis, n) for axis, n in enumerate(least)),
    )


def _channels(layer: Layer, node: ir.Node) -> tuple[int, int]:
    if node.op_type in RESIZES:
        known = layer.input_shape[1] if layer.input_shape else None
        return (known if isinstance(known, int) else _UNKNOWN_CHANNELS,) * 2
    ours, theirs = (*(shape_of(node.inputs[1]) or ()), None, None)[:2]
    if not isinstance(ours, int) or not isinstance(theirs, int):
        raise InputError("the shape of its weight is unknown")
    theirs *= layer.group
    return (ours, theirs) if node.op_type == "ConvTranspose" else (theirs, ours)


def compare(probe: Probe, responses: Responses) -> float:
    """The largest difference of a measurement from what the attributes of a layer claim.

    Raises:
        CheckError: it is more than rounding; the message names the first pixel or channel.
    """
    # Where it interpolates, ONNX Runtime rounds coordinates, which are as large as the image.
    tolerance = max(TOLERANCE, *(axis.grid.inputs * 2.0**-21 for axis in probe.axes))
    differences = [0.0]
    operators = [axis.operator for axis in probe.axes]
    # An axis that shows nothing at all is not the one at fault: the line missed another axis.
    for axis in sorted(range(len(operators)), key=lambda axis: not responses.axes[axis].any()):
        operator, found = operators[axis], responses.axes[axis]
        for k, rows in enumerate(operator.rows):
            claimed = AxisOperator(operator.inputs, (rows,)).dense()[0]
            seen = found[k :: operator.taps]
            apart = np.abs(seen - claimed)
            differences.append(apart.max(initial=0.0))
            if differences[-1] > tolerance:
                m, o, i = np.argwhere(apart > tolerance)[0]
                raise CheckError(
                    f"in ONNX Runtime output pixel {o} of spatial axis {axis} takes "
                    f"{seen[m, o, i]:g} of input pixel {i} through tap {k}, the attributes say "
                    f"{claimed[o, i]:g}"
                )
    dense = [operator.dense() for operator in operators]
    expected = _together(dense, responses.kernel, responses.inputs.astype(np.float64))
    # So much do differences of single coefficients add up to.
    apart = np.abs(responses.outputs - expected[:, np.newaxis]) / responses.kernel.size**0.5
    differences.append(apart.max(initial=0.0))
    if differences[-1] > tolerance:
        place = np.argwhere(apart > tolerance)[0].tolist()[2:]
        raise CheckError(
            f"in ONNX Runtime output pixel {place} does not see what the axes say together"
        )
    _compare_channels(probe, responses.channels)
    return float(max(differences))


def _together(
    operators: Sequence[NDArray[np.float64]],
    kernel: NDArray[np.float32],
    images: NDArray[np.float64],
) -> NDArray[np.float64]:
    """What images (samples, *size) become by a kernel and all axes: (samples, *size)."""
    first, *others = operators
    if not others:
        return np.tensordot(images, np.tensordot(kernel, first, 1), (1, 1))
    # Tap by tap of this axis: those of all axes at once may be gigabytes.
    total: NDArray[np.float64] = np.zeros(())
    for weights, tap in zip(kernel, first, strict=True):
        lines = np.moveaxis(np.tensordot(images, tap, (1, 1)), -1, 1)
        total = total + _together(others, weights, lines.reshape(-1, *lines.shape[2:]))
    return total.reshape(len(images), -1, *total.shape[1:])


def _compare_channels(probe: Probe, found: NDArray[np.bool_]) -> None:
    inputs, outputs = probe.channels
    groups = [np.arange(count) // (count // probe.group) for count in (outputs, inputs)]
    wrong = np.argwhere(found != np.equal.outer(*groups))
    if len(wrong):
        m, c = wrong[0]
        reads = "reads" if found[m, c] else "does not read"
        raise CheckError(
            f"in ONNX Runtime output channel {m} {reads} input channel {c}, "
            f"{probe.group} groups say otherwise"
        )


def _pattern(axis: AxisGeometry) -> AxisPattern:
    [cells] = axis.grid.rows
    windows = tuple(
        tuple(row[0][0] for row in rows) for rows in zip(*axis.window.rows, strict=True)
    )
    begin, end = axis.padding
    image = range(begin, len(cells) - end)
    inside = [o for o, window in enumerate(windows) if {*window} <= {*image}]
    return AxisPattern(
        pixels=axis.grid.inputs,
        cells=tuple(tuple((i, float(weight)) for i, weight in cell) for cell in cells),
        padding=axis.padding,
        windows=windows,
        interior=(inside or range(len(windows)))[len(inside or windows) // 2],
    )


def _blocks(channels: NDArray[np.bool_]) -> Iterator[ChannelBlock]:
    """The connections as rectangles: neighbouring output channels that read the same."""
    changes = np.flatnonzero((channels[1:] != channels[:-1]).any(axis=1)) + 1
    for first, last in itertools.pairwise([0, *changes.tolist(), len(channels)]):
        edges = np.flatnonzero(np.diff(channels[first], prepend=False, append=False))
        for begin, end in edges.reshape(-1, 2).tolist():
            yield ChannelBlock((first, last), (begin, end))


def _field(response: NDArray[np.float32]) -> int:
    """Extent of the pixels that reach an output pixel, for the one that sees most."""
    reached: NDArray[np.bool_] = np.any(np.abs(response) > TOLERANCE, axis=0)
    extents = [int(np.ptp(np.flatnonzero(row))) + 1 for row in reached if row.any()]
    return max(extents, default=0)


def _interpolation(node: ir.Node) -> str:
    return node.attributes.get_string("mode", "nearest") if node.op_type in RESIZES else ""


def _costs(layer: Layer, nodes: Sequence[ir.Node], probe: Probe) -> tuple[Costs, Costs | None]:
    """Costs of one image, in the layer and in its dense counterpart."""
    last = nodes[-1]
    image, output = (_one(shape_of(value)) for value in (last.inputs[0], last.outputs[0]))
    dtype = last.outputs[0].dtype
    itemsize = dtype.itemsize if dtype is not None else 4
    if layer.kernel_shape is None:
        moved = convolution_costs(image, (0,), output, itemsizes=(itemsize,) * 3)
        return Costs(0, 0, moved.bytes), None
    inputs, outputs = probe.channels
    weight = shape_of(last.inputs[1])
    bias = outputs if len(last.inputs) > 2 and last.inputs[2] is not None else 0
    own, dense = (
        convolution_costs(
            image, shape, output, bias=bias, transposed=transposed, itemsizes=(itemsize,) * 3
        )
        for shape, transposed in (
            (weight, last.op_type == "ConvTranspose"),
            ((outputs, inputs, *(layer.effective_kernel or ())), False),
        )
    )
    return own, dense


def _one(shape: Shape | None) -> Shape | None:
    return None if shape is None else (1, *shape[1:])
