"""What the nodes of a layer say about each spatial axis, as exact axis operators.

A layer is a Conv or ConvTranspose, a Resize (Upsample in old opsets), or a Resize and perhaps a Pad
before a Conv. Nothing is run here: this is the claim that a measurement can hold ONNX Runtime to.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

import onnx_ir as ir

from advconv_onnx.algebra import axis as algebra
from advconv_onnx.algebra.axis import AxisOperator
from advconv_onnx.errors import InputError
from advconv_onnx.records import Dim, Shape

RESIZES = ("Resize", "Upsample")

_SUPPORT = {"nearest": 1, "linear": 2, "cubic": 4}


@dataclasses.dataclass(frozen=True, slots=True)
class AxisGeometry:
    """One spatial axis of a layer on an input of a chosen size.

    Attributes:
        grid: what the kernel slides over, made of the input: padded, spread out or enlarged.
        window: how it slides; a Resize alone has one tap, which sees each cell once.
        padding: cells of the grid before and after the image.
    """

    grid: AxisOperator
    window: AxisOperator
    padding: tuple[int, int]

    @property
    def operator(self) -> AxisOperator:
        """Both together, from input to output pixels."""
        return self.window.after(self.grid)

    @property
    def anchor(self) -> tuple[int, int] | None:
        """A tap and an output pixel where it sees a full pixel, in the middle if there is one."""
        rows = self.operator.rows
        full = [
            (k, o)
            for k, outputs in enumerate(rows)
            for o, row in enumerate(outputs)
            if sum(coefficient for _, coefficient in row) == 1
        ]
        return full[len(full) // 2] if full else None


def axis_geometry(nodes: Sequence[ir.Node], axis: int, size: int) -> AxisGeometry:
    """What a layer claims about its spatial ``axis`` on an input of ``size`` pixels.

    Raises:
        InputError: an attribute that is not understood, or depends on more than the size.
    """
    grid = algebra.pad(size, 0, 0)
    padding = (0, 0)
    for node in nodes:
        if node.op_type in RESIZES:
            grid = _resize(node, axis, size)
        elif node.op_type == "Pad":
            padding = _pad_amounts(node, axis)
            mode = node.attributes.get_string("mode", "constant")
            grid = algebra.pad(grid.outputs, *padding, mode).after(grid)
        elif node.op_type == "ConvTranspose":
            return _transposed(_Kernel.of(node, axis), size)
        else:
            return _convolution(_Kernel.of(node, axis), grid, padding)
    return AxisGeometry(grid, algebra.slide(grid.outputs, 1), padding)


def sample_size(nodes: Sequence[ir.Node], axis: int, size: Dim) -> int:
    """An input size, as small as shows the interior and both borders of a layer.

    It leaves the same rest behind a stride as ``size``, the model's own, where that is known.

    Raises:
        InputError: as ``axis_geometry``.
    """
    last = nodes[-1]
    if last.op_type == "ConvTranspose":
        kernel = _Kernel.of(last, axis)
        if kernel.output_size is None:
            return -(-kernel.extent // kernel.stride) + 2
        if not isinstance(size, int):
            raise InputError("its output_shape belongs to an input size that is unknown; fix it")
        return size
    scale = resize_scale(nodes[0], axis)
    least = 2 * _support(nodes[0]) + 2
    if last.op_type == "Conv":
        kernel = _Kernel.of(last, axis)
        least = kernel.extent + 2 * kernel.stride
    if nodes[0].op_type in RESIZES:
        least = max(math.ceil(least / scale), _support(nodes[0]) + 1)
        return least + -least % scale.denominator
    return least + (size - least) % kernel.stride if isinstance(size, int) else least


def least_size(nodes: Sequence[ir.Node], axis: int, sample: int) -> int:
    """The smallest input size on which some tap sees a full pixel, up to ``sample``."""
    if any("output_shape" in node.attributes for node in nodes):
        return sample
    step = resize_scale(nodes[0], axis).denominator
    sizes = range(step, sample, step)
    return next((n for n in sizes if axis_geometry(nodes, axis, n).anchor), sample)


def _convolution(kernel: _Kernel, grid: AxisOperator, around: tuple[int, int]) -> AxisGeometry:
    begin, end = kernel.pads
    if kernel.auto_pad.startswith("SAME"):
        n = grid.outputs
        total = (-(-n // kernel.stride) - 1) * kernel.stride + kernel.extent - n
        begin, end = kernel.split(max(0, total))
    grid = algebra.pad(grid.outputs, begin, end).after(grid)
    window = algebra.slide(
        grid.outputs, kernel.taps, stride=kernel.stride, dilation=kernel.dilation
    )
    return AxisGeometry(grid, window, (begin + around[0], end + around[1]))


def _transposed(kernel: _Kernel, size: int) -> AxisGeometry:
    begin, end = kernel.pads
    extra = kernel.output_padding
    wanted = kernel.output_size
    if wanted is None and kernel.auto_pad.startswith("SAME"):
        wanted = size * kernel.stride
    if wanted is not None:
        full = (size - 1) * kernel.stride + kernel.extent + extra
        begin, end = kernel.split(max(0, full - wanted))
        extra += max(0, wanted - full)
    grid = algebra.spread(
        size,
        kernel.taps,
        stride=kernel.stride,
        dilation=kernel.dilation,
        pads=(begin, end),
        output_padding=extra,
    )
    window = algebra.slide(grid.outputs, kernel.taps, dilation=kernel.dilation).reversed()
    reach = kernel.extent - 1
    return AxisGeometry(grid, window, (max(0, reach - begin), max(0, reach - end + extra)))


@dataclasses.dataclass(frozen=True, slots=True)
class _Kernel:
    """One axis of a Conv or ConvTranspose, defaults filled in."""

    taps: int
    stride: int
    dilation: int
    pads: tuple[int, int]
    auto_pad: str
    output_padding: int
    output_size: int | None

    @classmethod
    def of(cls, node: ir.Node, axis: int) -> _Kernel:
        attributes = node.attributes
        kernel = (shape_of(node.inputs[1]) or ())[2:]
        rank, taps = len(kernel), (*kernel, None)[axis]
        if not isinstance(taps, int):
            raise InputError("the shape of its weight is unknown")
        pads = attributes.get_ints("pads", [0] * 2 * rank)
        auto_pad = attributes.get_string("auto_pad", "NOTSET")
        output_shape = attributes.get_ints("output_shape")
        return cls(
            taps=taps,
            stride=attributes.get_ints("strides", [1] * rank)[axis],
            dilation=attributes.get_ints("dilations", [1] * rank)[axis],
            pads=(pads[axis], pads[axis + rank]) if auto_pad in ("NOTSET", "") else (0, 0),
            auto_pad=auto_pad,
            output_padding=attributes.get_ints("output_padding", [0] * rank)[axis],
            output_size=output_shape[axis - rank] if output_shape else None,
        )

    @property
    def extent(self) -> int:
        return (self.taps - 1) * self.dilation + 1

    def split(self, total: int) -> tuple[int, int]:
        """Divide padding between begin and end; SAME_UPPER alone has the larger half at the end."""
        small, large = total // 2, total - total // 2
        return (small, large) if self.auto_pad == "SAME_UPPER" else (large, small)


def _resize(node: ir.Node, axis: int, size: int) -> AxisOperator:
    attributes = node.attributes
    coordinates, rounding = "asymmetric", "floor"
    # Only before opset 11 are there no more than two inputs, and these attributes have no effect.
    if len(node.inputs) > 2:
        coordinates = attributes.get_string("coordinate_transformation_mode", "half_pixel")
        rounding = attributes.get_string("nearest_mode", "round_prefer_floor")
    _check_resize(node, coordinates)
    return algebra.resize(
        size,
        scale=resize_scale(node, axis),
        mode=attributes.get_string("mode", "nearest"),
        coordinates=coordinates,
        rounding=rounding,
        cubic_coefficient=Fraction(attributes.get_float("cubic_coeff_a", -0.75)),
        exclude_outside=bool(attributes.get_int("exclude_outside", 0)),
    )


def _check_resize(node: ir.Node, coordinates: str) -> None:
    if coordinates not in algebra.COORDINATES:
        raise InputError(f"its coordinate_transformation_mode={coordinates} reads a region")
    if node.attributes.get_int("antialias", 0):
        raise InputError("its antialias=1 is not described by fixed coefficients here")
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise InputError("its keep_aspect_ratio_policy makes the scale depend on all sizes")
    if any(scale != 1 for scale in resize_scales(node)[:2]):
        raise InputError("it resizes batch or channels")


def _support(node: ir.Node) -> int:
    return _SUPPORT.get(node.attributes.get_string("mode", "nearest"), 1)


def resize_scale(node: ir.Node, axis: int) -> Fraction:
    """Factor by which a node enlarges a spatial axis: 1 unless it is a Resize.

    Raises:
        InputError: it is unknown.
    """
    if node.op_type not in RESIZES:
        return Fraction(1)
    scales = resize_scales(node)
    scale = scales[2 + axis] if scales else None
    if scale is None:
        raise InputError("its scale depends on sizes that are unknown; fix them")
    return scale


def resize_scales(node: ir.Node) -> tuple[Fraction | None, ...]:
    """Factor by which a Resize or Upsample enlarges each dimension, None where unknown."""
    before, after = shape_of(node.inputs[0]) or (), shape_of(node.outputs[0]) or ()
    given = constants(node, "scales", min(2, len(node.inputs) - 1))
    if given:
        axes = node.attributes.get_ints("axes", range(len(given)))
        rank = len(before) or len(given)
        factors = dict.fromkeys(range(rank), Fraction(1))
        for axis, factor in zip(axes, given, strict=True):
            factors[axis % rank] = Fraction(factor).limit_denominator(1000)
        return tuple(factors.values())
    return tuple(map(_ratio, after, before))


def _ratio(after: Dim, before: Dim) -> Fraction | None:
    if isinstance(after, int) and isinstance(before, int) and after and before:
        return Fraction(after, before)
    return Fraction(1) if after is not None and after == before else None


def _pad_amounts(node: ir.Node, axis: int) -> tuple[int, int]:
    """Cells that a Pad adds to a spatial axis; negative ones cut."""
    pads = [int(number) for number in constants(node, "pads", 1)]
    rank = len(shape_of(node.inputs[0]) or ()) or len(pads) // 2
    axes = [int(number) % rank for number in constants(node, "axes", 3)] or list(range(rank))
    if not pads or len(pads) != 2 * len(axes):
        raise InputError("the amounts of its Pad are computed when the model runs")
    amounts = dict(zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
    if any(any(amounts.get(outer, ())) for outer in (0, 1)):
        raise InputError("its Pad changes batch or channels")
    values = constants(node, "value", 2)
    if node.attributes.get_string("mode", "constant") == "constant" and any(values):
        raise InputError(f"its Pad adds {values[0]:g} instead of zeros")
    return amounts.get(2 + axis, (0, 0))


def constants(node: ir.Node, name: str, index: int) -> list[float]:
    """Numbers given as an attribute in older opsets, as a constant input since; else empty."""
    if name in node.attributes:
        value = node.attributes[name].value
        return [float(number) for number in (value if isinstance(value, Sequence) else [value])]
    value = node.inputs[index] if 0 <= index < len(node.inputs) else None
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return [] if tensor is None else tensor.numpy().ravel().tolist()


def shape_of(value: ir.Value | None) -> Shape | None:
    """Shape of a value, of its constant where it has one; None where unknown."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    shape = value.shape if tensor is None else tensor.shape
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else _symbol(dim.value) for dim in shape)


def _symbol(name: str | None) -> str | None:
    """The model's own name of a size; those that shape inference makes up tell nobody anything."""
    return None if name is None or name.startswith("unk__") else name
